"""Learning curves: reports side by side, as a table, a terminal plot and an SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.errors import UsageError
from .accuracy import Estimate, bootstrap
from .report import Report


@dataclass(frozen=True)
class Point:
    """pass@1 of one series at one place of the axis, over all its runs (seeds)."""

    series: str
    at: float
    estimate: Estimate
    runs: int


@dataclass(frozen=True)
class Curve:
    """points by series and place; gain: last minus first of each series, problems paired; out: the picture's path."""

    points: Sequence[Point]
    gain: Mapping[str, Estimate]
    axis: str
    out: str | None = None

    def series(self) -> list[str]:
        return list(dict.fromkeys(point.series for point in self.points))

    def of(self, series: str) -> list[Point]:
        return [point for point in self.points if point.series == series]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> None:
        from .plot import terminal_plot

        print(terminal_plot(self))
        width = max(len(name) for name in self.series())
        for name in self.series():
            first, last, gain = self.of(name)[0], self.of(name)[-1], self.gain[name]
            print(
                f"{name:<{width}}  held-out pass@1 {first.estimate.value:.3f} -> {last.estimate.value:.3f}: "
                f"{gain.value:+.3f}, 95 % interval [{gain.low:+.3f}, {gain.high:+.3f}] over problems"
                + (f", {last.runs} runs" if last.runs > 1 else "")
            )
        if self.out:
            print(f"plot: {self.out}")


def curve_of(reports: Sequence[Report], axis: str) -> Curve:
    """Reports grouped by series and place. Runs of one series at one place are averaged problem by problem.

    UsageError when there are none, or a series' reports are of different problems.
    """
    if not reports:
        raise UsageError("no reports to draw")
    cells: dict[tuple[str, float], list[Report]] = {}
    for report in reports:
        cells.setdefault((report.series or str(report.about.get("model", "policy")), report.at), []).append(report)
    rates = {cell: _rates(cell, members) for cell, members in sorted(cells.items())}
    points = [
        Point(series, at, bootstrap(np.array(list(rate.values()))), len(cells[series, at]))
        for (series, at), rate in rates.items()
    ]
    gain: dict[str, Estimate] = {}
    for series in dict.fromkeys(point.series for point in points):
        places = [at for name, at in rates if name == series]
        first, last = rates[series, places[0]], rates[series, places[-1]]
        if first.keys() != last.keys():
            raise UsageError(
                f"series {series!r}: its reports are of different problems; evaluate with one --seed and task"
            )
        gain[series] = bootstrap(np.array([last[name] - first[name] for name in first]))
    return Curve(points, gain, axis)


def _rates(cell: tuple[str, float], members: Sequence[Report]) -> dict[str, float]:
    names = members[0].per_problem.keys()
    for member in members:
        if member.per_problem.keys() != names:
            raise UsageError(
                f"series {cell[0]!r} at {cell[1]:g}: its reports are of different problems; use one eval seed"
            )
    return {
        name: float(np.mean([member.per_problem[name][1] / member.per_problem[name][0] for member in members]))
        for name in names
    }


def write_svg(curve: Curve, path: Path, *, force: bool) -> None:
    """The picture, whole or absent."""
    from ...formats.files import check_output, whole_file
    from .plot import svg_plot

    check_output(path, force=force)
    with whole_file(path) as temporary:
        temporary.write_text(svg_plot(curve))
