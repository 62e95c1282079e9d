"""The turns of a rollout in the terminal."""

import io
from dataclasses import replace

from apportion.stages.core.console import WordsConsole
from apportion.stages.inspect.drawn_tokens import Painter
from apportion.stages.inspect.turn_table import draw_turns, grid
from apportion.stages.inspect.turns import ToolCall, Turn, TurnCredit

ONE = Turn(
    1, 0, 1, "go", 1, 2, "FP\nFG", kind="turn", state="PF/FG", reward=0.0, valid=False, flags=("invalid",),
    credit={"token.advantage": TurnCredit(-0.5, -0.5)},
)  # fmt: skip
TWO = Turn(
    2, 2, 3, "down", 3, 3, "", kind="turn", state="FP/FG", reward=1.0, valid=True, flags=("truncated",),
    credit={"token.advantage": TurnCredit(1.0, 1.0)},
)  # fmt: skip


def lines(*turns: Turn, width: int = 80) -> list[str]:
    stream = io.StringIO()
    painter = Painter("token.advantage", 1.0, None, numbers=True, relative=False)
    draw_turns(WordsConsole(file=stream, width=width), turns, painter)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_turns_are_a_table_with_states_as_grids() -> None:
    assert lines(ONE, TWO) == [
        "  turn  state  action  reward  valid           credit",
        "     1  PF     go           0  no              -0.500",
        "        FG",
        "     2  FP     down         1  yes, truncated  +1.000",
        "        FG",
    ]


def test_an_answer_that_is_not_the_next_state_is_shown() -> None:
    assert "you fell" in "\n".join(lines(replace(ONE, answer="you fell"), TWO))


def test_turns_are_a_list_where_the_terminal_is_narrow() -> None:
    assert lines(ONE, width=40) == [
        "  turn 1", "    state   PF", "            FG", "    action  go", "    answer  FP", "            FG",
        "    reward  0", "    valid   no", "    credit  -0.500",
    ]  # fmt: skip


def test_calls_stand_apart_from_what_was_said() -> None:
    said = 'so <tool>{"name": "add", "arguments": {"a": 1}}</tool>'
    turn = Turn(1, 0, 9, said, 9, 10, "2", calls=(ToolCall("add", '{"a": 1}'),))
    assert [" ".join(line.split()) for line in lines(turn)] == ["turn action calls answer", '1 so add {"a": 1} 2']


def test_a_rollout_without_turns_shows_none() -> None:
    assert lines() == []


def test_what_others_wrote_does_nothing_and_keeps_the_table_straight() -> None:
    plain = lines(replace(ONE, action="xxxx", answer="yyyy"), width=100)
    hostile = lines(replace(ONE, action="\x1b\u202e\x9b\r", answer="漢字"), width=100)
    assert "␛��␍" in hostile[1]
    assert [line.index("-0.500") for line in (plain[1], hostile[1])] == [
        plain[1].index("-0.500"),
        plain[1].index("-0.500") - 2,
    ]
    assert max(len(line) for line in lines(replace(ONE, action="z" * 10_000), width=40)) <= 40


def test_only_parts_of_equal_length_are_a_grid() -> None:
    assert grid("PF/FG") == grid("PF\nFG") == "PF\nFG"
    assert grid("room/kitchen") == "room/kitchen"
    assert grid("a/b") == "a/b"
