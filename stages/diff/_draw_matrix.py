"""The terminal view of three or more credits: a matrix a measure, or a list of the pairs where the terminal is too narrow."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ._draw import show_number
from ._found import Differences
from .agreement import Agreement

if TYPE_CHECKING:
    from rich.console import Console

MEASURES: "dict[str, Callable[[Agreement], str]]" = {
    "same sign": lambda found: show_number(found.same_sign, ".1%"),
    "Spearman": lambda found: show_number(found.spearman),
    "mean difference, scaled": lambda found: show_number(found.mean_difference, ".3f"),
}
NUMBER, GAP = 7, 2  # the widest number, and the space between columns


def draw_matrices(console: "Console", found: Differences) -> None:
    """Every pair: over tokens above the diagonal, over rollouts below it."""
    from rich.cells import cell_len

    names = _short_names(found.columns)
    console.print(f"{found.file}: {found.rollouts:,} rollouts, {len(names)} credit columns")
    lacking = [f"{count:,} in {name}" for name, count in zip(names, found.unassigned, strict=True) if count]
    if lacking:
        console.print(f"tokens without credit: {', '.join(lacking)}")
    widths = [cell_len(name) for name in names]
    width = max(widths) + sum(max(each, NUMBER) + GAP for each in widths)
    if width > console.width:
        _draw_list(console, found, names)
        return
    console.print("above the diagonal: over tokens; below it: over rollouts", style="dim")
    for measure in MEASURES:
        _draw_matrix(console, found, names, measure)


def _short_names(paths: Sequence[str]) -> list[str]:
    """As --columns takes them: grpo for token.advantage_grpo, unless two would be called alike.

    >>> _short_names(["token.advantage", "token.advantage_grpo"]), _short_names(["token.x", "token.advantage_x"])
    (['advantage', 'grpo'], ['x', 'advantage_x'])
    """
    names = [path.removeprefix("token.") for path in paths]
    short = [name.removeprefix("advantage_") for name in names]
    return short if len(set(short)) == len(short) else names


def _draw_matrix(console: "Console", found: Differences, names: list[str], measure: str) -> None:
    from rich.table import Table

    show = MEASURES[measure]
    cells = {(column, column): "" for column in found.columns}
    for pair in found.pairs:
        one, other = pair.columns
        cells |= {(one, other): show(pair.tokens), (other, one): show(pair.by_rollout)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for row, name in zip(found.columns, names, strict=True):
        table.add_row(name, *(cells[row, column] for column in found.columns))
    console.print()
    console.print(measure, style="bold")
    console.print(table)


def _draw_list(console: "Console", found: Differences, names: list[str]) -> None:
    """A paragraph a pair: its columns, then the measures over tokens and over rollouts."""
    from rich.padding import Padding
    from rich.table import Table

    known = dict(zip(found.columns, names, strict=True))
    for pair in found.pairs:
        console.print()
        console.print(" and ".join(known[path] for path in pair.columns), style="bold")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("", "tokens", "rollouts"):
            table.add_column(name, justify="right" if name else "left")
        for measure, show in MEASURES.items():
            table.add_row(measure, show(pair.tokens), show(pair.by_rollout))
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
