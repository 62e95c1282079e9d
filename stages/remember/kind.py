"""The kind of entry that makes a memory: rollouts and the previous memory in, the next memory out."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ... import __version__
from ...formats.errors import DataError, UsageError
from ...formats.memories import MemoryFile, write_memory
from ...formats.parquet import STREAM, RolloutFile, check_names, check_output, files_of
from ...formats.provenance import Provenance, Record
from ...formats.rollouts import Rollouts
from ..core.driver import require
from ..core.kinds import Entry, Evidence, Kind
from ..core.options import as_json
from ..core.plugins import plugin_digests
from ..core.progress import track
from ..core.results import check_result
from ..models.recorded import RECORDED, recorded_model


@dataclass(frozen=True, kw_only=True)
class Memory(Entry):
    """A registered memory. `function(batches, earlier, **options)` returns the next table; the first `earlier` is None.

    needs: columns of the rollouts that it reads. schema: schema of the table.
    """

    schema: pa.Schema

    def read(self, path: Path) -> pa.Table:
        """A memory's table from a file. UsageError if the file is missing, DataError if it is not such a memory."""
        return MemoryFile(path).read(self.name, self.schema)


MEMORIES: Kind[Memory] = Kind(
    "memories", "memory", __package__ or "", "apportion remember IN --what {name} --earlier MEMORY -o OUT"
)


def memory(
    *,
    needs: tuple[str, ...],
    schema: pa.Schema,
    source: str,
    evidence: Evidence | None = None,
    system: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Register the function under its own name. Its keyword-only parameters become `--set` options."""
    return MEMORIES.adder(Memory, needs=needs, source=source, evidence=evidence, system=system, schema=schema)


@dataclass(frozen=True)
class Updated:
    """What was written: the path, its number of rows, and how many rollouts were new."""

    out: str
    what: str
    rows: int
    rollouts: int

    def render(self) -> None:
        """Print one line on standard error."""
        print(f"{self.out}: {self.what}, {self.rows:,} rows; {self.rollouts:,} rollouts were new", file=sys.stderr)


def update_memory(
    rollouts: Path, *, what: str, earlier: Path | None, settings: Mapping[str, Any] | None, out: Path, force: bool
) -> Updated:
    """Do the work of `remember`. A UsageError or DataError names the place and comes before anything is written."""
    chosen = MEMORIES[what]
    if out == STREAM:
        raise UsageError("-: a memory cannot go to standard output; name a file with -o")
    check_output(out, force=force)
    options = MEMORIES.settle(what, settings)
    if options.get("model") == RECORDED:
        options["model"] = recorded_model(rollouts, f"memory {what!r}")
    before = None if earlier is None else MemoryFile(earlier)
    files = [RolloutFile(path) for path in files_of(rollouts)]
    check_names(files)
    inputs = {
        f"rollouts/{number}" if len(files) > 1 else "rollouts": each.digest() for number, each in enumerate(files)
    }
    if before is not None:
        known = {digest for record in before.provenance.history for digest in record.inputs.values()}
        for file in files:
            if file.digest() in known:
                raise UsageError(f"{file.path}: these rollouts are already in {earlier}; remember each file once")
        inputs["earlier"] = before.digest()
    for file in files:
        require(file, chosen.needs, f"memory {what!r}")
        if not file.num_rows:
            raise DataError(f"{file.path}: no rollouts in it")
    read = _Batches(files, chosen.needs)
    old = None if before is None else before.read(what, chosen.schema)
    try:
        table = chosen.function(iter(read), old, **options)
    except DataError as error:
        raise DataError(f"{read.place}{error}") from error
    check_result(isinstance(table, pa.Table), f"memory {what}", "a pyarrow Table", table)
    parameters = {"what": what, "settings": as_json(options)} | ({"earlier": "earlier"} if before is not None else {})
    record = Record(
        stage="remember",
        version=__version__,
        parameters=parameters,
        inputs={**inputs, **plugin_digests("remember", parameters)},
    )
    provenance = (before.provenance if before is not None else Provenance()).with_record(record)
    counts = {"rollouts": read.rollouts, "rows": table.num_rows}
    write_memory(out, what, table.cast(chosen.schema), provenance, counts, force=force)
    return Updated(str(out), what, table.num_rows, read.rollouts)


@dataclass
class _Batches:
    """The files' batches in order. place: file and row of the current batch, for messages."""

    files: Sequence[RolloutFile]
    needs: tuple[str, ...]
    rollouts: int = 0
    place: str = ""

    def __iter__(self) -> Iterator[Rollouts]:
        for file in self.files:
            row = 0
            for batch in track(file.batches(check=self.needs), total=file.num_row_groups, what="remember"):
                self.place = f"{file.path} (rows from {row}): "
                yield batch
                self.place = ""  # the reader's own messages already name the place
                row += len(batch)
                self.rollouts += len(batch)
