"""Episodes that became several rows: an agent whose context was rewritten, or that called another one.

A group's statistics count episodes, not rows: joined to one row each, they are what every formula expects.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.schema import ruler_of
from ...formats.segments import Array, Segments


class Episodes(NamedTuple):
    """E episodes of R rows. rollouts: one row an episode. parts: rows [R] of each, in the order of `rows`. rows: [R] places in
    the given file, an episode's parts one after the other."""

    rollouts: Rollouts
    parts: Segments
    rows: Array

    def spread(self, per_episode: Array) -> Array:
        """[R] the value of each row's episode, in the file's order."""
        out = np.empty(len(self.rows), per_episode.dtype)
        out[self.rows] = self.parts.spread(per_episode)
        return out

    def split(self, values: Array, tokens: Segments) -> Array:
        """[T] values of the joined rows' tokens in the file's order. tokens: response tokens [T] of each row of the file."""
        joined = Segments.of_sizes(tokens.sizes[self.rows])
        return Ragged(values, joined.offsets).take(np.argsort(self.rows, kind="stable")).values


def join_parts(rollouts: Rollouts) -> Episodes | None:
    """The parts of each episode as one row; None where every row is an episode of its own.

    Tokens and steps follow each other in the order of `part`; what stands on the rollout is that of the first part, flags those
    of the last. Trees are left out: they are of rows. DataError for parts with different rewards, or with the same place.
    """
    episode = rollouts.episodes
    sizes = np.bincount(episode)
    if (sizes <= 1).all():
        return None
    part = _places(rollouts)
    first = np.full(len(sizes), len(rollouts))
    np.minimum.at(first, episode, np.arange(len(rollouts)))
    rows = np.lexsort((np.arange(len(rollouts)), part, first[episode]))
    parts = Segments.of_runs(episode[rows])
    again = np.flatnonzero((parts.positions > 0) & (np.diff(part[rows], prepend=-1) == 0))
    if len(again):
        row = int(rows[again[0]])
        raise DataError(f"row {row}, column 'part': another part of its episode has the same place, {part[row]}")
    ordered = rollouts.take(rows)
    if "token.trainable" in ordered:  # null in some parts and said of others
        ordered = ordered.with_columns({"token.trainable": ordered.token_ids.with_values(ordered.trainable)})
    heads, tails = parts.starts, parts.offsets[1:] - 1
    before = parts.spread(ordered.tokens.offsets[heads])
    shift = ordered.tokens.starts - before  # tokens of the episode in earlier parts
    table, rulers = pa.table({"rollout_id": ordered.arrow("rollout_id").take(pa.array(heads))}), dict[str, pa.Array]()
    for path in ordered.paths:
        ruler = ruler_of(path)
        if ruler in ("node", "edge") or path in ("rollout_id", "part"):
            continue
        array = ordered.arrow(path)
        if ruler == "rollout":
            rulers[path] = array.take(pa.array(tails if path == "flags" else heads))
        else:
            rulers[path] = _join(array, parts, rows, path, shift if path in ("step.start", "step.end") else None)
    if "reward" in ordered:
        rulers["reward"] = pa.array(_reward(ordered, parts, rows))
    return Episodes(Rollouts(table).with_columns(rulers), parts, rows)


def _places(rollouts: Rollouts) -> Array:
    if "part" not in rollouts:
        return np.arange(len(rollouts))
    column = rollouts.arrow("part").cast(pa.int64())
    if (
        column.null_count
        and (np.bincount(rollouts.episodes)[rollouts.episodes] > 1)[np.asarray(column.is_null())].any()
    ):
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise DataError(f"row {row}, column 'part': missing; every part of an episode needs its place")
    return column.fill_null(0).to_numpy(zero_copy_only=False)


def _reward(ordered: Rollouts, parts: Segments, rows: Array) -> Array:
    """[E] the reward that an episode's parts have; those without one do not count."""
    reward = ordered.numbers("reward").astype(np.float64)
    known = np.isfinite(reward)
    low = parts.min(np.where(known, reward, np.inf), empty=np.inf)
    high = parts.max(np.where(known, reward, -np.inf), empty=-np.inf)
    wrong = np.flatnonzero(low < high)
    if len(wrong):
        row = int(rows[parts.starts[wrong[0]]])
        raise DataError(
            f"row {row}, column 'reward': parts of its episode have rewards from {low[wrong[0]]:g} to {high[wrong[0]]:g}; give "
            "all the episode's reward, and what a part earned as step.reward"
        )
    return np.where(np.isfinite(low), low, np.nan)


def _join(array: pa.Array, parts: Segments, rows: Array, path: str, shift: Array | None) -> pa.Array:
    """The lists of an episode's parts as one list. shift: [R] added to the numbers of each row's list."""
    missing = np.asarray(array.is_null())
    some = parts.any(missing)
    mixed = np.flatnonzero(some & ~(parts.sum(missing) == parts.sizes))
    if len(mixed):
        row = int(rows[np.flatnonzero(missing & (parts.ids == mixed[0]))[0]])
        raise DataError(f"row {row}, column {path!r}: missing, and other parts of its episode have it")
    sizes = np.where(missing, 0, np.asarray(array.value_lengths().fill_null(0))).astype(np.int64)
    flat = array.flatten()
    if shift is not None:
        flat = pa.array((flat.to_numpy() + np.repeat(shift, sizes)).astype(np.int32))
    offsets = np.concatenate(([0], np.cumsum(parts.sum(sizes)))).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(some) if some.any() else None)
