"""Reading and writing rollout files: whole groups stream in, bounded row groups stream out, an output is whole or absent."""

import io
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DataError, ForeignFileError, UsageError
from .files import STREAM, check_output, whole_file
from .footer import Leaf, leaves_of
from .invariants import UsedNames, check_batch
from .provenance import Provenance
from .rollouts import Rollouts
from .schema import METADATA_KEY, check_schema
from .seal import checked_digest, read_seal, seal

TOKENS_PER_ROW_GROUP = 1 << 20
MOST_BYTES = "APPORTION_ROW_GROUP_BYTES"  # the environment variable that sets `most_bytes`
ROWS_AT_ONCE, BYTES_AT_ONCE = 1024, 1 << 28  # decoded together where texts might be long
FEW_BYTES = 1 << 28  # a leaf of texts that cannot need more is not measured
SAMPLE_ROWS, SAMPLE = 1024, 1 << 16  # rows and values an encoding is chosen by
FEW_DISTINCT = 0.25  # of the values; above, a dictionary costs more than it saves


class RolloutFile:
    """One rollout file, opened for reading. Only its footer is read until `batches` is called. sealed: it carries a digest of
    its own bytes (formats/seal.py).

    Raises DataError for a file that is not Parquet, is truncated, or is not a rollout file; UsageError when missing
    or a directory.
    """

    def __init__(self, path: Path):
        self.path = path
        self._digest: str | None = None
        self._content: bytes | None = None  # of standard input
        source: Any = path
        if path == STREAM:
            if sys.stdin is None or sys.stdin.isatty():
                raise UsageError("-: nothing is piped into standard input")
            content = sys.stdin.buffer.read()
            if not content:
                raise DataError("-: standard input is empty; did the command before it fail?")
            self._content = content
            source = pa.BufferReader(content)
        elif not os.path.exists(path):
            raise UsageError(f"{path}: no such file")
        elif os.path.isdir(path):
            raise UsageError(f"{path}: a directory, expected one file; `apportion merge` makes one of several")
        try:
            with self._bytes() as stream:
                self.sealed = read_seal(stream) is not None
            self._file = pq.ParquetFile(source, page_checksum_verification=True)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ForeignFileError(f"{path}: not a whole Parquet file ({_first_line(error)})", path) from error
        try:
            check_schema(self.schema)
        except (DataError, UnicodeDecodeError) as error:
            raise ForeignFileError(f"{path}: {error}", path) from error
        try:
            self.provenance = Provenance.from_metadata(self._file.metadata.metadata)
        except (DataError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}") from error

    @property
    def schema(self) -> pa.Schema:
        return self._file.schema_arrow

    @property
    def num_rows(self) -> int:
        return self._file.metadata.num_rows

    @property
    def num_row_groups(self) -> int:
        return self._file.num_row_groups

    def digest(self) -> str:
        """Digest of the file's bytes. DataError where they are not those that were sealed."""
        if self._digest is None:
            try:
                with self._bytes() as stream:
                    self._digest = checked_digest(stream)
            except DataError as error:
                raise DataError(f"{self.path}: {error}") from error
        return self._digest

    def _bytes(self) -> BinaryIO:
        return open(self.path, "rb") if self._content is None else io.BytesIO(self._content)

    def row_groups(self, columns: list[str] | None = None, *, rows_at_once: int | None = None) -> Iterator[Rollouts]:
        """The row groups as they lie in the file, without the empty ones; no invariant is checked. DataError for a damaged
        one, for a string that is no UTF-8, and for one that needs more memory than `most_bytes`.

        rows_at_once: parts of so many rows at most, so that only these have to fit into memory.
        """
        for index in range(self._file.num_row_groups):
            try:
                for table in self._tables(index, columns, rows_at_once):
                    self._check_texts(table, index)
                    if table.num_rows:
                        yield Rollouts(table.replace_schema_metadata(None))
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DataError(f"{self.path}: row group {index} is damaged ({_first_line(error)})") from error

    def _tables(self, index: int, columns: list[str] | None, rows_at_once: int | None) -> Iterator[pa.Table]:
        """A row group whole, or in parts."""
        size, texts = self._sizes(index, columns)
        self._check_size(index, size)
        if rows_at_once is not None:
            for batch in self._file.iter_batches(
                _step(rows_at_once, sum(leaf.bytes for leaf in texts)), [index], columns
            ):
                yield pa.Table.from_batches([batch])
            return
        # Texts that repeat are short in the file and long in memory: where they might be too long, they are measured.
        for leaf in texts:
            if leaf.bytes * leaf.values > FEW_BYTES:
                for batch in self._file.iter_batches(_step(ROWS_AT_ONCE, leaf.bytes), [index], [leaf.path]):
                    size += _leaf_bytes(batch.column(0))
                    self._check_size(index, size)
        yield self._file.read_row_group(index, columns=columns)

    @cached_property
    def _leaves(self) -> list[list[Leaf]]:
        with self._bytes() as stream:
            found = leaves_of(stream)
        if len(found) != self._file.num_row_groups:
            raise ValueError("its footer is damaged")
        return found

    def _sizes(self, index: int, columns: list[str] | None) -> tuple[int, list[Leaf]]:
        """Of these columns of a row group, as the footer has it: bytes of the numbers in memory and of the texts in the file;
        and the leaves of texts."""
        chosen = [
            leaf
            for leaf in self._leaves[index]
            if columns is None or any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in columns)
        ]
        size = sum(max(leaf.bytes, leaf.values * leaf.width) for leaf in chosen)
        return size, [leaf for leaf in chosen if leaf.is_text]

    def _check_size(self, index: int, size: int) -> None:
        if size > (most := most_bytes()):
            raise DataError(
                f"{self.path}: row group {index} needs {size:,} bytes of memory or more, and the limit is {most:,}; "
                f"write it with smaller row groups, or set {MOST_BYTES}"
            )

    def _check_texts(self, table: pa.Table, row_group: int) -> None:
        """DataError for bytes that are no text. pyarrow reads them as strings, and stumbles when Python wants one."""
        for name, column in zip(table.column_names, table.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                fault = _first_line(error).rpartition("Invalid: ")[2]
                raise DataError(
                    f"{self.path}: row group {row_group}, column {name!r}: {fault}; expected UTF-8"
                ) from error

    def batches(
        self, columns: list[str] | None = None, *, check: bool | Collection[str] = True, names: UsedNames | None = None
    ) -> Iterator[Rollouts]:
        """The row groups in order; each holds whole groups. `columns` are paths; None reads all.

        A file of another tool may spread a group over several row groups: its parts are joined here. DataError, with
        the place, where what is read breaks an invariant: of the columns in `check` (of all for True), and everywhere
        of names, lists and token ids. `check=False` leaves all of it to the caller. `names` are those of other files
        of the data set.
        """
        names = names or UsedNames()
        names.begin(str(self.path))
        row = 0
        for batch in self._whole_groups(columns):
            if check is not False:
                check_batch(batch, f"{self.path} (rows from {row})", None if check is True else check, names)
            row += len(batch)
            yield batch

    def _whole_groups(self, columns: list[str] | None) -> Iterator[Rollouts]:
        held: Rollouts | None = None
        for batch in self.row_groups(columns):
            if held is not None:
                if _last_group(held) == _first_group(batch):
                    held = Rollouts.concat([held, batch])
                    complete = int(held.groups.starts[-1])
                    if complete:
                        yield held.slice(0, complete)
                        held = held.slice(complete, len(held))
                    continue
                yield held
            held = batch
        if held is not None:
            yield held

    def read(self, columns: list[str] | None = None, *, check: bool | Collection[str] = True) -> Rollouts:
        """The whole file at once; see `batches`."""
        batches = list(self.batches(columns, check=check))
        if not batches:
            raise DataError(f"{self.path}: no rollouts in it")
        return Rollouts.concat(batches)


def most_bytes() -> int:
    """What one row group may need in memory: 4 GiB, or what the environment says. UsageError where that is no number."""
    text = os.environ.get(MOST_BYTES, str(1 << 32))
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{MOST_BYTES}={text}: expected a number of bytes")
    return int(text)


def _step(rows: int, longest: int) -> int:
    """How many rows are decoded together where a text has at most so many bytes."""
    return max(1, min(rows, BYTES_AT_ONCE // max(longest, 1)))


def _leaf_bytes(array: pa.Array) -> int:
    """Bytes of a column with one leaf; of a dictionary those of its indices."""
    while pa.types.is_nested(array.type):
        array = array.flatten()[0] if pa.types.is_struct(array.type) else array.flatten()
    return array.indices.nbytes if pa.types.is_dictionary(array.type) else array.nbytes


def check_names(files: Iterable[RolloutFile]) -> None:
    """DataError for the first rollout_id or group that occurs in two files of a data set. Reads these two columns."""
    names = UsedNames()
    for file in files:
        names.begin(str(file.path))
        for batch in file.row_groups(["rollout_id", "group_id"]):
            for broken in names.taken(batch):
                raise DataError(f"{file.path}: column {broken.column!r}: {broken.message}")


class RolloutWriter:
    """Writes batches of whole groups to a path, or to a stream that can be read as well, checking the invariants of each.

    Row groups hold at most `tokens_per_row_group` response tokens unless one group alone has more.
    """

    def __init__(self, target: Any, name: str, tokens_per_row_group: int = TOKENS_PER_ROW_GROUP):
        self._target = target
        self._name = name
        self._bound = tokens_per_row_group
        self._writer: pq.ParquetWriter | None = None
        self._schema: pa.Schema | None = None
        self._pending: list[Rollouts] = []
        self._pending_tokens = 0
        self._names = UsedNames()
        self.counts = {"rollouts": 0, "groups": 0, "tokens": 0}

    def write(self, batch: Rollouts) -> None:
        """Add whole groups. DataError names row and column of a broken invariant; rows count from the file's start."""
        if len(batch) == 0:
            return
        where = f"{self._name} (rows from {self.counts['rollouts']})"
        try:
            check_schema(batch.table.schema)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        check_batch(batch, where, names=self._names)
        self.counts["rollouts"] += len(batch)
        self.counts["groups"] += len(batch.groups)
        self.counts["tokens"] += batch.num_tokens
        tokens_per_group = np.diff(batch.tokens.offsets[batch.groups.offsets])
        first = 0
        for group, tokens in enumerate(tokens_per_group.tolist()):
            if self._pending_tokens and self._pending_tokens + tokens > self._bound:
                self._hold(batch, first, group)
                self._flush()
                first = group
            self._pending_tokens += tokens
        self._hold(batch, first, len(tokens_per_group))
        if self._pending_tokens >= self._bound:
            self._flush()

    def _hold(self, batch: Rollouts, first_group: int, end_group: int) -> None:
        if end_group > first_group:
            offsets = batch.groups.offsets
            self._pending.append(batch.slice(int(offsets[first_group]), int(offsets[end_group])))

    def _flush(self) -> None:
        if not self._pending:
            return
        table = Rollouts.concat(self._pending).table.combine_chunks()
        self._pending, self._pending_tokens = [], 0
        if self._writer is None:
            self._schema = table.schema
            self._writer = pq.ParquetWriter(self._target, table.schema, **encoding_of(table))
        elif table.schema != self._schema:
            table = _align(table, self._schema, self._name)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def close(self, provenance: Provenance) -> None:
        """Write the footer, and seal the file. DataError when nothing was written."""
        self._flush()
        if self._writer is None:
            raise DataError(f"{self._name}: no rollouts to write")
        self._writer.add_key_value_metadata({METADATA_KEY.decode(): provenance.to_json()})
        self._writer.close()
        seal(self._target)

    def abort(self) -> None:
        """Let go of the file."""
        if self._writer is not None:
            self._writer.close()


def partial_name(path: Path) -> Path:
    """Where the finished part of a file lies until the rest is there: beside it, and beside what a link names."""
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    return place.with_name(f"{place.name}.partial")


def write_rollouts(
    path: Path,
    batches: Iterable[Rollouts],
    provenance: Provenance,
    *,
    force: bool = False,
    is_partial: Callable[[], bool] = lambda: False,
    replace_partial: bool = False,
) -> dict[str, int]:
    """Write a whole file (or standard output for `-`) and return its counts. The last record of the history gets them.

    is_partial: asked when the batches have ended; a file that is only a part of what it should be gets `partial_name`,
    which may exist with `replace_partial`. UsageError when the output exists and `force` is false; nothing is left behind
    when anything fails.
    """
    if path == STREAM:
        buffer = io.BytesIO()
        counts = _write(buffer, "-", batches, provenance)
        sys.stdout.buffer.write(buffer.getbuffer())
        sys.stdout.buffer.flush()
        return counts
    check_output(path, force=force)

    def final() -> tuple[Path, bool]:
        return (partial_name(path), force or replace_partial) if is_partial() else (path, force)

    with whole_file(path, force=force, final=final) as temporary:
        return _write(temporary, str(path), batches, provenance)


def _write(target: Any, name: str, batches: Iterable[Rollouts], provenance: Provenance) -> dict[str, int]:
    writer = RolloutWriter(target, name)
    try:
        for batch in batches:
            writer.write(batch)
    except BaseException:
        writer.abort()
        raise
    history = provenance.history
    if history:
        last = history[-1]
        counted = type(last)(**{**vars(last), "counts": {**last.counts, **writer.counts}})
        provenance = Provenance(history=(*history[:-1], counted), facts=provenance.facts)
    writer.close(provenance)
    return writer.counts


def files_of(path: Path) -> list[Path]:
    """A data set's files: the file itself, or a directory's *.parquet by name. UsageError when there are none."""
    if path != STREAM and os.path.isdir(path):
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise UsageError(f"{path}: a directory without *.parquet files")
        return files
    return [path]


def encoding_of(table: pa.Table) -> dict[str, Any]:
    """pyarrow's write options for a file that begins with this table: zstd, and an encoding for every leaf.

    Chosen by the first values of each leaf. Numbers that repeat (credit of whole rollouts, rewards) get a dictionary, other
    floats byte-stream-split, other integers none: zstd finds more in plain token ids than any encoding leaves it. Strings get a
    dictionary, or delta encoding where each is another one.
    """
    dictionary: list[str] = []
    encodings: dict[str, str] = {}
    for path, values in _leaves(table):
        if pa.types.is_floating(values.type):
            if _few_distinct(values):
                dictionary.append(path)
            else:
                encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            if _few_distinct(values):
                dictionary.append(path)
            else:
                encodings[path] = "DELTA_BYTE_ARRAY"
        elif pa.types.is_dictionary(values.type):
            dictionary.append(path)
    return {"compression": "zstd", "compression_level": 3, "use_dictionary": dictionary, "column_encoding": encodings,
            "write_page_index": True, "write_page_checksum": True}  # fmt: skip


def _few_distinct(values: pa.Array) -> bool:
    wide = values.cast(pa.float32()) if pa.types.is_float16(values.type) else values  # halves cannot be compared
    return len(wide.unique()) <= len(wide) * FEW_DISTINCT


def _leaves(table: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    """Parquet's path of every leaf, with its first values, nulls left out."""

    def walk(path: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
        kind = values.type
        if pa.types.is_struct(kind):
            for child in kind:
                yield from walk(f"{path}.{child.name}", values.field(child.name))
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            yield from walk(f"{path}.list.element", values.flatten())
        else:
            yield path, values.drop_null()[:SAMPLE]

    for name in table.column_names:
        column = table.column(name)
        yield from walk(name, column.chunk(0)[:SAMPLE_ROWS] if column.num_chunks else pa.array([], column.type))


def _align(table: pa.Table, schema: pa.Schema | None, name: str) -> pa.Table:
    assert schema is not None
    try:
        return pa.Table.from_batches(table.to_batches(), table.schema).select(schema.names).cast(schema)
    except (KeyError, ValueError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{name}: a later part has other columns than the first ({_first_line(error)})") from error


def _last_group(batch: Rollouts) -> str:
    return batch.arrow("group_id")[len(batch) - 1].as_py()


def _first_group(batch: Rollouts) -> str:
    return batch.arrow("group_id")[0].as_py()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
