"""The points of learning curves: pass@1 of every series at every place of the axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .accuracy import Estimate


@dataclass(frozen=True)
class Point:
    """pass@1 of one series at one place of the axis, over all its runs (seeds). each: the mean of every run by itself.

    lead: minus the first series at this place, problems paired; None for the first series and where it has no report.
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
    """points by series and place; gain: last minus first of each series, problems paired. axis: what `at` counts."""

    points: Sequence[Point]
    gain: Mapping[str, Estimate]
    axis: str

    def series(self) -> list[str]:
        return list(dict.fromkeys(point.series for point in self.points))

    def of(self, series: str) -> list[Point]:
        return [point for point in self.points if point.series == series]
