"""What a finding is: a measure of a rollout file above which training on it is likely to go wrong."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ...formats.segments import Array
from ..core.kinds import Entry, Kind

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Measured(NamedTuple):
    """value: the measure; None where there is nothing to measure. says: what was seen, in a sentence. rows: [R] bool, the
    rollouts that show it; None for a finding of the whole file."""

    value: float | None
    says: str = ""
    rows: Array | None = None


NOTHING = Measured(None)


def share(rows: Array, among: Array, noun: str) -> Measured:
    """The share of these rollouts [R] among others [R], nothing where there are none."""
    if not among.any():
        return NOTHING
    return Measured(float(rows.sum() / among.sum()), f"{rows.sum():,} of {among.sum():,} {noun}", rows)


@dataclass(frozen=True, kw_only=True)
class Finding(Entry):
    """`function(examined, *, above, …)` measures an `Examination`; the file has the finding where the value exceeds `above`.

    severity: error where training is wrong, warning where it is likely to fail or to be wasted, note where it may be meant.
    remedy: what to do.
    """

    shown = ("severity",)

    severity: Severity
    remedy: str


FINDINGS: Kind[Finding] = Kind("findings", "finding", __package__ or "", "apportion doctor IN --only {name}")


def finding(
    *,
    severity: Severity,
    remedy: str,
    needs: tuple[str, ...] = (),
    needs_with: Callable[..., Iterable[str]] | None = None,
    source: str = "ours",
) -> Callable[[Any], Any]:
    """Register the function under its own name. Its keyword-only parameters are thresholds, `above` among them."""
    return FINDINGS.adder(
        Finding, severity=severity, remedy=remedy, needs=needs, needs_with=needs_with, source=source, evidence="guess"
    )
