"""FrozenLake of Gymnasium on maps of its own generator: cross the ice to the goal without falling into a hole."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from ....formats.errors import UsageError
from . import needed
from .grids import Actions, GridTask, Render, grid_options
from .gym_text import GymText

ACTIONS = ("left", "down", "right", "up")  # in Gymnasium's order
RULES = (
    "You cross a frozen lake. P is you, F is ice, H a hole, G the goal; a hole ends the game.\n"
    "Move one cell at a time. Answer with one word: left, down, right or up."
)
REMINDER = "That names no move: left, down, right or up.\n"
PATIENCE = 20_000  # maps drawn in a row without a way to the goal, about a second
OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "size": (int, 4),
    "ice": (float, 0.8),
    "slippery": (bool, False),
    "max_turns": (int, 12),
    "turn_tokens": (int | None, None),
    "render": (Render, "text"),
    "actions": (Actions, "names"),
}


def picture(rows: Sequence[str], cell: int) -> list[str]:
    """The map with P where the player stands.

    >>> picture(["SF", "HG"], 1)
    ['FP', 'HG']
    """
    size = len(rows[0])
    plain = "".join(rows).replace("S", "F")
    drawn = f"{plain[:cell]}P{plain[cell + 1 :]}"
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]


def _shown(rows: Sequence[str], cell: int, options: Mapping[str, Any]) -> str:
    lines = picture(rows, cell)
    return "\n".join(lines if options["render"] == "compact" else map(" ".join, lines))


def _draw(rng: Random, options: Mapping[str, Any]) -> list[str]:
    """The map Gymnasium's generator gives for a seed. It draws until there is a way, which may be never: UsageError."""
    size, ice = options["size"], options["ice"]
    has_way = needed("gymnasium.envs.toy_text.frozen_lake", "env/frozen_lake").is_valid
    chance = needed("gymnasium.utils.seeding", "env/frozen_lake").np_random(rng.getrandbits(31))[0]
    for _ in range(PATIENCE):
        cells = chance.choice(["F", "H"], (size, size), p=[ice, 1 - ice])
        cells[0][0], cells[-1][-1] = "S", "G"
        if has_way(cells, size):
            return ["".join(row) for row in cells]
    raise UsageError(
        f"task 'env/frozen_lake': no way to the goal on any of {PATIENCE:,} maps drawn with size={size} and ice={ice}; "
        "ask for more ice, or for smaller maps"
    )


def _play(rows: Sequence[str], options: Mapping[str, Any]) -> GymText:
    lake = needed("gymnasium.envs.toy_text.frozen_lake", "env/frozen_lake").FrozenLakeEnv
    return GymText(
        lake(desc=list(rows), is_slippery=options["slippery"]),
        ACTIONS,
        describe=lambda cell: _shown(rows, int(cell), options),
        state=lambda cell: "/".join(picture(rows, int(cell))),
        reminder="" if options["render"] == "compact" else REMINDER,
        modulo=options["actions"] == "modulo",
    )


def open_frozen_lake(spec: str, given: Mapping[str, Any]) -> GridTask:
    """The task of `--task env/frozen_lake`.

    Options: size of the square map; ice, the share of cells that are no holes; slippery, whether a move may go astray;
    max_turns; turn_tokens, after which a turn is over (None: when the policy ends it); render, "text" with rules and
    cells apart, or "compact", the map alone; actions, "names" (or their numbers), or "modulo", where the remainder of
    any number is one.
    """
    needed("gymnasium", spec)
    options = grid_options(spec, OPTIONS, given, {"size": (2, 16), "ice": (0.2, 1), "max_turns": (1, 10_000)})
    return GridTask(
        spec, options, RULES, _draw, first=lambda rows, options: _shown(rows, 0, options), play=_play
    )  # fmt: skip
