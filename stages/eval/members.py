"""Reports of a sweep: those in its members' folders, each with the member's variables in its series."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...formats.errors import UsageError
from .report import Report

SEED = "seed"  # members that differ in it alone are runs of one series


def labelled_reports(paths: Sequence[Path]) -> list[Report]:
    """Every report named, and those in each folder of a sweep. UsageError for a folder without any."""
    found: list[Report] = []
    for path in paths:
        found += list(_of_sweep(path)) if path.is_dir() else [Report.read(path)]
    return found


def _of_sweep(folder: Path) -> Iterator[Report]:
    """The reports below a folder; in the name of each one's series, the variables that its folders are named after."""
    found: list[tuple[str, Report]] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        variables = [part for part in Path(place).relative_to(folder).parts if "=" in part]
        label = ", ".join(part for part in variables if part.partition("=")[0] != SEED)
        for name in sorted(names):
            if name.endswith(".json") and _is_report(Path(place, name)):
                found.append((label, Report.read(Path(place, name))))
    if not found:
        raise UsageError(f"{folder}: no reports of `eval policy` in it; name a sweep's folder, or the reports")
    several = len({report.series for _, report in found}) > 1
    for label, report in found:
        own = report.series if several or not label else ""
        yield replace(report, series=", ".join(part for part in (own, label) if part))


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"pass_at", "per_problem"} <= content.keys()
