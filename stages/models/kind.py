"""What an engine's entry is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..core.kinds import Entry, Kind

if TYPE_CHECKING:
    from .engine import Engine

Function = TypeVar("Function", bound="Callable[..., Engine]")


@dataclass(frozen=True, kw_only=True)
class EngineEntry(Entry):
    """`function(source, seed, **options)` makes the engine ready for the weights that `source` names.

    seed: for an engine whose rows cannot have their own. needs: the packages that have to be installed. close: frees what
    an opened engine holds, for a stage that needs the memory.
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
    """Register the function that opens an engine; its keyword-only parameters become `--engine-set` options."""

    def register(function: Function) -> Function:
        ENGINES.add(EngineEntry(name=name, function=function, needs=needs, close=close))
        return function

    return register
