"""A rollout's tokens in the terminal, with their credit as colours or as marks, and the token that decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ...formats.invariants import is_credit
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..core.harmless import harmless, on_one_line
from ..models.token_texts import mark_ends
from .colours import Palette, credit_style, excluded_style, level_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

TABLE_WIDTH = 80  # columns of a terminal that a table needs
FEW_STRETCHES = 12  # of equal credit in a rollout; each has its number
ROUNDING = 1e-6  # of the largest credit of a rollout: what is nearer to the mean is equal to it
LONGEST_NAME = 24  # characters of a token in the table of credits


@dataclass(frozen=True)
class Painter:
    """How one signal of a group is drawn. full: the value with the full colour. relative: less the mean of its rollout.

    palette: None without colours. numbers: whether marks without colours are numbers, else levels.
    """

    signal: str | None
    full: float
    palette: Palette | None
    numbers: bool
    relative: bool

    @classmethod
    def of(
        cls, batch: Rollouts, rows: Sequence[int], signal: str | None, palette: Palette | None, *, relative: bool
    ) -> "Painter":
        """The scale is that of the whole group, the marks fit the rows."""
        draw = partial(cls, signal, palette=palette, relative=relative)
        painter = draw(full=0.0, numbers=True)
        drawn = [painter.values(batch, row) for row in range(len(batch))]
        full = max((float(np.abs(each).max()) for each in drawn if each is not None and len(each)), default=0.0)
        kept = [(each, _own(batch, row)) for row in rows if (each := drawn[row]) is not None]
        numbers = all(
            len(_stretch_ends([_number(value) for value in each[own]])) <= FEW_STRETCHES for each, own in kept
        )
        return draw(full=full, numbers=numbers)

    def values(self, batch: Rollouts, row: int) -> Array | None:
        """[T] as drawn; 0 for what the policy did not write, if relative. None where the rollout has none."""
        values = values_of(batch, row, self.signal)
        own = _own(batch, row)
        if values is None or not self.relative or not own.any():
            return values
        less = np.where(own, values - values[own].mean(), 0.0)
        return np.where(np.abs(less) > ROUNDING * np.abs(values[own]).max(), less, 0.0)

    def draw(self, batch: Rollouts, row: int, pieces: Sequence[str]) -> "Text":
        """The tokens of one rollout."""
        from rich.style import Style
        from rich.text import Text

        own, values, begins = _own(batch, row), self.values(batch, row), _step_starts(batch, row)
        decided = deciding_token(batch, row, self.signal)
        marks = self._marks(values, own) if values is not None and self.palette is None else {}
        out = Text()
        for place, piece in enumerate(pieces):
            if place in begins:
                out.append("┊", Style(color="yellow", dim=True))
            if not own[place]:
                style = excluded_style()
            elif values is None or self.palette is None:
                style = Style()
            else:
                style = credit_style(float(values[place]), self.full, self.palette)
            shown = mark_ends(piece)
            if place == decided and self.palette is None:
                shown = f"»{shown}«"
            elif place == decided:
                style += Style(bold=True, underline=True)
            out.append(shown, style)
            if place in marks:
                out.append(f"‹{marks[place]}›", Style(dim=True))
        return out

    def legend(self) -> str:
        """What the colours or marks mean. Empty where there is no signal."""
        if self.signal is None:
            return ""
        name = f"{self.signal} less its rollout's mean" if self.relative else self.signal
        token = self.signal.removeprefix("token.")
        decided = f"the token whose {token} is furthest from its rollout's mean" if is_credit(self.signal) else ""
        if self.palette is not None:
            how = f"colour: {name}, green above 0, red below, full at ±{self.full:.3g}"
            if self.palette == "16":
                how += f", background from ±{self.full / 3:.3g}"
            return how + (f"; bold and underlined: {decided}" if decided else "")
        if self.numbers:
            how = f"‹number›: {name} of the tokens before it, at most ±{self.full:.3g}"
        else:
            how = f"marks: {name} of the tokens before them; ‹+› above 0, ‹−› below, ‹++› and ‹−−› from ±{self.full / 2:.3g}"
            how += f" to ±{self.full:.3g}"
        return how + (f"; »…«: {decided}" if decided else "")

    def _marks(self, values: Array, own: Array) -> dict[int, str]:
        """What stands behind a token: the credit of it and of the policy's tokens before it, to the mark before."""
        places = np.flatnonzero(own)
        show = _number if self.numbers else partial(level_of, full=self.full)
        shown = [show(value) for value in values[places].tolist()]
        return {int(places[end]): shown[end] for end in _stretch_ends(shown)}


def values_of(batch: Rollouts, row: int, signal: str | None) -> Array | None:
    """[T] of one signal; None where the rollout has none."""
    if signal is None:
        return None
    column = batch.ragged(signal)
    missing = column.present is not None and not column.present[row]
    return None if missing else column[row].astype(np.float64)


def deciding_token(batch: Rollouts, row: int, signal: str | None) -> int | None:
    """The policy's token whose credit is furthest from the mean of its rollout, the first of several.

    None where all have the same credit, and for what is no credit.
    """
    values = values_of(batch, row, signal)
    places = np.flatnonzero(_own(batch, row))
    if values is None or signal is None or not is_credit(signal) or not len(places) or not np.ptp(values[places]):
        return None
    return int(places[np.argmax(np.abs(values[places] - values[places].mean()))])


def draw_credits(console: "Console", batch: Rollouts, row: int, pieces: Sequence[str]) -> None:
    """The credit columns of one rollout side by side, if it has several."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    own = _own(batch, row)
    found = {path: values_of(batch, row, path) for path in batch.paths if is_credit(path)}
    known = {path: values[own] for path, values in found.items() if values is not None and own.any()}
    if len(known) < 2:
        return
    headings = ("sum", "mean", "min", "max")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("credit", *headings, "decided"):
        text = heading in ("credit", "decided")
        table.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for path, values in known.items():
        place = deciding_token(batch, row, path)
        name = harmless(path.removeprefix("token."))
        numbers = [f"{each:+.3f}" for each in (values.sum(), values.mean(), values.min(), values.max())]
        decided = "–" if place is None else f"{_name(pieces[place])} ({place})"
        if console.width >= TABLE_WIDTH:
            table.add_row(Text(name), *numbers, Text(decided))
            continue
        line = ", ".join(f"{heading} {number}" for heading, number in zip(headings, numbers, strict=True))
        console.print(Padding(Text(f"{name}: {line}, decided {decided}"), (0, 0, 0, 2)))
    if table.row_count:
        console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _name(piece: str) -> str:
    shown = on_one_line(piece) or "·"
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"


def _own(batch: Rollouts, row: int) -> Array:
    return batch.mask[batch.tokens.offsets[row] : batch.tokens.offsets[row + 1]]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:+.2f}" if abs(value) >= 0.005 else f"{value:+.0e}"


def _stretch_ends(shown: Sequence[str]) -> list[int]:
    """The last place of each stretch of equal texts."""
    return [place for place, (one, other) in enumerate(pairwise([*shown, ""])) if one != other]


def _step_starts(batch: Rollouts, row: int) -> set[int]:
    """Response tokens at which a step begins, but for the first."""
    return {int(start) for start in batch.ragged("step.start")[row]} - {0} if "step.start" in batch else set()
