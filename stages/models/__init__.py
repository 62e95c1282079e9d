"""Policies, and the engines that sample from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:
    from .engine import Engine
    from .policy import Policy


@dataclass(frozen=True)
class EngineEntry:
    """A registered engine. `open(policy)` makes it ready for that policy's weights."""

    name: str
    summary: str
    needs: tuple[str, ...]
    open: "Callable[[Policy], Engine]"


ENGINES: Registry[EngineEntry] = Registry("engine", __name__, "engines")


def open_engine(name: str, policy: "Policy") -> "Engine":
    """The engine of that name for a policy; `auto` is transformers."""
    return ENGINES["transformers" if name == "auto" else name].open(policy)
