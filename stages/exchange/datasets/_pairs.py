"""Which two rollouts are compared: the best and worst of a group, siblings at a fork, or those that the file pairs."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ....formats.errors import DataError
from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ....formats.schema import CHOSEN, REJECTED, ruler_of
from ....formats.segments import Array
from ._writing import first_parts, trainable_rows, worth

ALONE = "groups with fewer than two rollouts to compare"
EQUAL = "groups in which nothing differs by the margin"


class Cut(NamedTuple):
    """Two rows that have the response tokens before `place` in common, and what their branches are worth."""

    chosen: int
    rejected: int
    place: int
    worth: tuple[float, float]


def pairs_by_worth(
    batch: Rollouts, values: Array, good: Array, *, margin: float, most: int, left_out: Counter[str]
) -> Iterator[tuple[int, int]]:
    """(better, worse) rows of each group: the best with the worst, the second best with the second worst, `most` at most.

    values: [R], NaN for a row of which nothing is known. good: [R] bool, rows that can be compared.
    """
    usable = good & first_parts(batch) & np.isfinite(values)
    for start, end in pairwise(batch.groups.offsets.tolist()):
        rows = start + np.flatnonzero(usable[start:end])
        if len(rows) < 2:
            left_out[ALONE] += 1
            continue
        order = rows[np.argsort(-values[rows], kind="stable")]
        count = 0
        for place in range(min(most, len(order) // 2)):
            better, worse = int(order[place]), int(order[-1 - place])
            if not _apart(values[better] - values[worse], margin):
                break
            count += 1
            yield better, worse
        left_out[EQUAL] += count == 0


def _apart(gap: float, margin: float) -> bool:
    return gap > 0 and gap >= margin


def pairs_in_file(batch: Rollouts, good: Array, left_out: Counter[str]) -> Iterator[tuple[int, int]]:
    """(chosen, rejected) rows of each pair that `pair_id` and `pair_role` name.

    DataError for a role that there is not, and for a role that a pair has twice.
    """
    names, roles = batch.strings("pair_id"), batch.strings("pair_role")
    pairs: dict[str, dict[str, int]] = {}
    for row, (name, role) in enumerate(zip(names, roles, strict=True)):
        if name is None:
            continue
        if role not in (CHOSEN, REJECTED):
            raise DataError(f"pair {name!r}: pair_role {role!r}, expected {CHOSEN!r} or {REJECTED!r}")
        if role in pairs.setdefault(name, {}):
            raise DataError(f"pair {name!r} has more than one row of pair_role {role!r}")
        pairs[name][role] = row
    for halves in pairs.values():
        if len(halves) == 2 and good[list(halves.values())].all():
            yield halves[CHOSEN], halves[REJECTED]
        else:
            left_out["pairs of which a half cannot be written"] += 1


class _Branch(NamedTuple):
    """One branch at a fork. place: response token at which it begins. best, worst: the rows that may stand for it."""

    place: int
    worth: float
    best: int
    worst: int


def pairs_of_siblings(batch: Rollouts, by: str, *, margin: float, most: int, left_out: Counter[str]) -> Iterator[Cut]:
    """The forks of each group's tree whose branches lie furthest apart, `most` at most.

    A branch begins with a token of the policy, and the rows that stand for it have no environment's tokens from there on.
    """
    values = worth(batch, by)
    rows_worth = np.where(first_parts(batch) & trainable_rows(batch), values, np.nan)
    for start, end in pairwise(batch.groups.offsets.tolist()):
        rows = start + np.flatnonzero(np.isfinite(rows_worth[start:end]))
        if len(rows) < 2:
            left_out[ALONE] += 1
            continue
        forks = [_apart_most(branches) for branches in _forks(batch, rows, values, by)]
        chosen = sorted(
            (cut for cut in forks if cut is not None and _apart(cut.worth[0] - cut.worth[1], margin)),
            key=lambda cut: cut.worth[1] - cut.worth[0],
        )
        left_out[EQUAL] += not chosen
        yield from chosen[:most]


def _forks(batch: Rollouts, rows: Array, values: Array, by: str) -> Iterator[list[_Branch]]:
    """The branches at each fork of one group, those of the policy. rows: [M] the group's rows that take part."""
    ids, starts, ends = (batch.ragged(f"node.{leaf}") for leaf in ("id", "start", "end"))
    children: dict[int, dict[int, list[tuple[int, int, int]]]] = {}
    for row in rows.tolist():
        before = -1
        for node, start, end in zip(ids[row].tolist(), starts[row].tolist(), ends[row].tolist(), strict=True):
            children.setdefault(before, {}).setdefault(node, []).append((row, start, end))
            before = node
    last_foreign = _last_foreign(batch)
    credit = batch.ragged(by) if ruler_of(by) == "token" else None
    for branches in children.values():
        found: list[_Branch] = []
        for through in branches.values():
            row, place, _ = through[0]
            first = int(batch.tokens.offsets[row]) + place
            clean = [row for row, start, _ in through if last_foreign[row] < start]
            if place >= batch.tokens.sizes[row] or not batch.mask[first] or not clean:
                continue
            if credit is None:
                mean = float(values[[row for row, _, _ in through]].mean())
            else:
                own = np.concatenate([_credit(batch, credit, *each) for each in through])
                if not len(own):
                    continue
                mean = float(own.mean())
            ranked = sorted(clean, key=lambda row: -values[row])
            found.append(_Branch(place, mean, ranked[0], ranked[-1]))
        if len(found) > 1:
            yield found


def _apart_most(branches: list[_Branch]) -> Cut:
    best, worst = max(branches, key=lambda each: each.worth), min(branches, key=lambda each: each.worth)
    return Cut(best.best, worst.worst, best.place, (best.worth, worst.worth))


def _credit(batch: Rollouts, credit: Ragged, row: int, start: int, end: int) -> Array:
    """The credit of the tokens [start, end) of a row that are trained."""
    inside = slice(int(batch.tokens.offsets[row]) + start, int(batch.tokens.offsets[row]) + end)
    if credit.present is not None and not credit.present[row]:
        return np.empty(0)
    return credit[row][start:end][batch.trainable[inside]].astype(np.float64)


def _last_foreign(batch: Rollouts) -> Array:
    """[R] place of the last token that an environment wrote; -1 where there is none."""
    places = np.where(batch.mask, -1, batch.tokens.positions)
    return batch.tokens.max(places, empty=-1).astype(np.int64)
