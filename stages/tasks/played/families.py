"""Tasks that are played: games, and other tasks' problems with a tool at hand. See stages/environments."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ....formats.errors import UsageError, unknown
from .. import TASKS, Task, TaskFamily

Opener = Callable[[str, Mapping[str, Any]], Task]


def _frozen_lake(spec: str, options: Mapping[str, Any]) -> Task:
    from .frozen_lake import open_frozen_lake

    return open_frozen_lake(spec, options)


def _key_door(spec: str, options: Mapping[str, Any]) -> Task:
    from . import needed

    needed("gymnasium", spec)
    from .key_door import open_key_door

    return open_key_door(spec, options)


def _calculator(spec: str, options: Mapping[str, Any]) -> Task:
    from .calculator import CALCULATOR
    from .tools import open_tool

    return open_tool(spec, options, CALCULATOR)


def _search(spec: str, options: Mapping[str, Any]) -> Task:
    from .search import search_box
    from .tools import open_tool

    return open_tool(spec, options, *search_box(spec, options))


GAMES: Mapping[str, Opener] = {"frozen_lake": _frozen_lake, "key_door": _key_door}
TOOLS: Mapping[str, Opener] = {"calculator": _calculator, "search": _search}


def _family(name: str, summary: str, what: str, members: Mapping[str, Opener]) -> TaskFamily:
    def opened(spec: str, options: Mapping[str, Any]) -> Task:
        member = spec.partition("/")[2]
        if not member:
            raise UsageError(f"task {spec!r}: needed is {what}: {', '.join(f'{name}/{each}' for each in members)}")
        if member not in members:
            raise unknown(what.removeprefix("a "), member, members)
        return members[member](spec, options)

    def names() -> Iterable[str]:
        return members

    return TaskFamily(name, summary, opened, members=names)


TASKS.add(_family("env", "A game played turn by turn: frozen_lake or key_door", "a game", GAMES))
TASKS.add(_family("tool", "The problems of=TASK with a tool at hand: calculator or search", "a tool", TOOLS))
