"""What must hold in every rollout file, checked at every read and write and by `apportion validate`.

Each check is a vectorised pass over a batch of whole groups, and a generator of the rows that break its rule: one
finding for a row and column. Stages take the first and stop; `validate` takes them all. `RULES` says what each rule means.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError
from .ragged import Ragged
from .rollouts import Rollouts
from .rules import RULES as RULES
from .schema import FIELDS, RULERS, paths_of, ruler_of
from .segments import Array, Segments

_LARGEST_ID = np.iinfo(np.int32).max
_ON_ROLLOUT = ("reward", "weight", "temperature", "top_p")


@dataclass(frozen=True)
class Broken:
    """One broken rule. `row` counts within the batch."""

    rule: str
    row: int
    column: str
    message: str


class UsedNames:
    """The names a data set has used up so far; fed batch by batch, file by file, in order."""

    def __init__(self) -> None:
        self._rollouts: dict[str, tuple[str, int]] = {}
        self._groups: dict[str, tuple[str, int]] = {}
        self._file = ""
        self._row = 0
        self.split: set[str] = set()  # groups that occurred in two places

    def begin(self, file: str) -> None:
        """The next batch is the first of this file."""
        self._file, self._row = file, 0

    def taken(self, rollouts: Rollouts) -> Iterator[Broken]:
        """Rollouts whose id, and groups whose name, came before, in this batch or an earlier one. The batch's names are
        taken when this has been exhausted."""
        first, self._row = self._row, self._row + len(rollouts)
        starts = rollouts.groups.starts
        heads = rollouts.arrow("group_id").take(pa.array(starts)).to_pylist()
        if "rollout_id" in rollouts:
            ids = rollouts.strings("rollout_id")
            for row, name, place in self._repeated(self._rollouts, ids, range(len(ids)), first):
                yield Broken("duplicate_rollout", row, "rollout_id",
                             f"rollout_id {name!r} occurs in two places, first in {place}; expected a unique id")  # fmt: skip
        for row, name, place in self._repeated(self._groups, heads, starts.tolist(), first):
            self.split.add(name)
            yield Broken("split_group", row, "group_id",
                         f"group {name!r} occurs in two places, first from {place}; expected contiguous groups")  # fmt: skip

    def _repeated(
        self, seen: dict[str, tuple[str, int]], names: list[str | None], rows: Collection[int], first: int
    ) -> Iterator[tuple[int, str, str]]:
        file = self._file
        new = {name: (file, first + row) for name, row in zip(names, rows, strict=True)}
        if len(new) == len(names) and None not in new and seen.keys().isdisjoint(new):
            seen.update(new)  # type: ignore[arg-type]
            return
        for name, row in zip(names, rows, strict=True):
            if name is None:
                continue
            if name in seen:
                where, before = seen[name]
                yield row, name, f"row {before}" + (f" of {where}" if where != file else "")
            else:
                seen[name] = (file, first + row)


def broken_invariants(
    rollouts: Rollouts, columns: Collection[str] | None = None, names: UsedNames | None = None
) -> Iterator[Broken]:
    """Every invariant this batch breaks, lazily, one finding a row and column of a rule; no suspicions.

    `columns` leaves out the rules of all other columns but for lengths; the batch may have no more than it needs. Those
    that are `sound` already are not looked at again. `names` remembers those of earlier batches.
    """
    if len(rollouts) == 0:
        return
    names = names or UsedNames()
    chosen = [path for path in rollouts.paths if (columns is None or path in columns) and path not in rollouts.sound]
    unusable = np.zeros(len(rollouts), bool)
    yield from _identity(rollouts)
    for broken in _lists(rollouts):
        unusable[broken.row] = True
        yield broken
    sound, rows = without(rollouts, unusable)
    if "token.id" in sound and len(sound):
        for broken in _values(sound, chosen):
            yield replace(broken, row=int(rows[broken.row]))
    yield from names.taken(rollouts)


def check_batch(
    rollouts: Rollouts, where: str, columns: Collection[str] | None = None, names: UsedNames | None = None
) -> None:
    """DataError for the first broken invariant, with its place; see `broken_invariants`. If there is none, the columns
    are `sound` from now on; the axes of a ruler have rules together, and are so only if all of them were looked at."""
    try:
        for broken in broken_invariants(rollouts, columns, names):
            raise DataError(f"row {broken.row}, column {broken.column!r}: {broken.message}")
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    looked_at = set(rollouts.paths if columns is None else columns)
    for ruler in RULERS.values():
        axes = {f"{ruler.name}.{axis}" for axis in ruler.axis}
        if not axes <= looked_at:
            looked_at -= axes
    rollouts.sound |= looked_at


def is_credit(path: str) -> bool:
    """Columns on the token ruler that hold credit: `token.advantage` and what --as names (`token.advantage_…`)."""
    return path.startswith("token.advantage")


def without(rollouts: Rollouts, dropped: Array) -> tuple[Rollouts, Array]:
    """The batch without the rows where [R] is true, and the rows [M] that are left."""
    rows = np.flatnonzero(~dropped)
    return (rollouts if len(rows) == len(rollouts) else rollouts.take(rows)), rows


def _nulls(array: pa.Array) -> Array:
    """[N] places that are null."""
    if not array.null_count:
        return np.empty(0, np.int64)
    return np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))


def _by_row(offsets: Array, wrong: Array) -> Iterator[tuple[int, int, str, str]]:
    """(row, place, where, more) for every list in which [N] is true somewhere: its first such place, and words that
    say where in the list it is and how many more there are."""
    places = np.flatnonzero(wrong)
    if not len(places):
        return
    owners = np.searchsorted(offsets, places, side="right") - 1
    rows, firsts, counts = np.unique(owners, return_index=True, return_counts=True)
    for row, place, count in zip(rows.tolist(), places[firsts].tolist(), counts.tolist(), strict=True):
        yield row, place, f"at position {place - int(offsets[row])}", f" ({count} places)" if count > 1 else ""


# Rows that nothing can be computed on


def _identity(rollouts: Rollouts) -> Iterator[Broken]:
    for column in ("rollout_id", "group_id"):
        if column in rollouts:
            for row in _nulls(rollouts.arrow(column)).tolist():
                yield Broken("missing", row, column, "missing (null), expected a string")


def _lists(rollouts: Rollouts) -> Iterator[Broken]:
    """Lists that are missing or of another length than their ruler, and lists of numbers with a null in them."""
    for name, ruler in RULERS.items():
        leaves = [path for path in rollouts.paths if path.startswith(f"{name}.") and ruler_of(path) == name]
        if not leaves:
            continue
        axes = [path for path in (f"{name}.{field}" for field in ruler.axis) if path in leaves]
        axis = (axes or leaves)[0]
        expected = _lengths(rollouts.arrow(axis), -1, axis)
        for path in leaves:
            array = rollouts.arrow(path)
            found = _lengths(array, -1, path)
            wrong = found != expected
            if name == "token":  # whose axes are always there
                for row in np.flatnonzero(found < 0).tolist() if path in axes else ():
                    yield Broken("missing", row, path, "missing (null), expected a list")
                wrong &= (found >= 0) & (expected >= 0)
            elif path not in axes:
                wrong &= found >= 0  # a missing list is not assigned
            for row in np.flatnonzero(wrong).tolist():
                values = "missing (null)" if found[row] < 0 else f"{found[row]} values"
                needed = "is missing (null)" if expected[row] < 0 else f"has {expected[row]}"
                yield Broken("lengths", row, path, f"{values}, but {axis!r} {needed}")
            yield from _holes(array, path)
    if "prompt_ids" in rollouts:
        yield from _holes(rollouts.arrow("prompt_ids"), "prompt_ids")


def _lengths(array: pa.Array, missing: int, path: str) -> Array:
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        raise DataError(f"column {path!r} is {array.type}, expected a list")
    return pc.fill_null(array.value_lengths(), missing).to_numpy(zero_copy_only=False)


def _holes(array: pa.Array, path: str) -> Iterator[Broken]:
    kind = array.type.value_type
    if not (pa.types.is_primitive(kind) or pa.types.is_null(kind)):
        return
    flat = array.flatten()
    if flat.null_count:
        offsets = Segments.of_sizes(_lengths(array, 0, path)).offsets
        for row, _, where, more in _by_row(offsets, flat.is_null().to_numpy(zero_copy_only=False)):
            yield Broken("missing", row, path, f"a missing (null) value inside its list, {where}{more}")


# Values of rows whose lists are sound


def _values(rollouts: Rollouts, chosen: Collection[str]) -> Iterator[Broken]:
    for path in ("token.id", "prompt_ids"):
        if path in rollouts:
            yield from _token_ids(rollouts, path)
    for path in chosen:
        yield from _out_of_range(rollouts, path)
        if path in _ON_ROLLOUT or path.startswith("rewards."):
            yield from _finite_on_rollout(rollouts, path)
        elif ruler_of(path) != "rollout":
            yield from _signal(rollouts, path)
    if "episode_id" in chosen:
        yield from _parts(rollouts)
    for ruler in ("step", "node"):
        if f"{ruler}.start" in chosen and f"{ruler}.end" in chosen:  # sound together, or not
            off_path = np.zeros(len(rollouts), bool)
            for broken in _spans(rollouts, ruler, cover=ruler == "node"):
                off_path[broken.row] = True
                yield broken
            if f"{ruler}.id" in chosen:
                sound, rows = without(rollouts, off_path)
                for broken in _siblings_agree(sound, rows):
                    yield replace(broken, row=int(rows[broken.row]))


def _token_ids(rollouts: Rollouts, path: str) -> Iterator[Broken]:
    ids = rollouts.ragged(path)
    if len(ids.values) and (ids.values.min() < 0 or ids.values.max() > _LARGEST_ID):
        for row, place, where, more in _by_row(ids.offsets, (ids.values < 0) | (ids.values > _LARGEST_ID)):
            yield Broken("token_ids", row, path, f"{ids.values[place]} {where}, expected 0 to {_LARGEST_ID}{more}")


def _parts(rollouts: Rollouts) -> Iterator[Broken]:
    """Parts of an episode without a place in it, or at one that another part has."""
    if "part" not in rollouts:
        return
    episode, places, seen = rollouts.episodes, rollouts.strings("part"), set[tuple[int, int | None]]()
    for row in np.flatnonzero(np.bincount(episode)[episode] > 1).tolist():
        key = (int(episode[row]), places[row])
        if key[1] is None or key in seen:
            found = "missing (null)" if key[1] is None else f"{key[1]}, as another part of the same episode"
            yield Broken("episode_parts", row, "part", f"{found}; expected the row's place in its episode")
        seen.add(key)


def _out_of_range(rollouts: Rollouts, path: str) -> Iterator[Broken]:
    """Numbers outside of what their column may hold; those that are not finite are another rule's."""
    field = FIELDS.get(path)
    if field is None or (field.least is None and field.most is None):
        return
    on_rollout = field.ruler == "rollout"
    array = rollouts.arrow(path)
    if pa.types.is_null(array.type if on_rollout else array.type.value_type):
        return
    least = -np.inf if field.least is None else field.least
    most = np.inf if field.most is None else field.most
    needed = f"{least:g} or more" if most == np.inf else f"{least:g} to {most:g}"
    if on_rollout:
        missing = pa.scalar(max(least, 0), array.type)
        values = pc.fill_null(array, missing).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(((values < least) | (values > most)) & np.isfinite(values)).tolist():
            yield Broken("out_of_range", row, path, f"{values[row]}, expected {needed}")
        return
    signal = rollouts.ragged(path)
    wrong = ((signal.values < least) | (signal.values > most)) & np.isfinite(signal.values)
    for row, place, where, more in _by_row(signal.offsets, wrong):
        yield Broken("out_of_range", row, path, f"{signal.values[place]} {where}, expected {needed}{more}")


def _finite_on_rollout(rollouts: Rollouts, path: str) -> Iterator[Broken]:
    array = rollouts.arrow(path)
    if not pa.types.is_floating(array.type):
        return
    values = pc.fill_null(array, pa.scalar(0.0, array.type)).to_numpy(zero_copy_only=False)  # null is not given
    for row in np.flatnonzero(~np.isfinite(values)).tolist():
        name = rollouts.arrow("rollout_id")[row].as_py() if "rollout_id" in rollouts else row
        yield Broken("finite", row, path, f"{values[row]} for rollout {name!r}, expected a finite number")


def _signal(rollouts: Rollouts, path: str) -> Iterator[Broken]:
    kind = rollouts.arrow(path).type.value_type
    if not (pa.types.is_floating(kind) or (is_credit(path) and pa.types.is_integer(kind))):
        return
    signal = rollouts.ragged(path)
    values, offsets = signal.values, signal.offsets
    finite = np.isfinite(values)
    if not finite.all():
        for row, place, where, more in _by_row(offsets, ~finite):
            yield Broken("finite", row, path, f"{values[place]} {where}, expected a finite number{more}")
    if path.startswith("token.") and path.endswith("logprob"):
        for row, place, where, more in _by_row(offsets, (values > 0) & finite):
            yield Broken("logprob", row, path, f"{values[place]} {where}, expected <= 0{more}")
    if is_credit(path) and "token.mask" in rollouts:
        mask = rollouts.mask if signal.present is None else rollouts.mask[rollouts.tokens.spread(signal.present)]
        if not mask.all():
            for row, place, where, more in _by_row(offsets, (values != 0) & ~mask & finite):
                message = f"{values[place]} {where}, which token.mask excludes; expected 0{more}"
                yield Broken("masked_credit", row, path, message)


def _spans(rollouts: Rollouts, ruler: str, *, cover: bool) -> Iterator[Broken]:
    starts, ends = rollouts.ragged(f"{ruler}.start"), rollouts.ragged(f"{ruler}.end")
    rows = starts.segments
    lengths = rows.spread(rollouts.tokens.sizes)
    previous = np.zeros_like(ends.values)
    previous[1:] = ends.values[:-1]
    previous[rows.starts[rows.sizes > 0]] = 0
    wrong = (starts.values > ends.values) | (starts.values < previous) | (ends.values > lengths)
    rule, needed = f"{ruler}_spans", "ordered, disjoint spans inside the response"
    if cover:
        wrong |= starts.values != previous
        needed = "spans that cover the response without a gap"
    for row, place, where, more in _by_row(starts.offsets, wrong):
        span = f"[{starts.values[place]}, {ends.values[place]})"
        yield Broken(rule, row, f"{ruler}.start", f"the span {where} is {span}, expected {needed}{more}")
    if cover:
        last = rows.last(ends.values)
        short = (last != rollouts.tokens.sizes) & ~rows.any(wrong)
        if starts.present is not None:
            short &= starts.present
        for row in np.flatnonzero(short).tolist():
            yield Broken(
                rule, row, f"{ruler}.end",
                f"the path ends at {last[row]} of {rollouts.tokens.sizes[row]} tokens, expected {needed}",
            )  # fmt: skip


def _siblings_agree(rollouts: Rollouts, numbers: Array) -> Iterator[Broken]:
    """Rollouts of a group that share a node share its span and its tokens (compared by a 64-bit hash of the span).

    numbers: [R] what to call the rows.
    """
    ids, starts, ends = (rollouts.ragged(f"node.{leaf}") for leaf in ("id", "start", "end"))
    node, rows = node_keys(rollouts, ids)
    if not len(node):
        return
    if node.max() > 4 * len(node) + 1024:  # ids with gaps
        node = np.unique(node, return_inverse=True)[1]
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
    first = np.zeros(int(node.max()) + 1, np.int64)
    first[node[::-1]] = np.arange(len(node))[::-1]
    model = first[node]
    differs = (digest != digest[model]) | (starts.values != starts.values[model]) | (ends.values != ends.values[model])
    for row, place, _, more in _by_row(ids.offsets, differs):
        before = numbers[row] - numbers[rows[model[place]]]
        yield Broken(
            "siblings", row, "node.id",
            f"node {ids.values[place]} holds other tokens than {before} rows before, in the same group; rebuild the tree{more}",
        )  # fmt: skip


def node_keys(rollouts: Rollouts, ids: Ragged) -> tuple[Array, Array]:
    """Path places [P] as keys of distinct nodes over the batch (group and node id), and the row of each place."""
    rows = ids.segments.ids
    groups = rollouts.groups.ids[rows]
    if not len(ids.values):
        return groups, rows
    least = min(int(ids.values.min()), 0)
    width = int(ids.values.max()) - least + 1
    return groups * width + (ids.values - least), rows


def missing_paths(schema: pa.Schema, needed: Iterable[str]) -> list[str]:
    """Which of the needed columns a file lacks. `rewards.NAME` is any column of that form."""
    return lacking(paths_of(schema), needed)


def lacking(found: Iterable[str], needed: Iterable[str]) -> list[str]:
    """Which of the needed columns are not among those found.

    >>> lacking(["reward", "rewards.format"], ["reward", "rewards.NAME", "token.value"])
    ['token.value']
    """
    found = set(found)
    prefixes = {path.partition(".")[0] for path in found if "." in path}
    return [
        path
        for path in needed
        if path not in found and not (path.endswith(".NAME") and path[: -len(".NAME")] in prefixes)
    ]
