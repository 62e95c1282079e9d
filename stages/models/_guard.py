"""Turn whatever an engine raises into a one-line error, so that completed samples are kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...formats.errors import ApportionError
from ..core.extras import missing_extra
from .engine import Completion, EngineDefaults, EngineLost, Request, Sampling, Usage


class Guarded:
    """An engine that raises only ApportionErrors, with defaults for what a plugin's engine lacks of the protocol."""

    def __init__(self, engine: Any):
        self.engine = engine

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return self.engine.name

    @property
    def version(self) -> str:
        """See `Engine.version`."""
        return self.engine.version

    @property
    def identity(self) -> str:
        """See `Engine.identity`."""
        return self.engine.identity

    @property
    def row_seeds(self) -> bool:
        """See `Engine.row_seeds`."""
        return self.engine.row_seeds

    @property
    def tokens_exact(self) -> bool:
        """See `Engine.tokens_exact`."""
        return self.engine.tokens_exact

    @property
    def can_fail(self) -> bool:
        """See `Engine.can_fail`."""
        return getattr(self.engine, "can_fail", EngineDefaults.can_fail)

    @property
    def context(self) -> int | None:
        """See `Engine.context`."""
        return getattr(self.engine, "context", EngineDefaults.context)

    @property
    def usage(self) -> Usage | None:
        """See `Engine.usage`."""
        return getattr(self.engine, "usage", EngineDefaults.usage)

    def forget(self) -> None:
        """See `Engine.forget`."""
        getattr(self.engine, "forget", EngineDefaults().forget)()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. EngineLost for any exception that is not an ApportionError."""
        with engine_faults(self.name, "failed while sampling"):
            return self.engine.generate(requests, sampling, on_progress)


@contextmanager
def engine_faults(name: str, what: str) -> Iterator[None]:
    """Raise EngineLost for anything but an ApportionError: a library or a server may raise whatever it likes."""
    try:
        yield
    except ApportionError:
        raise
    except Exception as error:
        if missing := missing_extra(error):
            raise missing from error
        raise EngineLost(f"engine {name!r} {what} ({describe_error(error)})") from error


def describe_error(error: BaseException) -> str:
    """An exception on one line: its type and the beginning of its message."""
    try:
        said = " ".join(str(error).split())[:300]
    except Exception:  # the exception may hold something too deep to print
        said = ""
    kind = type(error).__name__
    return f"{kind}: {said}" if said else kind
