"""Whatever an engine raises is the engine's fault, on one line, and what was sampled before it is kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...formats.errors import ApportionError
from .engine import Completion, Engine, EngineLost, Request, Sampling


class Guarded:
    """An engine that raises only ApportionError; all else is as the engine has it."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. EngineLost for what the engine does not know as a fault."""
        with engine_faults(self.engine.name, "failed while it sampled"):
            return self.engine.generate(requests, sampling, on_progress)


@contextmanager
def engine_faults(name: str, what: str) -> Iterator[None]:
    """EngineLost in place of anything but an ApportionError: a library or a server may raise whatever it likes."""
    try:
        yield
    except ApportionError:
        raise
    except Exception as error:
        raise EngineLost(f"engine {name!r} {what} ({described(error)})") from error


def described(error: BaseException) -> str:
    """A fault on one line: its kind, and the beginning of what it says."""
    try:
        said = " ".join(str(error).split())[:300]
    except Exception:  # what it holds may be too deep to be written
        said = ""
    kind = type(error).__name__
    return f"{kind}: {said}" if said else kind
