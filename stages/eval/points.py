"""The points of learning curves: pass@1 of every series at every position on the axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .accuracy import Estimate


@dataclass(frozen=True)
class Point:
    """pass@1 of one series at one position, over all its runs (seeds). each: the mean of each run alone.

    lead: difference from the first series at this position, problems paired; None for the first series itself, and
    where it has no report.
    """

    series: str
    at: float
    estimate: Estimate
    each: Sequence[float]
    lead: Estimate | None = None

    @property
    def runs(self) -> int:
        return len(self.each)


@dataclass(frozen=True)
class Points:
    """points: by series and position. gain: each series' last minus first, problems paired. axis: what `at` counts."""

    points: Sequence[Point]
    gain: Mapping[str, Estimate]
    axis: str

    def series(self) -> list[str]:
        return list(dict.fromkeys(point.series for point in self.points))

    def of(self, series: str) -> list[Point]:
        return [point for point in self.points if point.series == series]
