"""Two credits of the same rollouts, compared: the numbers, and the rollouts where they differ most."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..inspect.statistics import on_tokens
from ..models.token_texts import TokenTexts
from ._draw import draw_comparison
from ._found import Difference, Disagreement
from .agreement import Agreement, agreement, divide_by_magnitude

if TYPE_CHECKING:
    from rich.console import Console


def print_drawing(draw: "Callable[[Console], None]") -> None:
    """What `draw` draws on a console, on standard output."""
    from ..core.console import WordsConsole
    from ..rows.printing import closed_pipe_is_no_error

    console = WordsConsole(soft_wrap=False)
    with console.capture() as captured:
        draw(console)
    with closed_pipe_is_no_error():
        print(captured.get(), end="", file=console.file)


@dataclass(frozen=True)
class Compared(Difference):
    """The same, as a result of the command."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> None:
        print_drawing(self.draw)

    def draw(self, console: "Console") -> None:
        draw_comparison(console, self)


def compare_pair(
    first: Path, second: Path, paths: tuple[str, str], only: tuple[int, int], left: Rollouts, right: Rollouts,
    limit: int, texts: TokenTexts,
) -> Compared:  # fmt: skip
    """Two credits of the same rollouts, in the same order. DataError where no token has both."""
    a, b = on_tokens(left, paths[0]), on_tokens(right, paths[1])
    mask, tokens = left.mask, left.tokens
    both = mask & ~np.isnan(a) & ~np.isnan(b)
    if not both.any():
        raise DataError(f"{first}, {paths[0]!r} and {second}, {paths[1]!r}: no token to which both assign credit")
    counts = np.maximum(tokens.sum(both), 1)
    there = tokens.any(both)
    scales = [float(np.abs(each[both]).mean()) for each in (a, b)]
    distance = np.zeros(len(a))
    distance[both] = np.abs(divide_by_magnitude(a[both]) - divide_by_magnitude(b[both]))
    per_rollout = tokens.sum(distance) / counts
    same = tokens.sum(both & (np.sign(a) == np.sign(b))) / counts
    order = np.argsort(-np.where(there, per_rollout, -1.0), kind="stable")
    chosen = [int(row) for row in order[:limit] if there[row] and per_rollout[row] > 0]
    reward = left.numbers("reward") if "reward" in left else np.full(len(left), np.nan)

    def shown(row: int) -> Disagreement:
        place = slice(int(tokens.offsets[row]), int(tokens.offsets[row + 1]))
        ids = left.token_ids.values[place].tolist()
        credit = [
            [value if own and not math.isnan(value) else None for value, own in zip(each[place].tolist(), mask[place].tolist(), strict=True)]
            for each in (a, b)
        ]  # fmt: skip
        value = float(reward[row])
        return Disagreement(
            left.arrow("rollout_id")[row].as_py(), left.arrow("group_id")[row].as_py(),
            None if math.isnan(value) else value, float(per_rollout[row]), float(same[row]),
            ids, texts(ids), *credit,
        )  # fmt: skip

    return Compared(
        str(first), str(second), paths, len(left), *only,
        int((mask & np.isnan(a)).sum()), int((mask & np.isnan(b)).sum()),
        *agreements(tokens, a, b, both),
        [shown(row) for row in chosen], (scales[0], scales[1]),
    )  # fmt: skip


def agreements(tokens: Segments, a: Array, b: Array, both: Array) -> tuple[Agreement, Agreement]:
    """Of two credits [T] on the tokens where `both` [T] is true, and of the means over these, rollout by rollout."""
    there = tokens.any(both)
    counts = tokens.sum(both)[there]
    means = [tokens.sum(np.where(both, each, 0.0))[there] / counts for each in (a, b)]
    return agreement(a[both], b[both]), agreement(means[0], means[1])
