"""`Rollouts`: a batch of whole groups in memory, an Arrow table seen through its rulers."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError
from .ragged import Ragged
from .schema import FIELDS, RULERS, arrow_type, paths_of, ruler_of
from .segments import Array, Segments


class Rollouts:
    """R rollouts, T tokens in all. Immutable: `with_columns` gives a new batch that shares the memory of the rest.

    sound: columns whose own rules were found to hold (formats/invariants.py); a new batch has those it did not change.
    """

    def __init__(self, table: pa.Table, sound: frozenset[str] = frozenset()):
        self.table = table
        self.sound = sound

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def paths(self) -> list[str]:
        """Every column by its path."""
        return paths_of(self.table.schema)

    def __contains__(self, path: str) -> bool:
        return path in self.paths

    def arrow(self, path: str) -> pa.Array:
        """One column as a single Arrow array. DataError when there is none of that name."""
        if path not in self.paths:
            raise DataError(f"no column {path!r} (columns: {', '.join(self.paths)})")
        head, _, leaf = (path, "", "") if path in self.table.column_names else path.partition(".")
        column = self.table.column(head)
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if not leaf:
            return array
        return array.flatten()[array.type.get_field_index(leaf)]

    def ragged(self, path: str) -> Ragged:
        """A column of lists of numbers, flat. DataError names the column when a list holds a null."""
        try:
            return Ragged.from_arrow(self.arrow(path))
        except DataError as error:
            raise DataError(f"column {path!r}: {error}") from error

    def numbers(self, path: str) -> Array:
        """A rollout column [R] as numbers; a missing float is NaN. DataError for a missing integer."""
        array = self.arrow(path)
        if array.null_count and not pa.types.is_floating(array.type):
            if pa.types.is_null(array.type):
                return np.full(len(array), np.nan)
            raise DataError(f"column {path!r}: {array.null_count} missing (null) values")
        return array.to_numpy(zero_copy_only=False)

    def strings(self, path: str) -> list[Any]:
        """A rollout column as Python strings (None where missing). DataError where the bytes are no text."""
        try:
            return self.arrow(path).to_pylist()
        except UnicodeDecodeError as error:
            raise DataError(f"column {path!r}: {error}") from error

    @cached_property
    def token_ids(self) -> Ragged:
        return self.ragged("token.id")

    @cached_property
    def tokens(self) -> Segments:
        """The response tokens [T] as stretches, one per rollout."""
        return self.token_ids.segments

    @cached_property
    def mask(self) -> Array:
        """[T] bool: the policy wrote the token."""
        return self.ragged("token.mask").values

    @cached_property
    def trainable(self) -> Array:
        """[T] bool: the policy wrote the token, and `token.trainable` does not leave it out."""
        if "token.trainable" not in self:
            return self.mask
        chosen = self.ragged("token.trainable")
        if chosen.present is None:
            return self.mask & chosen.values
        everywhere = self.mask.copy()
        everywhere[self.tokens.spread(chosen.present)] &= chosen.values
        return everywhere

    @cached_property
    def episodes(self) -> Array:
        """[R] int64: equal where rows of a group are parts of one episode. A row without `episode_id` is one of its own."""
        own = np.arange(len(self))
        if "episode_id" not in self:
            return own
        codes = self.arrow("episode_id").cast(pa.string()).dictionary_encode().indices
        known = codes.is_valid().to_numpy(zero_copy_only=False)
        number = np.where(known, codes.fill_null(0).to_numpy(zero_copy_only=False), len(self) + own)
        return np.unique(self.groups.ids * (2 * len(self) + 1) + number, return_inverse=True)[1].reshape(-1)

    @cached_property
    def groups(self) -> Segments:
        """The rollouts [R] as stretches, one per group (same group_id, neighbours)."""
        codes = self.arrow("group_id").dictionary_encode().indices
        return Segments.of_runs(codes.to_numpy(zero_copy_only=False))

    @cached_property
    def num_tokens(self) -> int:
        return int(self.tokens.offsets[-1])

    def with_columns(self, columns: Mapping[str, Any]) -> "Rollouts":
        """A new batch with columns added or replaced: {path: Ragged | numpy array | Arrow array | list}.

        Known columns are stored in the schema's type; a new leaf of a ruler joins that ruler's struct.
        """
        table = self.table
        for path, values in columns.items():
            array = _as_arrow(path, values)
            head, _, leaf = path.partition(".")
            place = table.schema.get_field_index(head)
            if leaf:
                array = _with_leaf(table.column(place) if place >= 0 else None, leaf, array, len(self))
            table = table.set_column(place, head, array) if place >= 0 else table.append_column(head, array)
        axes = {f"{name}.{axis}" for name, ruler in RULERS.items() for axis in ruler.axis} | {"rollout_id", "group_id"}
        return Rollouts(table, self.sound - columns.keys() if axes.isdisjoint(columns) else frozenset())

    def with_missing(self, *paths: str) -> "Rollouts":
        """The same with these known columns, where they are not there yet: no flags, purpose train, all else missing
        (null). So every part of a file has them, whether there is something to write in it or not."""
        empty: dict[str, Any] = {path: pa.nulls(len(self), arrow_type(path)) for path in paths}
        empty |= {"flags": pa.array([[]] * len(self), arrow_type("flags")), "purpose": ["train"] * len(self)}
        return self.with_columns({path: empty[path] for path in paths if path not in self})

    @cached_property
    def for_training(self) -> Array:
        """[R] bool: `purpose` is train, or nothing is said of it."""
        if "purpose" not in self:
            return np.ones(len(self), bool)
        known = pc.call_function("equal", [self.arrow("purpose").cast(pa.string()), pa.scalar("train")])
        return known.fill_null(True).to_numpy(zero_copy_only=False)

    def with_flag(self, flag: str, where: Array) -> "Rollouts":
        """Add `flag` to the rows where [R] is true and it is not there yet."""
        add = where & ~self.flagged(flag)
        if not add.any():
            return self
        values, sizes = self._flags()
        lists = Segments.of_sizes(sizes + add)
        source = np.full(int(lists.offsets[-1]), len(values))  # the added flag stands behind all the others
        old = lists.positions < lists.spread(sizes)
        source[old] = np.arange(len(values))
        flags = pa.concat_arrays([values, pa.array([flag], values.type)]).take(pa.array(source))
        return self.with_columns({"flags": pa.ListArray.from_arrays(pa.array(lists.offsets, pa.int32()), flags)})

    def flagged(self, flag: str) -> Array:
        """[R] bool."""
        values, sizes = self._flags()
        matches = pc.call_function("equal", [values, pa.scalar(flag, values.type)])
        return Segments.of_sizes(sizes).any(matches.fill_null(False).to_numpy(zero_copy_only=False))

    def _flags(self) -> tuple[pa.Array, Array]:
        """(every row's flags, one after another, how many each row [R] has)."""
        if "flags" not in self:
            return pa.array([], pa.string()), np.zeros(len(self), np.int64)
        lists = self.arrow("flags")
        if pa.types.is_null(lists.type):
            return pa.array([], pa.string()), np.zeros(len(self), np.int64)
        sizes = pc.call_function("list_value_length", [lists]).fill_null(0).to_numpy(zero_copy_only=False)
        return lists.flatten().cast(pa.string()), sizes.astype(np.int64)

    def like(self, other: "Rollouts") -> "Rollouts":
        """The same rows with the columns of another batch, in its types: what it lacks is left out, what is lacking here
        is missing (null)."""

        def leaf(path: str, kind: pa.DataType) -> pa.Array:
            return self.arrow(path).cast(kind) if path in self else pa.nulls(len(self), kind)

        arrays: list[pa.Array] = []
        for field in other.table.schema:
            if pa.types.is_struct(field.type):
                leaves = [leaf(f"{field.name}.{child.name}", child.type) for child in field.type]
                arrays.append(pa.StructArray.from_arrays(leaves, fields=list(field.type)))
            else:
                arrays.append(leaf(field.name, field.type))
        return Rollouts(pa.table(arrays, schema=other.table.schema))

    def take(self, rows: Array) -> "Rollouts":
        """The given rows, in that order."""
        return Rollouts(self.table.take(pa.array(rows)))

    def slice(self, start: int, stop: int) -> "Rollouts":
        """Rows [start, stop), sharing memory."""
        return Rollouts(self.table.slice(start, stop - start))

    @staticmethod
    def concat(batches: "list[Rollouts]") -> "Rollouts":
        """Batches one after another."""
        if len(batches) == 1:
            return batches[0]
        return Rollouts(pa.concat_tables([batch.table for batch in batches], promote_options="default"))


def _as_arrow(path: str, values: Any) -> pa.Array:
    if isinstance(values, Ragged):
        values = values.to_arrow()
    field = FIELDS.get(path)
    if field is None:
        return values if isinstance(values, pa.Array) else pa.array(values)
    wanted = field.type if ruler_of(path) == "rollout" else pa.list_(field.type)
    if not isinstance(values, pa.Array):
        return pa.array(values, wanted)
    if pa.types.is_large_list(values.type):
        wanted = pa.large_list(field.type)
    return values if values.type == wanted else values.cast(wanted)


def _with_leaf(column: pa.ChunkedArray | None, leaf: str, array: pa.Array, rows: int) -> pa.Array:
    """The struct column with one leaf set; the other leaves keep their memory."""
    leaves: dict[str, pa.Array] = {}
    if column is not None:
        struct = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        leaves = dict(zip([f.name for f in struct.type], struct.flatten(), strict=True))
    leaves[leaf] = array
    if any(len(each) != rows for each in leaves.values()):
        raise ValueError(f"{leaf}: {len(array)} rows for {rows} rollouts")
    return pa.StructArray.from_arrays(list(leaves.values()), list(leaves))
