"""Tokens with their credit in colours and in marks, and the table of several credits."""

import io

import numpy as np
import pytest
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.core.console import WordsConsole
from apportion.stages.inspect.colours import credit_style, palette_of
from apportion.stages.inspect.drawn_tokens import Painter, deciding_token, draw_credits

PIECES = ["a", "b", "c", "d"]
SIGNAL = "token.advantage"


def credited(credit: list[float], mask: list[bool] | None = None, **others: list[float]) -> Rollouts:
    batch = rollouts_of([1.0], tokens=[list(range(len(credit)))], mask=None if mask is None else [mask])
    columns = {"advantage": credit, **others}
    return batch.with_columns(
        {f"token.{name}": Ragged.from_lists([values], np.float32) for name, values in columns.items()}
    )


def credits_table(batch: Rollouts, width: int) -> list[str]:
    console = WordsConsole(file=io.StringIO(), width=width)
    draw_credits(console, batch, 0, PIECES)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # pyright: ignore[reportAttributeAccessIssue]


def shown(batch: Rollouts) -> str:
    return Painter.of(batch, [0], SIGNAL, None, relative=False).draw(batch, 0, PIECES).plain


def test_without_colours_a_number_stands_where_the_credit_changes() -> None:
    assert shown(credited([0.5, 0.5, -0.25, 0.0])) == "ab‹+0.50›»c«‹-0.25›d‹0›"


def test_the_same_credit_on_both_sides_of_an_answer_is_one_stretch() -> None:
    assert shown(credited([0.5, 0.0, 0.0, 0.5], [True, False, False, True])) == "abcd‹+0.50›"


def test_levels_take_the_place_of_many_numbers() -> None:
    batch = credited([1.0, 0.9, 0.3, 0.2, -0.1, -0.2, -0.9, -0.8, 0.0, 0.6, 0.1, 0.7, 0.15, 0.75])
    painter = Painter.of(batch, [0], SIGNAL, None, relative=False)
    text = painter.draw(batch, 0, list("abcdefghijklmn")).plain
    assert text == "ab‹++›cd‹+›ef‹−›»g«h‹−−›i‹0›j‹++›k‹+›l‹++›m‹+›n‹++›"
    assert "‹++› and ‹−−› from ±0.5 to ±1" in painter.legend()


def test_relative_credit_is_less_the_mean_of_the_own_tokens() -> None:
    batch = credited([1.0, 2.0, 0.0, 3.0], [True, True, False, True])
    painter = Painter.of(batch, [0], SIGNAL, None, relative=True)
    assert painter.full == 1.0
    assert painter.draw(batch, 0, PIECES).plain == "»a«‹-1.00›b‹0›cd‹+1.00›"
    assert "token.advantage less its rollout's mean" in painter.legend()


def test_relative_credit_is_0_where_all_is_equal() -> None:
    batch = credited([0.1, 0.1, 0.1])
    painter = Painter.of(batch, [0], SIGNAL, None, relative=True)
    assert (painter.full, painter.draw(batch, 0, PIECES[:3]).plain) == (0.0, "abc‹0›")


def test_the_token_that_decided_is_furthest_from_the_mean_of_the_policys_tokens() -> None:
    assert deciding_token(credited([0.0, 9.0, 1.0, 5.0], [True, False, True, True]), 0, SIGNAL) == 3


def test_nothing_decided_where_all_credit_is_equal() -> None:
    assert deciding_token(credited([0.5, 0.5, 0.5]), 0, SIGNAL) is None
    assert deciding_token(credited([0.5, 0.0], [True, False]), 0, SIGNAL) is None
    assert deciding_token(credited([0.0, 0.0], [False, False]), 0, SIGNAL) is None


@pytest.mark.parametrize("palette", ["many", "16"])
def test_in_colour_the_token_that_decided_is_bold_and_underlined(palette: str) -> None:
    batch = credited([0.1, 0.1, 0.9, 0.1])
    painter = Painter.of(batch, [0], SIGNAL, palette, relative=False)  # pyright: ignore[reportArgumentType]
    text = painter.draw(batch, 0, PIECES)
    assert text.plain == "abcd"
    bold = [text.plain[span.start] for span in text.spans if span.style.bold and span.style.underline]  # pyright: ignore
    assert bold == ["c"]


def test_sixteen_colours_have_three_strengths() -> None:
    styles = [str(credit_style(value, 3.0, "16")) for value in (0.0, 0.5, 1.5, 3.0, -0.5, -1.5, -3.0)]
    assert styles == [
        "none", "green", "black on green", "black on bright_green", "red", "white on red", "black on bright_red",
    ]  # fmt: skip


def test_a_terminal_without_colours_has_no_palette() -> None:
    def palette(colors: str | None, *, no_color: bool = False) -> str | None:
        kind = {"color_system": colors, "no_color": no_color, "force_terminal": True}
        return palette_of(WordsConsole(file=io.StringIO(), **kind))

    assert [palette("truecolor"), palette("256"), palette("standard"), palette(None)] == ["many", "many", "16", None]
    assert palette("truecolor", no_color=True) is None


def test_several_credits_stand_side_by_side() -> None:
    batch = credited([0.5, 0.5, 0.5, 0.5], advantage_tempo=[0.0, 0.0, 2.0, 0.0])
    assert credits_table(batch, 80) == [
        "  credit              sum    mean     min     max  decided",
        "  advantage        +2.000  +0.500  +0.500  +0.500  –",
        "  advantage_tempo  +2.000  +0.500  +0.000  +2.000  c (2)",
    ]
    assert " ".join(" ".join(credits_table(batch, 40)).split()) == (
        "advantage: sum +2.000, mean +0.500, min +0.500, max +0.500, decided –"
        " advantage_tempo: sum +2.000, mean +0.500, min +0.000, max +2.000, decided c (2)"
    )
    assert credits_table(credited([0.5]), 80) == []
