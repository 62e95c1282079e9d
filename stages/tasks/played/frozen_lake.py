"""Gymnasium's FrozenLake on maps of its own generator: cross the ice to the goal without falling into a hole."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, Any

from ....formats.errors import UsageError
from ...core.ranges import Between
from ..kind import task_family
from . import import_optional
from .grids import Actions, GridTask, Render
from .gym_text import GymText

ACTIONS = ("left", "down", "right", "up")  # in Gymnasium's order
RULES = (
    "You cross a frozen lake. P is you, F is ice, H a hole, G the goal; a hole ends the game.\n"
    "Move one cell at a time. Answer with one word: left, down, right or up."
)
REMINDER = "That names no move: left, down, right or up.\n"
PATIENCE = 20_000  # consecutive maps without a way to the goal before giving up, about a second


def picture(rows: Sequence[str], cell: int) -> list[str]:
    """The map with P at the player's cell.

    >>> picture(["SF", "HG"], 1)
    ['FP', 'HG']
    """
    size = len(rows[0])
    plain = "".join(rows).replace("S", "F")
    drawn = f"{plain[:cell]}P{plain[cell + 1 :]}"
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]


def _show(rows: Sequence[str], cell: int, options: Mapping[str, Any]) -> str:
    lines = picture(rows, cell)
    return "\n".join(lines if options["render"] == "compact" else map(" ".join, lines))


def _draw(rng: Random, options: Mapping[str, Any]) -> list[str]:
    """The map that Gymnasium's generator makes for a seed. It draws until a way exists, possibly never: UsageError."""
    size, ice = options["size"], options["ice"]
    has_way = import_optional("gymnasium.envs.toy_text.frozen_lake", "env/frozen_lake").is_valid
    chance = import_optional("gymnasium.utils.seeding", "env/frozen_lake").np_random(rng.getrandbits(31))[0]
    for _ in range(PATIENCE):
        cells = chance.choice(["F", "H"], (size, size), p=[ice, 1 - ice])
        cells[0][0], cells[-1][-1] = "S", "G"
        if has_way(cells, size):
            return ["".join(row) for row in cells]
    raise UsageError(
        f"task 'env/frozen_lake': none of {PATIENCE:,} maps drawn with size={size} and ice={ice} has a way to the goal; "
        "raise ice, or lower size"
    )


def _play(rows: Sequence[str], options: Mapping[str, Any]) -> GymText:
    lake = import_optional("gymnasium.envs.toy_text.frozen_lake", "env/frozen_lake").FrozenLakeEnv
    return GymText(
        lake(desc=list(rows), is_slippery=options["slippery"]),
        ACTIONS,
        describe=lambda cell: _show(rows, int(cell), options),
        state=lambda cell: "/".join(picture(rows, int(cell))),
        reminder="" if options["render"] == "compact" else REMINDER,
        modulo=options["actions"] == "modulo",
    )


@task_family("env/frozen_lake", played=True, source="Gymnasium's FrozenLake, with maps of its own generator")
def open_frozen_lake(
    spec: str,
    *,
    size: Annotated[int, Between(2, 16)] = 4,
    ice: Annotated[float, Between(0.2, 1)] = 0.8,
    slippery: bool = False,
    max_turns: Annotated[int, Between(1, 10_000)] = 12,
    turn_tokens: Annotated[int | None, Between(1, 1_000_000)] = None,
    render: Render = "text",
    actions: Actions = "names",
) -> GridTask:
    """FrozenLake, turn by turn: cross the ice to the goal without falling into a hole.

    Select it with `--task env/frozen_lake`.

    Args:
        size: rows of the square map.
        ice: share of cells that are not holes.
        slippery: whether a move may go astray.
        max_turns: turns after which the game ends.
        turn_tokens: tokens after which a turn ends; None leaves that to the policy.
        render: "text", with rules and spaced cells, or "compact", the map alone.
        actions: "names" (or their numbers), or "modulo", which maps any number to an action by its remainder.
    """
    import_optional("gymnasium", spec)
    options = {
        "size": size, "ice": ice, "slippery": slippery, "max_turns": max_turns, "turn_tokens": turn_tokens,
        "render": render, "actions": actions,
    }  # fmt: skip
    return GridTask(spec, options, RULES, _draw, first=lambda rows, options: _show(rows, 0, options), play=_play)
