"""The work of `doctor`: one pass over the file, every finding measured, and what is said of it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...formats.errors import ApportionError, DataError
from ...formats.invariants import UsedNames, lacking
from ...formats.parquet import RolloutFile, files_of
from ...formats.schema import paths_of
from ..core.progress import track
from ..core.remedies import remedy
from ..core.several import Several, names_in, settle_each
from ..eval.gated import Gated, gates_of
from ..models.recorded import check_recorded
from .examination import Examination, examples_of
from .kind import FINDINGS, SEVERITIES, Finding, Severity

COUNTS = tuple(f"{severity}s" for severity in SEVERITIES)  # what a gate may ask for beside the findings' names


@dataclass(frozen=True)
class Found:
    """A finding that the file has. value: what was measured; above: the threshold. examples: rollouts that show it."""

    name: str
    severity: Severity
    value: float
    above: float
    says: str
    meaning: str
    remedy: str
    examples: list[str]


@dataclass(frozen=True)
class Diagnosis(Gated):
    """measured: {finding: what was measured, None where there was nothing to measure}; not_checked: {finding: why not}."""

    path: str
    rollouts: int
    groups: int
    findings: Sequence[Found]
    measured: Mapping[str, float | None]
    not_checked: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """See docs/json.md."""
        content = {
            "path": self.path, "rollouts": self.rollouts, "groups": self.groups, **self._counts(),
            "findings": [vars(each) for each in self.findings], "measured": dict(self.measured), "not_checked": dict(self.not_checked),
        }  # fmt: skip
        return content

    def figures(self) -> dict[str, float | None]:
        """Every measure by its finding's name, and the numbers of findings by severity."""
        return {**dict.fromkeys(self.not_checked), **self.measured, **self._counts()}

    def _counts(self) -> dict[str, int]:
        counts = Counter(each.severity for each in self.findings)
        return {f"{severity}s": counts[severity] for severity in SEVERITIES}

    def render(self) -> None:
        """The findings, the gravest first."""
        for each in self.findings:
            print(f"{each.severity}: {each.name}: {each.says}")
            print(f"    {each.meaning}")
            print(f"    do: {each.remedy}")
            if each.examples:
                print(f"    e.g. {', '.join(each.examples)}")
        checked = len(self.measured)
        counts = {name: count for name, count in self._counts().items() if count}
        told = ", ".join(f"{count} {name.removesuffix('s') if count == 1 else name}" for name, count in counts.items())
        print(
            f"{self.path}: {told or 'nothing found'} ({checked} checks, {self.rollouts:,} rollouts, {self.groups:,} groups)"
        )
        if self.not_checked:
            print(f"not checked: {', '.join(self.not_checked)} (--json says why)")


def diagnose(
    path: Path, *, only: Several | None, ignore: Sequence[str] | None, settings: Mapping[str, Any] | None, model: str | None,
    fail_if: Sequence[str] | None,
) -> Diagnosis:  # fmt: skip
    """See `doctor`. UsageError for an unknown finding, threshold or figure, before the file is read."""
    left_out = [FINDINGS[name].name for name in ignore or ()]
    names = names_in(only, "--only") if only is not None else [each.name for each in FINDINGS]
    names = [name for name in names if name not in left_out]
    settled = settle_each(FINDINGS, names, settings)
    gates = gates_of(fail_if)
    for gate in gates:
        gate.check((*names, *COUNTS))
    files = [RolloutFile(each) for each in files_of(path)]
    columns = {column for file in files for column in paths_of(file.schema)}
    examined = _examine(files)
    if not len(examined):
        raise DataError(f"{path}: no rollouts in it")
    examined.decode, why_not = _decoder(files, model)
    found: list[Found] = []
    measured: dict[str, float | None] = {}
    not_checked: dict[str, str] = {}
    for each in settled:
        entry: Finding = each.entry
        missing = lacking(columns, entry.needs_for(each.options))
        if missing:
            not_checked[each.name] = f"no column {missing[0]!r}; {remedy(missing[0])}"
            continue
        if each.name == "text_drift" and examined.decode is None:
            not_checked[each.name] = why_not
            continue
        result = entry.function(examined, **each.options)
        measured[each.name] = result.value
        above = float(each.options["above"])
        if result.value is not None and result.value > above:
            examples = examples_of(examined.names, result.rows)
            found.append(
                Found(
                    each.name, entry.severity, result.value, above, result.says, entry.summary, entry.remedy, examples
                )
            )
    found.sort(key=lambda one: SEVERITIES.index(one.severity))
    return Diagnosis(str(path), len(examined), len(examined.groups), found, measured, not_checked, gates=gates)


def _examine(files: Sequence[RolloutFile]) -> Examination:
    examined, names = Examination(), UsedNames()
    for file in files:
        for batch in track(file.batches(names=names), total=file.num_row_groups, what="doctor"):
            examined.add(batch)
    return examined


def _decoder(files: Sequence[RolloutFile], model: str | None) -> tuple[Callable[[Sequence[int]], str] | None, str]:
    """(the recorded tokenizer's decoding, why there is none)."""
    records = [record for file in files for record in file.provenance.history]
    named = model or next(
        (
            str(each)
            for record in records
            if (each := record.parameters.get("model") or record.parameters.get("tokenizer"))
        ),
        None,
    )
    if named is None:
        return None, "the file names no tokenizer; name one with --model"
    try:
        if model is None:
            check_recorded(named)
        from ..models.policy import load_tokenizer

        tokenizer = load_tokenizer(named) if model is not None else load_tokenizer(named, look_up=False)
    except (ApportionError, ModuleNotFoundError) as error:
        return None, str(error)

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return decode, ""
