"""Learning curves: reports side by side as a table, a terminal plot and an SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.errors import UsageError
from .accuracy import Estimate, bootstrap
from .gated import Gated
from .plot import svg_plot, terminal_plot
from .points import Point, Points
from .report import Report


@dataclass(frozen=True)
class Curve(Points, Gated):
    """Points with a picture. out: path of the picture."""

    out: str | None = None

    def to_json(self) -> dict[str, Any]:
        content = asdict(replace(self, gates=()))
        del content["gates"]
        return content

    def render(self) -> None:
        print(terminal_plot(self))
        if len(self.series()) > 1:
            self._render_table()
        width = max(len(name) for name in self.series())
        for name in self.series():
            first, last, gain = self.of(name)[0], self.of(name)[-1], self.gain[name]
            print(
                f"{name:<{width}}  held-out pass@1 {first.estimate.value:.3f} -> {last.estimate.value:.3f}: "
                f"{_format_signed(gain).replace(' ', ', 95 % interval ', 1)} over problems"
                + (f", {last.runs} runs" if last.runs > 1 else "")
            )
        if self.out:
            print(f"plot: {self.out}")

    def _render_table(self) -> None:
        """Print a row per position: pass@1 of every series with the range of its runs, and its lead over the first."""
        from rich.table import Table

        from ..core.console import WordsConsole

        first, *others = self.series()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in (self.axis, first, *(each for name in others for each in (name, f"{name} - {first}"))):
            table.add_column(heading, justify="right")
        for at in sorted({point.at for point in self.points}):
            here = {point.series: point for point in self.points if point.at == at}
            cells = [_cell(here.get(first))]
            for name in others:
                point = here.get(name)
                cells += [_cell(point), _format_signed(point.lead) if point and point.lead else ""]
            table.add_row(f"{at:,.0f}", *cells)
        WordsConsole().print(table)


def _cell(point: Point | None) -> str:
    if point is None:
        return ""
    spread = f" ({min(point.each):.3f}–{max(point.each):.3f})" if point.runs > 1 else ""
    return f"{point.estimate.value:.3f}{spread}"


def _format_signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def curve_of(reports: Sequence[Report], axis: str) -> Curve:
    """Learning curves from reports, grouped by series and position. Runs at one position are averaged per problem.

    UsageError if there are no reports, or if the reports of a series are on different problems.
    """
    if not reports:
        raise UsageError("no reports to draw; name at least one")
    cells: dict[tuple[str, float], list[Report]] = {}
    for report in reports:
        cells.setdefault((report.series or str(report.about.get("model", "policy")), report.at), []).append(report)
    rates = {cell: _rates(cell, members) for cell, members in sorted(cells.items())}
    leader = next(iter(rates))[0]
    points = [
        Point(
            series, at, _mean(rate), [_own_mean(member) for member in cells[series, at]],
            _lead(rate, rates.get((leader, at))) if series != leader else None,
        )
        for (series, at), rate in rates.items()
    ]  # fmt: skip
    gain: dict[str, Estimate] = {}
    for series in dict.fromkeys(point.series for point in points):
        places = [at for name, at in rates if name == series]
        first, last = rates[series, places[0]], rates[series, places[-1]]
        if first.keys() != last.keys():
            raise UsageError(
                f"series {series!r}: its reports are on different problems; evaluate all with the same --seed and --task"
            )
        gain[series] = bootstrap(np.array([last[name] - first[name] for name in first]))
    return Curve(points, gain, axis)


def _mean(rate: Mapping[str, float]) -> Estimate:
    return bootstrap(np.array(list(rate.values())))


def _own_mean(report: Report) -> float:
    return float(np.mean([right / samples for samples, right in report.per_problem.values()]))


def _lead(rate: Mapping[str, float], baseline: Mapping[str, float] | None) -> Estimate | None:
    if baseline is None or baseline.keys() != rate.keys():
        return None
    return bootstrap(np.array([rate[name] - baseline[name] for name in rate]))


def _rates(cell: tuple[str, float], members: Sequence[Report]) -> dict[str, float]:
    names = members[0].per_problem.keys()
    for member in members:
        if member.per_problem.keys() != names:
            raise UsageError(
                f"series {cell[0]!r} at {cell[1]:g}: its reports are on different problems; evaluate all with the same --seed"
            )
    return {
        name: float(np.mean([member.per_problem[name][1] / member.per_problem[name][0] for member in members]))
        for name in names
    }


def write_svg(curve: Curve, path: Path, *, force: bool) -> None:
    """Write the picture. The file is either complete or absent."""
    from ...formats.files import whole_file

    with whole_file(path, force=force) as temporary:
        temporary.write_text(svg_plot(curve))
