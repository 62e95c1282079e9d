"""The graphs of teams of agents, edge by edge: which were drawn, and what having drawn them was worth."""

from dataclasses import dataclass

import numpy as np

from ...formats.errors import DataError
from ...formats.flags import ERROR
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments

AXIS = ("edge.src", "edge.dst", "edge.kept")


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
