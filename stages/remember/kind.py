"""What a memory is: rollouts and the memory before them in, the next one out."""

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
from ..models.recorded import RECORDED, recorded_model


@dataclass(frozen=True, kw_only=True)
class Memory(Entry):
    """`function(batches, earlier, **options)` returns the next table; earlier is None the first time.

    needs: columns of the rollouts. schema: of the table.
    """

    schema: pa.Schema

    def read(self, path: Path) -> pa.Table:
        """One that was written. UsageError when it is missing, DataError for what is no such memory."""
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
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
        MEMORIES.add(
            Memory(
                name=function.__name__,
                function=function,
                needs=needs,
                source=source,
                evidence=evidence,
                system=system,
                schema=schema,
            )
        )
        return function

    return register


@dataclass(frozen=True)
class Updated:
    """What was written: the place, rows in it, and the rollouts that were new."""

    out: str
    what: str
    rows: int
    rollouts: int

    def render(self) -> None:
        """One line on standard error."""
        print(f"{self.out}: {self.what}, {self.rows:,} rows; {self.rollouts:,} rollouts were new", file=sys.stderr)


def update_memory(
    rollouts: Path, *, what: str, earlier: Path | None, settings: Mapping[str, Any] | None, out: Path, force: bool
) -> Updated:
    """The work of `remember`. UsageError, DataError: with the place, before anything is written."""
    chosen = MEMORIES[what]
    if out == STREAM:
        raise UsageError("-: a memory is a file beside the rollouts; name one with -o")
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
                raise UsageError(f"{file.path}: these rollouts are in {earlier} already")
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
    """The files' batches, one after the other. place: of the one that is being worked on, for messages."""

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
                self.place = ""  # the reader names the place itself
                row += len(batch)
                self.rollouts += len(batch)
