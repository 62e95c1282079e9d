"""The kind of entry that makes an engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..core.kinds import Entry, Kind

if TYPE_CHECKING:
    from .engine import Engine

Function = TypeVar("Function", bound="Callable[..., Engine]")


@dataclass(frozen=True, kw_only=True)
class EngineEntry(Entry):
    """A registered engine. `function(source, seed, **options)` opens it with the weights that `source` names.

    seed: for an engine whose rows cannot have seeds of their own. needs: packages that must be installed. close: frees
    what an opened engine holds, for a stage that needs the memory.
    """

    close: Callable[[], None] | None = None


ENGINES: Kind[EngineEntry] = Kind(
    "engines",
    "engine",
    __package__ or "",
    "apportion sample --engine {name} -o OUT",
    lambda name: None if name == "auto" else name,
    "--engine-set",
)


def engine(
    name: str, *, needs: tuple[str, ...] = (), close: Callable[[], None] | None = None
) -> Callable[[Function], Function]:
    """Register the function that opens an engine. Its keyword-only parameters become `--engine-set` options."""
    return ENGINES.adder(EngineEntry, name=name, needs=needs, close=close)
