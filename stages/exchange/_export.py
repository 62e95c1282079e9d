"""`export` behind its signature."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...formats.errors import UsageError
from ...formats.files import STREAM, check_output, whole_file
from ...formats.parquet import RolloutFile, check_names, files_of
from ...formats.rollouts import Rollouts
from ..core.driver import require
from ..core.progress import track
from .kind import EXPORTERS


@dataclass(frozen=True)
class Exported:
    """What was written: the place, the format and how many records of it."""

    out: str
    format: str
    records: int

    def render(self) -> None:
        """Print one line on standard error."""
        print(f"{self.out}: {self.records:,} records of {self.format}", file=sys.stderr)


def export_file(rollouts: Path, *, format: str, settings: Mapping[str, Any] | None, out: Path, force: bool) -> Exported:
    """Do the work of `export`. UsageError and DataError name the place; nothing is left behind when it fails."""
    chosen = EXPORTERS[format]
    options = EXPORTERS.settle(format, settings)
    if out == STREAM:
        raise UsageError("-: an export cannot go to standard output; name a file with -o")
    if chosen.suffix and out.suffix != chosen.suffix:
        raise UsageError(f"{out}: {format} is written to a file that ends with {chosen.suffix}")
    check_output(out, force=force)
    files = [RolloutFile(path) for path in files_of(rollouts)]
    check_names(files)
    for file in files:
        require(file, chosen.ways_around(options), f"exporter {format}")

    def batches() -> Iterator[Rollouts]:
        for file in files:
            yield from track(file.batches(), total=file.num_row_groups, what="export")

    with whole_file(out, force=force) as temporary:
        records = chosen.function(batches(), temporary, **options)
    return Exported(str(out), format, records)
