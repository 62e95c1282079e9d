"""Key and door: a small Gymnasium environment. Fetch the key, then go through the door to the goal."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import gymnasium
import numpy as np

from .grids import GridTask
from .gym_text import GymText

ACTIONS = ("left", "down", "right", "up")
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
RULES = (
    "You are P in two rooms. # is a wall, K a key, D a locked door, G the goal. Walk onto the key to take it; "
    "with it the door opens when you walk into it.\n"
    "Move one cell at a time. Answer with one word: left, down, right or up."
)
REMINDER = "That names no move: left, down, right or up.\n"


class KeyDoor(gymnasium.Env[str, np.int64]):
    """The rooms as a picture: rows of equal length, separated by newlines. A key that is missing from it is carried.

    A move into a wall, off the map, or into the door without the key changes nothing. The goal gives reward 1 and ends
    it.
    """

    def __init__(self, rows: Sequence[str]):
        picture = "\n".join(rows)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = gymnasium.spaces.Text(len(picture), charset="#.PKDG\n")
        self._first = [list(row) for row in rows]
        self._cells: list[list[str]] = []
        self._place = (0, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._cells = [row.copy() for row in self._first]
        self._place = next((y, x) for y, row in enumerate(self._cells) for x, cell in enumerate(row) if cell == "P")
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[str, float, bool, bool, dict[str, Any]]:
        y, x = (at + by for at, by in zip(self._place, MOVES[action], strict=True))
        inside = 0 <= y < len(self._cells) and 0 <= x < len(self._cells[0])
        there = self._cells[y][x] if inside else "#"
        has_key = not any("K" in row for row in self._cells)
        if there == "#" or (there == "D" and not has_key):
            return self._picture(), 0.0, False, False, {}
        self._cells[self._place[0]][self._place[1]] = "."
        self._cells[y][x] = "P"
        self._place = (y, x)
        return self._picture(), float(there == "G"), there == "G", False, {}

    def _picture(self) -> str:
        return "\n".join(map("".join, self._cells))


def _draw(rng: Random, options: Mapping[str, Any]) -> list[str]:
    """A map: a wall with a door between two rooms; player and key in the left room, the goal in the right one."""
    width, height = options["width"], options["height"]
    wall = rng.randint(1 if height > 1 else 2, width - 2)
    cells = [["#" if x == wall else "." for x in range(width)] for _ in range(height)]
    cells[rng.randrange(height)][wall] = "D"
    left = [(y, x) for y in range(height) for x in range(wall)]
    for mark, (y, x) in zip("PK", rng.sample(left, 2), strict=True):
        cells[y][x] = mark
    cells[rng.randrange(height)][rng.randint(wall + 1, width - 1)] = "G"
    return ["".join(row) for row in cells]


def _show(picture: str, options: Mapping[str, Any]) -> str:
    return picture if options["render"] == "compact" else "\n".join(map(" ".join, picture.split("\n")))


def _play(rows: Sequence[str], options: Mapping[str, Any]) -> GymText:
    return GymText(
        KeyDoor(rows),
        ACTIONS,
        describe=lambda picture: _show(picture, options),
        state=lambda picture: picture.replace("\n", "/"),
        reminder="" if options["render"] == "compact" else REMINDER,
        modulo=options["actions"] == "modulo",
    )


def key_door(spec: str, options: Mapping[str, Any]) -> GridTask:
    """The key-and-door task."""
    return GridTask(
        spec, options, RULES, _draw, first=lambda rows, options: _show("\n".join(rows), options), play=_play
    )  # fmt: skip
