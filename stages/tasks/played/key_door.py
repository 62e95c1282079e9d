"""Registers key and door; the environment itself is in _key_door.py, which imports Gymnasium."""

from typing import Annotated

from ...core.ranges import Between
from ..kind import task_family
from . import import_optional
from .grids import Actions, GridTask, Render


@task_family("env/key_door", played=True, source="ours")
def open_key_door(
    spec: str,
    *,
    width: Annotated[int, Between(4, 32)] = 5,
    height: Annotated[int, Between(1, 32)] = 3,
    max_turns: Annotated[int, Between(1, 10_000)] = 20,
    turn_tokens: Annotated[int | None, Between(1, 1_000_000)] = None,
    render: Render = "text",
    actions: Actions = "names",
) -> GridTask:
    """Key and door, turn by turn: fetch the key, then go through the door to the goal.

    Select it with `--task env/key_door`.

    Args:
        width: width of both rooms including the wall between them, in cells.
        height: height of the rooms, in cells.
        max_turns: turns after which the game ends.
        turn_tokens: tokens after which a turn ends; None leaves that to the policy.
        render: "text", with rules and spaced cells, or "compact", the map alone.
        actions: "names" (or their numbers), or "modulo", which maps any number to an action by its remainder.
    """
    import_optional("gymnasium", spec)
    from ._key_door import key_door

    options = {
        "width": width, "height": height, "max_turns": max_turns, "turn_tokens": turn_tokens, "render": render,
        "actions": actions,
    }  # fmt: skip
    return key_door(spec, options)
