"""Tasks that are played: games, and other tasks' problems with a tool at hand. See stages/environments."""

from collections.abc import Callable, Mapping
from typing import Any

from ....formats.errors import UsageError, unknown
from ..kind import Task, task_family

Opener = Callable[[str, Mapping[str, Any]], Task]


def _frozen_lake(spec: str, options: Mapping[str, Any]) -> Task:
    from .frozen_lake import open_frozen_lake

    return open_frozen_lake(spec, options)


def _key_door(spec: str, options: Mapping[str, Any]) -> Task:
    from . import needed

    needed("gymnasium", spec)
    from ._key_door import open_key_door

    return open_key_door(spec, options)


def _calculator(spec: str, options: Mapping[str, Any]) -> Task:
    from .calculator import CALCULATOR
    from .tools import open_tool

    return open_tool(spec, options, CALCULATOR)


def _search(spec: str, options: Mapping[str, Any]) -> Task:
    from ._search import search_box
    from .tools import open_tool

    return open_tool(spec, options, *search_box(spec, options))


GAMES: Mapping[str, Opener] = {"frozen_lake": _frozen_lake, "key_door": _key_door}
TOOLS: Mapping[str, Opener] = {"calculator": _calculator, "search": _search}


@task_family("env", members=lambda: GAMES, played=True)
def open_game(spec: str, options: Mapping[str, Any]) -> Task:
    """A game played turn by turn: frozen_lake or key_door."""
    return _member(spec, "game", GAMES)(spec, options)


@task_family("tool", members=lambda: TOOLS, played=True)
def open_with_tool(spec: str, options: Mapping[str, Any]) -> Task:
    """The problems of=TASK with a tool at hand: calculator or search."""
    return _member(spec, "tool", TOOLS)(spec, options)


def _member(spec: str, what: str, members: Mapping[str, Opener]) -> Opener:
    """UsageError where the spec names none."""
    family, _, member = spec.partition("/")
    if not member:
        raise UsageError(f"task {spec!r} must name a {what}: {', '.join(f'{family}/{each}' for each in members)}")
    if member not in members:
        raise unknown(what, member, members)
    return members[member]
