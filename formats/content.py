"""A digest of what a file says: its columns' names and values, whatever way they are stored.

Row groups, compression, encodings, dictionaries, integer and float widths, file metadata and the order of columns do not
count; the order of rows does. A missing value (null) is not 0, and a missing list is not an empty one.

A column is taken apart as Arrow holds it: where it is null, how long each list is, and the values themselves. Each part
is a stream of bytes that goes on from batch to batch, so where the batches end leaves no trace.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError
from .provenance import digest_of
from .rollouts import Rollouts
from .schema import paths_of
from .segments import Array

DECODED = 1 << 28  # bytes of a dictionary array that are decoded together


class ContentDigest:
    """Fed with batches one after another; holds a few hashes a column, never the rows.

    `paths` are the columns that count, rulers opened; None counts all of the first batch, and later ones must have the
    same. DataError for a column of a type that cannot be compared by value.
    """

    def __init__(self, paths: Iterable[str] | None = None):
        self.paths = sorted(paths) if paths is not None else None
        self.rollouts = 0
        self._streams: dict[str, dict[str, Any]] = {}
        self._lengths: Counter[str] = Counter()

    def update(self, batch: Rollouts) -> None:
        """Add the rows of a batch."""
        paths = self.paths
        if paths is None:
            paths = self.paths = sorted(paths_of(batch.table.schema))
        for path in paths:
            self._add(path, path, batch.arrow(path))
        self.rollouts += len(batch)

    def columns(self) -> dict[str, str]:
        """One digest for each column."""
        return {
            path: digest_of({part: stream.hexdigest() for part, stream in self._streams.get(path, {}).items()})
            for path in self.paths or ()
        }

    def hexdigest(self) -> str:
        """The digest of all of them with the number of rollouts."""
        return digest_of([self.rollouts, self.columns()])

    def _hash(self, path: str, part: str, content: Any) -> None:
        streams = self._streams.setdefault(path, {})
        if part not in streams:
            streams[part] = hashlib.blake2b(digest_size=16)
        streams[part].update(np.ascontiguousarray(content).data)

    def _add(self, path: str, place: str, array: pa.Array) -> None:
        """One level of a column: `place` names it in the column's tree of lists and structs."""
        if pa.types.is_dictionary(array.type):
            for part in _decode(array):
                self._add(path, place, part)
            return
        array = _without_storage(array)
        if array.null_count:
            rows = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)) + self._lengths[place]
            self._hash(path, f"{place} nulls", rows.astype("<i8"))
        self._lengths[place] += len(array)
        if array.null_count:
            array = array.drop_null()
        if not len(array):
            return
        kind = array.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._hash(path, f"{place} lengths", array.value_lengths().to_numpy(zero_copy_only=False).astype("<i8"))
            self._add(path, f"{place}[]", array.flatten())
        elif pa.types.is_struct(kind):
            for field, child in zip(kind, array.flatten(), strict=True):
                self._add(path, f"{place}.{field.name}", child)
            if not kind.num_fields:
                self._hash(path, f"{place} empty", np.full(len(array), 1, np.uint8))
        elif pa.types.is_large_binary(kind):
            lengths, content = _text(array)
            self._hash(path, f"{place} lengths", lengths)
            self._hash(path, f"{place} bytes", content)
        else:
            part, values = _numbers(path, array)
            self._hash(path, f"{place} {part}", values)


def _decode(array: pa.Array) -> Iterator[pa.Array]:
    """The values of a dictionary array in parts of at most DECODED bytes: few long texts can stand for more than fit into
    one array, or into memory."""
    values = array.dictionary
    text = pa.types.is_string(values.type) or pa.types.is_binary(values.type) or pa.types.is_large_string(values.type)
    longest = pc.call_function("binary_length", [values]).to_numpy(zero_copy_only=False) if text else np.empty(0)
    step = max(1, DECODED // int(max(np.nanmax(longest, initial=16), 1)))
    for start in range(0, len(array), step):
        yield array.slice(start, step).dictionary_decode()


def _without_storage(array: pa.Array) -> pa.Array:
    """The same values as a list, a struct, large_binary, or numbers."""
    kind, types = array.type, pa.types
    if isinstance(array, pa.ExtensionArray):
        return _without_storage(array.storage)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return array.cast(pa.large_string()).cast(pa.large_binary())
    if types.is_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return array.cast(pa.large_binary())
    if types.is_fixed_size_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind):
        return array.cast(pa.large_list(kind.value_type))
    if types.is_map(kind):
        return array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    return array


def _text(array: pa.Array) -> tuple[Array, Array]:
    """Of a large_binary array without nulls: the length of each value [N], and all bytes, one value after another."""
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if data is not None else np.empty(0, np.uint8)
    return np.diff(offsets).astype("<i8"), content


def _numbers(path: str, array: pa.Array) -> tuple[str, Array]:
    """The kind of the values, and the values [N] at the kind's full width."""
    kind, types = array.type, pa.types
    widths: tuple[tuple[Callable[[Any], bool], str], ...] = (
        (types.is_boolean, "u1"), (types.is_integer, "<i8"), (types.is_floating, "<f8"),
    )  # fmt: skip
    for is_kind, width in widths:
        if is_kind(kind):
            values = array.to_numpy(zero_copy_only=False).astype(width, copy=False)
            if width == "<f8":
                values = values + 0.0  # -0 is 0
                values[np.isnan(values)] = np.nan  # there is one NaN
            return width, values
    try:
        text = array.cast(pa.string()).cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {path!r} is {kind}, which has no digest; leave it out with --columns") from error
    return str(kind), np.frombuffer("\0".join([*text.to_pylist(), ""]).encode(), np.uint8)
