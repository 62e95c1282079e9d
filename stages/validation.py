"""Check a rollout file against the invariants."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from ..formats.errors import DataError


@dataclass(frozen=True)
class Finding:
    """One broken invariant; `row` counts from the file's start."""

    rule: str
    row: int
    column: str
    message: str


@dataclass(frozen=True)
class Validation:
    """What was checked and what is broken; nothing is in `findings` of a valid file."""

    path: str
    rollouts: int
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> None:
        for finding in self.findings:
            print(f"{self.path}: row {finding.row}, column {finding.column!r}: {finding.message} [{finding.rule}]")
        if not self.findings:
            print(f"{self.path}: ok, {self.rollouts:,} rollouts")

    def fault(self) -> DataError | None:
        """What the command ends with."""
        if not self.findings:
            return None
        return DataError(f"{self.path}: {len(self.findings)} broken invariants")


def validate(path: Annotated[Path, "Rollout file, or - for standard input."]) -> Validation:
    """Check every invariant of a rollout file; exit code 3 when one is broken."""
    from ..formats.invariants import broken_invariants
    from ..formats.parquet import RolloutFile

    file = RolloutFile(path)
    findings: list[Finding] = []
    groups: set[str] = set()
    rollouts: set[str] = set()
    row = 0
    for batch in file.batches(check=False):
        findings += [Finding(each.rule, row + each.row, each.column, each.message) for each in broken_invariants(batch)]
        for rule, column, seen in (
            ("split_group", "group_id", groups), ("duplicate_rollout", "rollout_id", rollouts),
        ):  # fmt: skip
            names = list(dict.fromkeys(batch.strings(column)))
            for name in names:
                if name in seen:
                    findings.append(Finding(rule, row, column, f"{name!r} occurs in an earlier row group too"))
                    break
            seen.update(names)
        row += len(batch)
    if row == 0:
        raise DataError(f"{path}: no rollouts in it")
    return Validation(str(path), row, findings)
