"""`merge` behind its signature."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ... import __version__
from ...formats.canonical import canonical_type
from ...formats.errors import DataError, UsageError
from ...formats.files import check_output
from ...formats.invariants import UsedNames
from ...formats.parquet import STREAM, RolloutFile, files_of, write_rollouts
from ...formats.provenance import Record
from ...formats.rollouts import Rollouts
from ..core.driver import Written
from ..core.progress import track
from ._histories import join_histories


def merge_files(sources: Sequence[Path], *, out: Path, force: bool) -> Written:
    """See `merge`. DataError for a group that two inputs share, and for a column whose types do not go together."""
    if list(sources).count(STREAM) > 1:
        raise UsageError("-: standard input can be read once; name it once")
    if out != STREAM:
        check_output(out, force=force)
    files = [RolloutFile(path) for source in sources for path in files_of(source)]
    for file in files:
        if file.num_rows == 0:
            raise DataError(f"{file.path}: no rollouts in it")
    _check_groups(files)
    schema = _union(files)
    record = Record(
        stage="merge",
        version=__version__,
        parameters={},
        inputs={f"rollouts/{index}": file.digest() for index, file in enumerate(files)},
    )
    provenance = join_histories([file.provenance for file in files], record)
    counts = write_rollouts(out, _batches(files, schema), provenance, force=force)
    return Written(str(out), **counts)


def _check_groups(files: Sequence[RolloutFile]) -> None:
    """DataError for the first group that is in two files. Reads this one column."""
    seen: dict[str, Path] = {}
    for file in files:
        found: set[str] = set()
        for batch in file.row_groups(["group_id"]):
            found.update(batch.arrow("group_id").unique().to_pylist())
        both = found & seen.keys()
        if both:
            name = min(both)
            raise DataError(
                f"{file.path}: group {name!r} is in {seen[name]} too ({len(both):,} such groups); "
                "expected inputs with different groups"
            )
        seen.update(dict.fromkeys(found, file.path))


def _union(files: Sequence[RolloutFile]) -> pa.Schema:
    """The columns of all files, those of the first one first, in types that hold the values of all."""
    schema = pa.schema([])
    for file in files:
        own = pa.schema([_stored_field(field) for field in file.schema])
        try:
            schema = pa.unify_schemas([schema, own], promote_options="permissive")
        except pa.ArrowTypeError as error:
            raise DataError(f"{file.path}: a column of another type than before ({error})") from error
    return schema


def _stored_field(field: pa.Field) -> pa.Field:
    """The column as the format stores it, so that one merged file is like one written at once."""
    kind = field.type
    if pa.types.is_struct(kind) and kind.num_fields:
        leaves = [pa.field(leaf.name, canonical_type(f"{field.name}.{leaf.name}", leaf.type)) for leaf in kind]
        return pa.field(field.name, pa.struct(leaves))
    return pa.field(field.name, canonical_type(field.name, kind))


def _batches(files: Sequence[RolloutFile], schema: pa.Schema) -> Iterator[Rollouts]:
    names = UsedNames()
    total = sum(file.num_row_groups for file in files)
    parts = ((file, batch) for file in files for batch in file.batches(check=(), names=names))
    for file, batch in track(parts, total=total, what="merge"):
        try:
            yield Rollouts(pa.table([_column(batch, field) for field in schema], schema=schema))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{file.path}: a value does not fit its column ({str(error).splitlines()[0]})") from error


def _column(batch: Rollouts, field: pa.Field) -> pa.Array:
    """One column in the union's type: null where the batch lacks it."""
    if pa.types.is_struct(field.type) and field.type.num_fields:
        leaves = [_leaf(batch, f"{field.name}.{leaf.name}", leaf.type) for leaf in field.type]
        return pa.StructArray.from_arrays(leaves, fields=list(field.type))
    return _leaf(batch, field.name, field.type)


def _leaf(batch: Rollouts, path: str, kind: pa.DataType) -> pa.Array:
    if path not in batch:
        return pa.nulls(len(batch), kind)
    array = batch.arrow(path)
    return array if array.type == kind else array.cast(kind)
