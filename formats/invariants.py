"""What must hold in every rollout file, checked at every write and by `apportion validate`.

Each check is a vectorised pass over a batch of whole groups and yields the rows that break it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError
from .ragged import Ragged
from .rollouts import Rollouts
from .schema import RULERS, check_schema, paths_of, ruler_of
from .segments import Array, Segments


@dataclass(frozen=True)
class Broken:
    """One broken invariant. `row` counts within the batch."""

    rule: str
    row: int
    column: str
    message: str


def broken_invariants(rollouts: Rollouts) -> Iterator[Broken]:
    """Every invariant this batch breaks; at most one finding per rule and column, at its first row."""
    check_schema(rollouts.table.schema)
    if len(rollouts) == 0:
        return
    yield from _identity(rollouts)
    lengths_differ = list(_equal_lengths(rollouts))
    yield from lengths_differ
    if lengths_differ:
        return
    for path in rollouts.paths:
        if path in ("token.logprob", "reward") or path.startswith(("token.", "rewards.", "step.", "node.")):
            yield from _finite(rollouts, path)
    if "step.start" in rollouts and "step.end" in rollouts:
        yield from _spans(rollouts, "step", cover=False)
    if "node.start" in rollouts and "node.end" in rollouts and "node.id" in rollouts:
        path_broken = list(_spans(rollouts, "node", cover=True))
        yield from path_broken
        if not path_broken:
            yield from _siblings_agree(rollouts)


def check_batch(rollouts: Rollouts, where: str) -> None:
    """DataError for the first broken invariant, with its place."""
    for broken in broken_invariants(rollouts):
        raise DataError(f"{where}: row {broken.row}, column {broken.column!r}: {broken.message}")


def check_lengths(rollouts: Rollouts, where: str) -> None:
    """DataError for the first column whose lists are not as long as its ruler, or for a missing token."""
    try:
        for broken in _equal_lengths(rollouts):
            raise DataError(f"row {broken.row}, column {broken.column!r}: {broken.message}")
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def is_credit(path: str) -> bool:
    """Columns on the token ruler that hold credit: `token.advantage` and what --as names (`token.advantage_…`)."""
    return path.startswith("token.advantage")


def _identity(rollouts: Rollouts) -> Iterator[Broken]:
    for column in ("rollout_id", "group_id"):
        values = rollouts.arrow(column)
        if values.null_count:
            row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            yield Broken("identity", row, column, "missing (null), needed is a string")
            return
    ids = rollouts.arrow("rollout_id")
    if len(ids.unique()) != len(ids):
        seen: set[str] = set()
        for row, name in enumerate(ids.to_pylist()):
            if name in seen:
                yield Broken("duplicate_rollout", row, "rollout_id", f"{name!r} occurs twice, needed is a unique id")
                break
            seen.add(name)
    starts = rollouts.groups.starts
    names = rollouts.arrow("group_id").take(pa.array(starts)).to_pylist()
    if len(set(names)) != len(names):
        seen = set()
        for start, name in zip(starts.tolist(), names, strict=True):
            if name in seen:
                yield Broken(
                    "split_group",
                    start,
                    "group_id",
                    f"group {name!r} continues after another group, needed are contiguous groups",
                )
                break
            seen.add(name)


def _equal_lengths(rollouts: Rollouts) -> Iterator[Broken]:
    for name, ruler in RULERS.items():
        leaves = [path for path in rollouts.paths if path.startswith(f"{name}.") and ruler_of(path) == name]
        if not leaves:
            continue
        axis = next((f"{name}.{field}" for field in ruler.axis if f"{name}.{field}" in leaves), leaves[0])
        expected = _lengths(rollouts.arrow(axis), 0, axis)
        for path in leaves:
            array = rollouts.arrow(path)
            if path in (f"{name}.{field}" for field in ruler.axis) and name == "token" and array.null_count:
                row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
                yield Broken("lengths", row, path, "missing (null), needed is a list")
                continue
            if path in ("token.id", "token.mask") and array.flatten().null_count:
                place = int(np.flatnonzero(array.flatten().is_null().to_numpy(zero_copy_only=False))[0])
                row = int(np.searchsorted(np.cumsum(_lengths(array, 0, path)), place, side="right"))
                yield Broken("missing", row, path, "a missing (null) value inside its list")
                continue
            found = _lengths(array, -1, path)
            wrong = (found != expected) & (found >= 0)
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                yield Broken("lengths", row, path, f"{found[row]} values, but {axis!r} has {expected[row]}")


def _lengths(array: pa.Array, missing: int, path: str) -> Array:
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        raise DataError(f"column {path!r} is {array.type}, needed is a list")
    return pc.fill_null(array.value_lengths(), missing).to_numpy(zero_copy_only=False)


def _finite(rollouts: Rollouts, path: str) -> Iterator[Broken]:
    on_rollout = ruler_of(path) == "rollout"
    array = rollouts.arrow(path)
    inner = array.type if on_rollout else array.type.value_type
    if not pa.types.is_floating(inner):
        return
    if on_rollout:
        values = Ragged(rollouts.numbers(path), np.arange(len(rollouts) + 1))
        values = Ragged(np.where(array.is_null().to_numpy(zero_copy_only=False), 0.0, values.values), values.offsets)
    else:
        values = rollouts.ragged(path)
    finite = np.isfinite(values.values)
    if not finite.all():
        place = int(np.flatnonzero(~finite)[0])
        row, position = _where(values, place)
        yield Broken("finite", row, path, f"{values.values[place]} at position {position}, needed is a finite number")
        return
    if path == "token.logprob":
        positive = values.values > 0
        if positive.any():
            place = int(np.flatnonzero(positive)[0])
            row, position = _where(values, place)
            yield Broken("logprob", row, path, f"{values.values[place]} at position {position}, needed is <= 0")
    if is_credit(path):
        mask = rollouts.mask if values.present is None else rollouts.mask[rollouts.tokens.spread(values.present)]
        stray = (values.values != 0) & ~mask
        if stray.any():
            place = int(np.flatnonzero(stray)[0])
            row, position = _where(values, place)
            yield Broken(
                "masked_credit", row, path,
                f"{values.values[place]} at position {position}, which token.mask excludes; needed is 0",
            )  # fmt: skip


def _where(values: Ragged, place: int) -> tuple[int, int]:
    row = int(np.searchsorted(values.offsets, place, side="right") - 1)
    return row, place - int(values.offsets[row])


def _spans(rollouts: Rollouts, ruler: str, *, cover: bool) -> Iterator[Broken]:
    starts, ends = rollouts.ragged(f"{ruler}.start"), rollouts.ragged(f"{ruler}.end")
    rows = starts.segments
    lengths = rows.spread(rollouts.tokens.sizes)
    previous = np.concatenate(([0], ends.values[:-1]))
    previous[rows.starts[rows.sizes > 0]] = 0
    wrong = (starts.values > ends.values) | (starts.values < previous) | (ends.values > lengths)
    rule, needed = f"{ruler}_spans", "ordered, disjoint spans inside the response"
    if cover:
        wrong |= starts.values != previous
        needed = "spans that cover the response without a gap"
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        row, position = _where(starts, place)
        yield Broken(
            rule, row, f"{ruler}.start",
            f"span {position} is [{starts.values[place]}, {ends.values[place]}), needed are {needed}",
        )  # fmt: skip
        return
    if cover:
        assigned = np.ones(len(rollouts), bool) if starts.present is None else starts.present
        short = (rows.last(ends.values) != rollouts.tokens.sizes) & assigned
        if short.any():
            row = int(np.flatnonzero(short)[0])
            yield Broken(
                rule, row, f"{ruler}.end",
                f"the path ends at {rows.last(ends.values)[row]} of {rollouts.tokens.sizes[row]} tokens, needed are {needed}",
            )  # fmt: skip


def _siblings_agree(rollouts: Rollouts) -> Iterator[Broken]:
    """Rollouts of a group that share a node share its span and its tokens (compared by a 64-bit hash of the span)."""
    ids, starts, ends = (rollouts.ragged(f"node.{leaf}") for leaf in ("id", "start", "end"))
    node, rows = node_keys(rollouts, ids)
    spans = Segments.of_sizes((ends.values - starts.values).astype(np.int64))
    tokens = rollouts.token_ids.values
    if ids.present is None:
        mixed = tokens.astype(np.uint64)
    else:
        mixed = tokens[rollouts.tokens.spread(ids.present)].astype(np.uint64)
    mixed += spans.positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    digest = np.zeros(len(spans), np.uint64)
    filled = spans.sizes > 0
    if filled.any():
        digest[filled] = np.add.reduceat(mixed, spans.starts[filled])
    first = np.zeros(int(node.max()) + 1 if len(node) else 0, np.int64)
    first[node[::-1]] = np.arange(len(node))[::-1]
    model = first[node]
    differs = (digest != digest[model]) | (starts.values != starts.values[model]) | (ends.values != ends.values[model])
    if differs.any():
        place = int(np.flatnonzero(differs)[0])
        row = int(rows[place])
        yield Broken(
            "siblings", row, "node.id",
            f"node {ids.values[place]} holds other tokens than in row {rows[model[place]]} of the same group; rebuild the tree",
        )  # fmt: skip


def node_keys(rollouts: Rollouts, ids: Ragged) -> tuple[Array, Array]:
    """Path places [P] as keys of distinct nodes over the batch (group and node id), and the row of each place."""
    rows = ids.segments.ids
    groups = rollouts.groups.ids[rows]
    width = int(ids.values.max()) + 1 if len(ids.values) else 1
    return groups * width + ids.values, rows


def missing_paths(schema: pa.Schema, needed: tuple[str, ...]) -> list[str]:
    """Which of the needed columns a file lacks."""
    found = set(paths_of(schema))
    return [path for path in needed if path not in found]
