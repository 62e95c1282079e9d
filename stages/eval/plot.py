"""Draw a learning curve: in characters for the terminal, as SVG for web pages."""

from html import escape

import numpy as np

from ..core.harmless import harmless
from .points import Points

COLOURS = ("#2f6fde", "#d9480f", "#2b8a3e", "#9c36b5", "#c92a2a", "#0b7285")
MARKS = "●▲■◆✚★"
ROWS, COLUMNS = 14, 64


def terminal_plot(curve: Points) -> str:
    """pass@1 against the axis, with one mark per series and `│` for the interval."""
    low, high, left, right = _frame(curve)
    cells = [[" "] * COLUMNS for _ in range(ROWS)]

    def column(at: float) -> int:
        return round((at - left) / (right - left) * (COLUMNS - 1)) if right > left else 0

    def row(value: float) -> int:
        return ROWS - 1 - round((value - low) / (high - low) * (ROWS - 1))

    for name in curve.series():
        for point in curve.of(name):
            for each in range(row(point.estimate.high), row(point.estimate.low) + 1):
                cells[each][column(point.at)] = "│"
    for index, name in enumerate(curve.series()):
        for point in curve.of(name):
            cells[row(point.estimate.value)][column(point.at)] = MARKS[index % len(MARKS)]
    lines = []
    for index, line in enumerate(cells):
        value = high - (high - low) * index / (ROWS - 1)
        lines.append(f"{value:5.2f} ┤{''.join(line).rstrip()}")
    lines.append("      └" + "─" * COLUMNS)
    lines.append(f"       {left:<{COLUMNS // 2}g}{right:>{COLUMNS // 2}g}   {curve.axis}")
    names = "   ".join(f"{MARKS[i % len(MARKS)]} {name}" for i, name in enumerate(curve.series()))
    return "\n".join([f"held-out pass@1   {names}", *lines])


def svg_plot(curve: Points, width: int = 720, height: int = 400) -> str:
    """The plot as SVG, with a 95 % band around every series; readable on light and dark pages."""
    low, high, left, right = _frame(curve)
    x0, x1, y0, y1 = 64, width - 150, height - 56, 40

    def x(at: float) -> float:
        return x0 + (at - left) / max(right - left, 1e-12) * (x1 - x0)

    def y(value: float) -> float:
        return y0 + (value - low) / (high - low) * (y1 - y0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13">',
        '<style>text{fill:#333}.g{stroke:#8884}@media (prefers-color-scheme:dark){text{fill:#ddd}.b{fill:#16181d}}</style>',
        f'<rect class="b" width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{x0}" y="22" font-size="15">held-out pass@1, 95 % interval over problems</text>',
    ]  # fmt: skip
    for value in _ticks(low, high):
        parts.append(f'<line class="g" x1="{x0}" x2="{x1}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{x0 - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for at in _ticks(left, right):
        parts.append(f'<text x="{x(at):.1f}" y="{y0 + 20}" text-anchor="middle">{at:,.0f}</text>')
    parts.append(
        f'<text x="{(x0 + x1) / 2}" y="{height - 14}" text-anchor="middle">{escape(harmless(curve.axis))}</text>'
    )
    for index, name in enumerate(curve.series()):
        colour, points = COLOURS[index % len(COLOURS)], curve.of(name)
        over = [f"{x(p.at):.1f},{y(p.estimate.high):.1f}" for p in points]
        under = [f"{x(p.at):.1f},{y(p.estimate.low):.1f}" for p in reversed(points)]
        middle = " ".join(f"{x(p.at):.1f},{y(p.estimate.value):.1f}" for p in points)
        parts.append(f'<polygon points="{" ".join(over + under)}" fill="{colour}" opacity="0.16"/>')
        parts.append(f'<polyline points="{middle}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        for p in points:
            parts.append(f'<circle cx="{x(p.at):.1f}" cy="{y(p.estimate.value):.1f}" r="3" fill="{colour}"/>')
        top = y1 + 8 + 38 * index
        parts.append(f'<rect x="{x1 + 14}" y="{top}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x1 + 32}" y="{top + 11}">{escape(harmless(name))}</text>')
        parts.append(f'<text x="{x1 + 32}" y="{top + 27}" font-size="11">{points[-1].estimate.value:.3f}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _frame(curve: Points) -> tuple[float, float, float, float]:
    low = min(point.estimate.low for point in curve.points)
    high = max(point.estimate.high for point in curve.points)
    low, high = max(0.0, np.floor(low * 20) / 20), min(1.0, np.ceil(high * 20) / 20)
    if high - low < 0.1:
        high = min(1.0, low + 0.1)
        low = high - 0.1
    places = [point.at for point in curve.points]
    return float(low), float(high), min(places), max(places)


def _ticks(low: float, high: float) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** np.floor(np.log10(span))
    for fraction in (0.2, 0.5, 1.0):
        if span / (step * fraction) <= 7:
            step *= fraction
            break
    first = np.ceil(low / step - 1e-9)
    return [float(step * (first + i)) for i in range(int((high + step * 1e-9) / step - first + 1e-9) + 1)]
