"""What an engine's entry is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.registry import Registry

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class EngineEntry:
    """A registered engine. `open(source, seed, **options)` makes it ready for the weights that `source` names.

    open: its keyword-only parameters are the engine's options. seed: for an engine whose rows cannot have their own.
    needs: the packages that have to be installed. close: frees what an opened engine holds, for a stage that needs the
    memory.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    open: "Callable[..., Engine]"
    close: Callable[[], None] | None = None


ENGINES: Registry[EngineEntry] = Registry("engine", __package__ or "", "engines")
