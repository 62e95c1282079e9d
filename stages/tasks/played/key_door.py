"""Key and door as an entry; the environment itself is in _key_door.py, which imports Gymnasium."""

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

    The task of `--task env/key_door`.

    Args:
        width: of both rooms with the wall between them, cells.
        height: of the rooms, cells.
        max_turns: turns after which the game is over.
        turn_tokens: tokens after which a turn is over; None leaves that to the policy.
        render: "text", with rules and the cells apart, or "compact", the map alone.
        actions: "names" (or their numbers), or "modulo", where the remainder of any number is one.
    """
    import_optional("gymnasium", spec)
    from ._key_door import key_door

    options = {
        "width": width, "height": height, "max_turns": max_turns, "turn_tokens": turn_tokens, "render": render,
        "actions": actions,
    }  # fmt: skip
    return key_door(spec, options)
