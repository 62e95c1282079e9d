"""The turns of a rollout in the terminal: a table, or a list where the terminal is narrow."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.harmless import harmless, on_one_line
from .colours import credit_style
from .drawn_tokens import TABLE_WIDTH, Painter
from .turns import CALL_FORMATS, Turn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

MOST_TURNS = 40
LONGEST = 240  # characters of a cell
MOST_LINES = 12  # of a cell
_PARTS = re.compile(r"[/\n]")


def draw_turns(console: "Console", turns: Sequence[Turn], painter: Painter) -> None:
    """Each turn with its credit of the column that is drawn, in the colour of its mean."""
    if not turns:
        return
    lines = [_cells(turn, following, painter.signal) for turn, following in zip(turns, [*turns[1:], None], strict=True)]
    lines = lines[:MOST_TURNS]
    headings = [name for name in lines[0] if any(line[name] for line in lines)]
    styles = [_credit_style(turn, painter) for turn in turns[:MOST_TURNS]]
    if console.width >= TABLE_WIDTH:
        _draw_table(console, headings, lines, styles)
    else:
        _draw_list(console, headings, lines, styles)
    if len(turns) > MOST_TURNS:
        console.print(f"  and {len(turns) - MOST_TURNS} more turns", style="dim")


def grid(state: str) -> str:
    """A state as lines where its parts are equally long; else on one line.

    >>> print(grid("PFF/FHG"))
    PFF
    FHG
    >>> grid("room 1/door open")
    'room 1/door open'
    """
    parts = _PARTS.split(state.strip("\n"))
    is_grid = len(parts) > 1 and len(parts[0]) > 1 and len({len(part) for part in parts}) == 1
    return "\n".join(parts) if is_grid else on_one_line(state)


def _cells(turn: Turn, following: Turn | None, signal: str | None) -> dict[str, str]:
    """What the turn shows by heading; empty where there is nothing."""
    credit = turn.credit.get(signal or "")
    calls = [f"{call.name} {call.arguments}" for call in turn.calls]
    if turn.fault:
        calls.append(f"unreadable: {turn.fault}")
    valid = [] if turn.valid is None else ["yes" if turn.valid else "no"]
    repeats = following is not None and following.state is not None and grid(turn.answer) == grid(following.state)
    return {
        "turn": str(turn.number),
        "state": "" if turn.state is None else _cut(grid(turn.state)),
        "action": _cut(_besides_calls(turn) if turn.calls else turn.action),
        "calls": _cut("\n".join(calls)),
        "answer": "" if repeats else _cut(grid(turn.answer)),
        "reward": "" if turn.reward is None else f"{turn.reward:g}",
        "valid": ", ".join([*valid, *(flag for flag in turn.flags if flag != "invalid")]),
        "credit": "" if credit is None else f"{credit.sum:+.3f}",
        "a token": "" if credit is None or turn.end - turn.start == 1 else f"{credit.mean:+.3f}",
    }


def _besides_calls(turn: Turn) -> str:
    """What the policy wrote before its first call."""
    if turn.action.lstrip().startswith("{"):
        return ""
    begins = [turn.action.find(form.begin) for form in CALL_FORMATS if form.begin and form.begin in turn.action]
    return turn.action[: min(begins)].strip() if begins else turn.action


def _cut(text: str) -> str:
    """As much of a text as a cell holds; pictures of what would do something, so that its width is known."""
    shown = harmless(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")
    lines = shown.split("\n")
    return shown if len(lines) <= MOST_LINES else "\n".join([*lines[: MOST_LINES - 1], "…"])


def _credit_style(turn: Turn, painter: Painter) -> "Style | str":
    credit = turn.credit.get(painter.signal or "")
    if credit is None or painter.palette is None or painter.relative:
        return ""
    return credit_style(credit.mean, painter.full, painter.palette)


def _draw_table(
    console: "Console", headings: Sequence[str], lines: Sequence[dict[str, str]], styles: "Sequence[Style | str]"
) -> None:
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        number = heading in ("turn", "reward", "credit", "a token")
        short = number or heading in ("state", "valid")
        table.add_column(
            heading, justify="right" if number else "left", overflow="fold", min_width=len(heading),
            ratio=None if short else 1, no_wrap=number,
        )  # fmt: skip
    for line, style in zip(lines, styles, strict=True):
        table.add_row(*(_cell(heading, line[heading], style) for heading in headings))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _draw_list(
    console: "Console", headings: Sequence[str], lines: Sequence[dict[str, str]], styles: "Sequence[Style | str]"
) -> None:
    from rich.padding import Padding
    from rich.table import Table

    for line, style in zip(lines, styles, strict=True):
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        console.print(f"  turn {line['turn']}", style="bold")
        for heading in headings:
            if heading != "turn" and line[heading]:
                table.add_row(heading, _cell(heading, line[heading], style))
        console.print(Padding(table, (0, 0, 0, 4), expand=False))


def _cell(heading: str, content: str, style: "Style | str") -> "Text":
    from rich.text import Text

    return Text(content, style if heading in ("credit", "a token") else "")
