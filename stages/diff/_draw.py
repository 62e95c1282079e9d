"""The terminal view of a comparison: numbers, and the rollouts that disagree most with both credits beside their tokens."""

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from ..inspect.colours import credit_style, excluded_style
from ..models.token_texts import join_marked, mark_ends
from ._found import Difference, Disagreement

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MOST_LINES = 16  # stretches of a rollout in the table


def draw_comparison(console: "Console", found: Difference) -> None:
    """The whole of it."""
    from rich.rule import Rule
    from rich.table import Table

    one, other = _labels(found)
    console.print(f"a: {found.first}  {found.columns[0]}")
    console.print(f"b: {found.second}  {found.columns[1]}")
    line = f"{found.rollouts:,} rollouts compared"
    if found.only_first or found.only_second:
        line += f"; {found.only_first:,} only in a, {found.only_second:,} only in b"
    if found.first_unassigned or found.second_unassigned:
        line += f"; tokens without credit: {found.first_unassigned:,} in a, {found.second_unassigned:,} in b"
    console.print(line)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "tokens", "rollouts"):
        table.add_column(name, justify="right" if name else "left")
    for name, show in _ROWS.items():
        table.add_row(name, *(show(each) for each in (found.tokens, found.by_rollout)))
    console.print(table)
    for each in found.most:
        console.print(Rule(f"rollout {each.rollout_id}", align="left", style="dim"))
        reward = "" if each.reward is None else f"reward {each.reward:g}, "
        console.print(
            f"group {each.group_id}, {reward}mean difference {each.mean_difference:.3g}, same sign {each.same_sign:.1%}",
            style="dim",
        )  # fmt: skip
        for label, credit, scale in zip((one, other), (each.first, each.second), found.scales, strict=True):
            _draw_tokens(console, each, label, credit, scale)
        _draw_stretches(console, each, one, other, found.scales)
    if not found.most and found.tokens.mean_difference == 0:
        console.print("the two agree on every token, but for a factor")


def _labels(found: Difference) -> tuple[str, str]:
    names = [path.removeprefix("token.") for path in found.columns]
    return (f"a {names[0]}", f"b {names[1]}")


def show_number(value: float | None, shape: str = "+.3f") -> str:
    """A dash where it is undefined."""
    return "–" if value is None else f"{value:{shape}}"


_ROWS = {
    "compared": lambda found: f"{found.places:,}",
    "same sign": lambda found: show_number(found.same_sign, ".1%"),
    "opposite sign": lambda found: show_number(found.opposite, ".1%"),
    "Spearman": lambda found: show_number(found.spearman),
    "Pearson": lambda found: show_number(found.pearson),
    "credit on the same sign": lambda found: show_number(found.same_sign_mass, ".1%"),
    "mean difference, scaled": lambda found: show_number(found.mean_difference, ".3f"),
}  # fmt: skip


def _draw_tokens(console: "Console", found: Disagreement, label: str, credit: list[float | None], scale: float) -> None:
    from rich.padding import Padding
    from rich.text import Text

    tokens = Text()
    for text, value in zip(found.texts, credit, strict=True):
        tokens.append_text(_colour(mark_ends(text), value, scale))
    console.print(label, style="bold")
    console.print(Padding(tokens, (0, 0, 0, 2), expand=False))


def _draw_stretches(console: "Console", found: Disagreement, one: str, other: str, scales: tuple[float, float]) -> None:
    """The stretches of tokens with the same credit on both sides, in order; the nearest to each other are left out."""
    from rich.table import Table
    from rich.text import Text

    stretches = list(_stretches(found))

    def differs(stretch: tuple[int, int]) -> float:
        values = (found.first[stretch[0]], found.second[stretch[0]])
        a, b = (
            0.0 if value is None or not scale else value / scale for value, scale in zip(values, scales, strict=True)
        )
        return abs(a - b)

    chosen = set(sorted(stretches, key=differs, reverse=True)[:MOST_LINES])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("token", justify="right")
    table.add_column("text", overflow="fold")
    table.add_column(one, justify="right")
    table.add_column(other, justify="right")
    skipped = 0
    for start, end in stretches:
        if (start, end) not in chosen:
            skipped += end - start
            continue
        if skipped:
            table.add_row("…", Text(f"{skipped} tokens", style="dim"), "", "")
            skipped = 0
        values = (found.first[start], found.second[start])
        cells = [_colour(show_number(value), value, scale) for value, scale in zip(values, scales, strict=True)]
        text = join_marked(found.texts[start:end])
        place = str(start) if end == start + 1 else f"{start}–{end - 1}"
        table.add_row(place, Text(text if len(text) <= 60 else f"{text[:40]} … {text[-17:]}"), *cells)
    if skipped:
        table.add_row("…", Text(f"{skipped} tokens", style="dim"), "", "")
    console.print(table)


def _stretches(found: Disagreement) -> Iterator[tuple[int, int]]:
    """[start, end) of neighbouring tokens with the same credit on both sides."""
    start = 0
    for _, run in groupby(zip(found.first, found.second, strict=True)):
        end = start + sum(1 for _ in run)
        yield start, end
        start = end


def _colour(text: str, value: float | None, scale: float) -> "Text":
    """Full colour at three times the mean magnitude; dimmed where there is no credit."""
    from rich.text import Text

    return Text(text, excluded_style() if value is None else credit_style(value, 3 * scale))
