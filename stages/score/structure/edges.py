"""Edges: what each edge of a team's communication graph did for its success."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....formats.errors import DataError, UsageError
from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ....formats.schema import ERROR
from ....formats.segments import Array, Segments
from ..kind import scorer

AXIS = ("edge.src", "edge.dst", "edge.kept")


@scorer(needs=("reward", *AXIS), granularity="edge", source="arXiv:2603.02701 (Graph-GRPO), steps 3 and 4")
def edges(rollouts: Rollouts, *, correct: float = 0.5, ddof: int = 0, eps: float = 1e-6) -> Mapping[str, Ragged]:
    """Credit of every edge a group of teams drew: how often teams with it succeeded, against the group's other edges.

        S_ij = Σ_k R_k · 1[edge ij in graph k] / Σ_k 1[edge ij in graph k]       R_k: 1 if the reward is above `correct`
        A_ij = (S_ij - mean) / (std + eps)                                      over the edges the group drew at least once

    Args:
        correct: a team succeeded if its reward is above.
        ddof: 0 or 1; the std's divisor is n - ddof.
        eps: added to the std, 0 or more.

    Returns:
        {"edge.success": S_ij, "edge.advantage": A_ij}: the same in all rows of a group, whether the edge is in their graph
        or not. An edge never drawn has 0 for both; if all succeed equally often, A is 0.

    Raises:
        UsageError: an option out of range. DataError: a team without a reward; lists of unequal length.

    Departures: that the std is the population's, and what happens to edges never drawn, is known second-hand; ddof=1 is the
        other reading.
    """
    check_spread("scorer 'edges'", ddof, eps)
    drawn = Drawn.of(rollouts, correct)
    success, advantage = drawn.credit(ddof, eps)
    return {
        "edge.success": drawn.leaf(success.astype(np.float32)),
        "edge.advantage": drawn.leaf(advantage.astype(np.float32)),
    }


def check_spread(who: str, ddof: int, eps: float) -> None:
    """UsageError for what no std can be divided by."""
    if ddof not in (0, 1):
        raise UsageError(f"option 'ddof' of {who}: {ddof}, needed is 0 or 1")
    if not 0 <= eps < math.inf:
        raise UsageError(f"option 'eps' of {who}: {eps}, needed is a number, 0 or more")


@dataclass(frozen=True, eq=False)
class Drawn:
    """The graphs of K teams in G groups: E places of pairs, K lists of them one after another.

    teams: [K] rows of the file. places: pairs [E] of each team. src, dst: [E] agents. kept: [E] bool. success: [K] bool.
    group: [K] which group a team is of, from 0. rows: of the file.
    """

    teams: Array
    places: Segments
    src: Array
    dst: Array
    kept: Array
    success: Array
    group: Array
    rows: int

    @classmethod
    def of(cls, rollouts: Rollouts, correct: float = 0.5) -> "Drawn":
        """Those of the rows to train on, failed ones left out."""
        columns = [rollouts.ragged(path) for path in AXIS]
        sizes = columns[0].segments.sizes
        for path, column in zip(AXIS[1:], columns[1:], strict=True):
            wrong = np.flatnonzero(column.segments.sizes != sizes)
            if len(wrong):
                row = int(wrong[0])
                raise DataError(
                    f"row {row}, column {path!r}: {column.segments.sizes[row]} values for {sizes[row]} edges"
                )
        own = rollouts.for_training & ~rollouts.flagged(ERROR)
        if columns[0].present is not None:
            own &= columns[0].present
        teams = np.flatnonzero(own)
        reward = rollouts.numbers("reward").astype(np.float64)[teams]
        if not np.isfinite(reward).all():
            row = int(teams[np.flatnonzero(~np.isfinite(reward))[0]])
            raise DataError(f"row {row}, column 'reward': missing; run `apportion score IN --with verify -o OUT` first")
        src, dst, kept = (column.take(teams) for column in columns)
        group = np.unique(rollouts.groups.ids[teams], return_inverse=True)[1].reshape(-1)
        return cls(
            teams,
            src.segments,
            src.values,
            dst.values,
            kept.values.astype(bool),
            reward > correct,
            group,
            len(rollouts),
        )

    def credit(self, ddof: int, eps: float) -> tuple[Array, Array]:
        """([E] S_ij, [E] A_ij) of each place's pair in its group; 0 for a pair that the group never drew."""
        if not len(self.src):
            return np.zeros(0), np.zeros(0)
        group = self.group[self.places.ids]
        keys = np.stack((group, self.src, self.dst))
        distinct, place = np.unique(keys, axis=1, return_inverse=True)
        place = place.reshape(-1)
        count = np.bincount(place, self.kept)
        won = np.bincount(place, self.kept & self.success[self.places.ids])
        success = won / np.maximum(count, 1)
        met = np.flatnonzero(count > 0)
        each = Segments.of_runs(distinct[0][met])  # sorted by group
        centred = success[met] - each.spread(each.mean(success[met]))
        std = each.spread(each.std(success[met], ddof=ddof))  # exactly 0 where all are equal, and nowhere else
        advantage = np.zeros(len(success))
        advantage[met] = np.divide(centred, std + eps, out=np.zeros(len(std)), where=std > 0)
        return success[place], advantage[place]

    def leaf(self, values: Array) -> Ragged:
        """[E] on the file's rows, missing where a row has no part in it."""
        sizes = np.zeros(self.rows, np.int64)
        sizes[self.teams] = self.places.sizes
        present = np.zeros(self.rows, bool)
        present[self.teams] = True
        return Ragged(values, Segments.of_sizes(sizes).offsets, None if present.all() else present)
