"""Bring a rollout file of any tool or earlier version into the format as it is now."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..core.options import ROLLOUTS_OUT

if TYPE_CHECKING:
    from ...formats.parquet import RolloutFile
    from ...formats.segments import Array
    from ..core.driver import Written


def upgrade(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", ROLLOUTS_OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Rewrite a rollout file into the current format: its types, encodings, row groups, and contiguous groups.

    Values stay as they are, but for float64 signals that the schema stores as float32. Rows move only where a group's rows
    are scattered: to the group's first row, in the order they had; such a file is read at once. Columns the schema does
    not know are kept, and so is the history. A file of a newer format is refused.
    """
    from ...formats.errors import UsageError
    from ...formats.files import check_output, whole_directory
    from ...formats.parquet import STREAM, files_of
    from ..core.driver import Written

    files = files_of(rollouts)
    if files == [rollouts]:
        return _upgrade_file(rollouts, out, force=force)
    if out == STREAM:
        raise UsageError(f"{rollouts}: a directory cannot be written to standard output; name a directory with -o")
    check_output(out, force=force, directory=True)
    counts = {"rollouts": 0, "groups": 0, "tokens": 0}
    with whole_directory(out, force=force) as folder:
        for file in files:
            written = _upgrade_file(file, folder / file.name, force=False)
            counts = {name: counts[name] + getattr(written, name) for name in counts}
    return Written(str(out), **counts)


def _upgrade_file(source: Path, out: Path, *, force: bool) -> "Written":
    from ... import __version__
    from ...formats.canonical import canonical
    from ...formats.errors import DataError
    from ...formats.parquet import STREAM, RolloutFile, check_output, write_rollouts
    from ...formats.provenance import Record
    from ...formats.rollouts import Rollouts
    from ..core.driver import Written
    from ..core.progress import track

    if out != STREAM:
        check_output(out, force=force)
    file = RolloutFile(source)
    if file.num_rows == 0:
        raise DataError(f"{source}: no rollouts in it")
    order = _gathering(file)

    def upgraded() -> Iterator[Rollouts]:
        batches = file.batches(check=False) if order is None else iter([file.read(check=False).take(order)])
        for batch in track(batches, total=file.num_row_groups if order is None else 1, what="upgrade"):
            try:
                yield canonical(batch)
            except DataError as error:
                raise DataError(f"{source}: {error}") from error

    record = Record(
        stage="upgrade",
        version=__version__,
        parameters={"from_format": file.provenance.format, "groups_gathered": order is not None},
        inputs={"rollouts": file.digest()},
    )
    counts = write_rollouts(out, upgraded(), file.provenance.with_record(record), force=force)
    return Written(str(out), **counts)


def _gathering(file: "RolloutFile") -> "Array | None":
    """[R] the rows by their group's first row, in order inside a group; None where they lie so already.

    Reads the one column that it takes. DataError for a row without a group.
    """
    import numpy as np
    import pyarrow as pa

    from ...formats.errors import DataError

    names = pa.concat_arrays(
        [batch.arrow("group_id").cast(pa.large_string()) for batch in file.row_groups(["group_id"])]
    )
    if names.null_count:
        row = int(np.flatnonzero(names.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file.path}: row {row}, column 'group_id': missing (null), expected a string")
    codes = names.dictionary_encode().indices.to_numpy()  # numbered as they first occur
    return None if (np.diff(codes) >= 0).all() else np.argsort(codes, kind="stable")
