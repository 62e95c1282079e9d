"""Three or more credits of one file, compared pair by pair."""

from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.errors import DataError, UsageError
from ...formats.rollouts import Rollouts
from ..inspect.statistics import on_tokens
from ..models.token_texts import TokenTexts
from ._draw_matrix import draw_matrices
from ._found import Differences, Pair
from ._pair import Compared, agreements, compare_pair, print_drawing

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ComparedColumns(Differences):
    """The same, as a result of the command."""

    most_apart: Compared

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> None:
        print_drawing(self.draw)

    def draw(self, console: "Console") -> None:
        draw_matrices(console, self)
        console.print()
        self.most_apart.draw(console)


def compare_columns(
    source: Path, paths: list[str], rollouts: Rollouts, limit: int, texts: TokenTexts
) -> ComparedColumns:
    """Every pair on the tokens that both assign credit to, and the pair whose scaled credits differ most on them.

    UsageError for a column named twice; DataError where no token has credit of any two.
    """
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise UsageError(f"--columns names {path!r:.200} twice; name each once")
    credit = {path: on_tokens(rollouts, path) for path in paths}
    assigned = {path: rollouts.mask & ~np.isnan(values) for path, values in credit.items()}
    pairs = [
        Pair((a, b), *agreements(rollouts.tokens, credit[a], credit[b], assigned[a] & assigned[b]))
        for a, b in combinations(paths, 2)
    ]
    compared = [pair for pair in pairs if pair.tokens.mean_difference is not None]
    if not compared:
        raise DataError(f"{source}: no token to which two of {', '.join(paths)} assign credit")
    most = max(compared, key=lambda pair: pair.tokens.mean_difference or 0.0)
    own = int(rollouts.mask.sum())
    return ComparedColumns(
        str(source), paths, len(rollouts), [own - int(assigned[path].sum()) for path in paths], pairs,
        compare_pair(source, source, most.columns, (0, 0), rollouts, rollouts, limit, texts),
    )  # fmt: skip
