"""Check rollout files against the rules of the format."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...formats.errors import ApportionError, DataError, unknown
from ...formats.rules import RULES
from ..core.options import check_numbers
from ..core.ranges import AtLeast
from ..eval.gated import FailIf, Gated, gates_of

if TYPE_CHECKING:
    from ...formats.invariants import UsedNames
    from ...formats.parquet import RolloutFile
    from ..inspect.statistics import FileTally

COUNTS = dict.fromkeys((f"counts.{rule}" for rule in RULES), 0)  # of rules that nothing breaks, as gates name them


@dataclass(frozen=True)
class Finding:
    """One broken rule; `row` counts from the file's start. Row and column are None where it is about the file."""

    rule: str
    severity: str
    file: str
    row: int | None
    column: str | None
    message: str


@dataclass(frozen=True)
class Validation(Gated):
    """What was checked and what is broken. counts: findings of each rule that has any; limit: of each rule, printed.
    statistics: the figures of `inspect --stats`, undefined where an invariant is broken."""

    path: str
    rollouts: int
    findings: list[Finding]
    counts: dict[str, int]
    limit: int
    statistics: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        content = asdict(replace(self, gates=()))
        statistics = content.pop("statistics")
        del content["limit"], content["gates"]
        return content | statistics

    def figures(self) -> dict[str, float | None]:
        """Also the count of every rule that nothing breaks."""
        return COUNTS | super().figures()

    def render(self) -> None:
        printed: Counter[str] = Counter()
        for each in self.findings:
            printed[each.rule] += 1
            if printed[each.rule] <= self.limit:
                mark = "" if each.severity == "error" else f"{each.severity}: "
                place = "" if each.row is None else f"row {each.row}, column {each.column!r}: "
                print(f"{each.file}: {place}{mark}{each.message} [{each.rule}]")
        for rule, count in self.counts.items():
            if count > self.limit:
                print(f"{self.path}: {count - self.limit:,} more of [{rule}], {count:,} in all; --limit N lists more")
        if self._defects() is None:
            print(f"{self.path}: ok, {self.rollouts:,} rollouts")

    def fault(self) -> ApportionError | None:
        """What the command ends with: defects before gates."""
        return self._defects() or super().fault()

    def _defects(self) -> DataError | None:
        warnings = sum(each.severity == "warning" for each in self.findings)
        errors = sum(each.severity == "error" for each in self.findings)
        found = [f"{errors} broken invariants"] if errors else []
        if warnings:
            ignored = " ".join(f"--ignore {rule}" for rule in self.counts if RULES[rule].severity == "warning")
            found.append(f"{warnings} warnings (where they are meant: {ignored})")
        return DataError(f"{self.path}: {', '.join(found)}") if found else None


@check_numbers
def validate(
    path: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    ignore: Annotated[list[str] | None, "Rule that is not looked at; repeatable."] = None,
    limit: Annotated[int, "Findings of each rule that are printed; --json has them all.", AtLeast(0)] = 100,
    fail_if: FailIf = None,
) -> Validation:
    """Check every rule of the rollout format on every row; exit code 3 when one is broken, or looks as if.

    A directory is one data set, in which names occur once.
    """
    from ...formats.invariants import UsedNames
    from ...formats.parquet import RolloutFile, files_of
    from ..inspect.statistics import FileTally

    gates = gates_of(fail_if)
    for gate in gates:
        gate.check(("rollouts", *COUNTS, *FileTally().result().figures()))
    for name in ignore or ():
        if name not in RULES:
            raise unknown("rule", name, RULES)
    names, group_of_episode = UsedNames(), dict[str, str]()
    found: list[tuple[Finding, str]] = []
    rollouts, tally = 0, FileTally(signals=False)
    for part in files_of(path):
        file = RolloutFile(part)
        file.digest()  # of a sealed file: whether its bytes are those that were written
        rollouts += file.num_rows
        found += _findings(file, names, group_of_episode, tally)
    if not rollouts:
        raise DataError(f"{path}: no rollouts in it")
    findings = [
        finding
        for finding, group in found
        if finding.rule not in (ignore or ()) and not (finding.severity == "warning" and group in names.split)
    ]
    counts = Counter(finding.rule for finding in findings)
    is_sound = not any(finding.severity == "error" for finding, _ in found)
    statistics = tally.result().figures() if is_sound else dict.fromkeys(tally.result().figures())
    told = {name: counts[name] for name in RULES if counts[name]}
    return Validation(str(path), rollouts, findings, told, limit, statistics, gates=gates)


def _rules() -> str:
    width = max(map(len, RULES)) + 2
    lines = [f"{rule.name:<{width}}{rule.meaning}" for rule in RULES.values() if rule.severity == "error"]
    told = [f"{rule.name:<{width}}{rule.meaning}" for rule in RULES.values() if rule.severity == "remark"]
    suspected = [f"{rule.name:<{width}}{rule.meaning}" for rule in RULES.values() if rule.severity == "warning"]
    return "\n\n    ".join(
        ["\b\n    " + "\n    ".join(["Invariants, which every stage insists on:", *lines]),
         "\b\n    " + "\n    ".join(["Suspicions, which no stage refuses; --ignore them where they are meant:", *suspected]),
         "\b\n    " + "\n    ".join(["Remarks, which change no exit code:", *told])]
    )  # fmt: skip


validate.__doc__ = f"{(validate.__doc__ or '').rstrip()}\n\n    {_rules()}\n    "


def _findings(
    file: "RolloutFile", names: "UsedNames", group_of_episode: dict[str, str], tally: "FileTally"
) -> Iterator[tuple[Finding, str]]:
    """The findings in one file, each with its row's group. names, group_of_episode: of the files before it."""
    from ...formats.invariants import Broken, broken_invariants
    from ...formats.suspicions import suspicions

    where = str(file.path)
    names.begin(where)
    row = 0

    def finding(broken: Broken, row: int) -> Finding:
        severity = RULES[broken.rule].severity
        return Finding(broken.rule, severity, where, row + broken.row, broken.column, broken.message)

    straddling = list(_straddling(file))
    for batch in file.batches(check=False):
        groups = batch.arrow("group_id")
        unusable: set[int] = set()
        try:
            for broken in broken_invariants(batch, names=names):
                unusable.add(broken.row)
                yield finding(broken, row), groups[broken.row].as_py()
            for broken in suspicions(batch, unusable, group_of_episode):
                yield finding(broken, row), groups[broken.row].as_py()
            if not unusable:
                tally.add(batch)
        except DataError as error:
            raise DataError(f"{where} (rows from {row}): {error}") from error
        row += len(batch)
    for place, group in straddling:
        message = f"group {group!r} goes on from the row group before, expected one row group"
        yield finding(Broken("straddled_group", place, "group_id", message), 0), group
    if not file.sealed:
        message = "without a seal, so that a damaged name or number may pass unseen; `apportion upgrade` adds one"
        yield Finding("unsealed", RULES["unsealed"].severity, where, None, None, message), ""


def _straddling(file: "RolloutFile") -> Iterator[tuple[int, str]]:
    """(row, group) wherever a row group begins inside a group."""
    row, last = 0, None
    for part in file.row_groups(["group_id"]):
        groups = part.arrow("group_id")
        first = groups[0].as_py()
        if first is not None and first == last:
            yield row, first
        row, last = row + len(part), groups[len(part) - 1].as_py()
