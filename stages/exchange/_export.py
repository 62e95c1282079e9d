"""`export` behind its signature."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...formats.errors import DataError, UsageError
from ...formats.files import STREAM, check_output, whole_file
from ...formats.parquet import RolloutFile, check_names, files_of
from ..core.driver import require
from .kind import EXPORTERS, Batches, Tally


@dataclass(frozen=True)
class Exported:
    """What was written: the place, the format and how many records of it. left_out: what became no record, by reason."""

    out: str
    format: str
    records: int
    left_out: dict[str, int] = field(default_factory=dict[str, int])

    def render(self) -> None:
        """Print one line on standard error."""
        left = f"; left out: {_reasons(self.left_out)}" if self.left_out else ""
        print(f"{self.out}: {self.records:,} records of {self.format}{left}", file=sys.stderr)


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

    with whole_file(out, force=force) as temporary:
        done = chosen.function(Batches(files), temporary, **options)
        tally = done if isinstance(done, Tally) else Tally(done)
        if not tally.records and tally.left_out:
            raise DataError(f"{rollouts}: nothing in it becomes a record of {format} ({_reasons(tally.left_out)})")
    return Exported(str(out), format, tally.records, dict(tally.left_out))


def _reasons(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in counts.items())
