"""The turns of a rollout, from the step ruler or from the holes of the mask."""

import numpy as np
import pyarrow as pa
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.inspect.turns import ToolCall, TurnCredit, calls_of, turns_of, without_marks

PIECES = ["go", " left", "<eos>", "P F", "<answer>", "down", "<eos>"]
OWN = [True, True, False, False, False, True, False]


def played(**columns: object) -> Rollouts:
    """A rollout of two turns: a reply between them, and the mark that ends the last."""
    batch = rollouts_of([1.0], tokens=[list(range(7))], mask=[OWN])
    advantage = Ragged.from_lists([[0.5, -0.25, 0.0, 0.0, 0.0, 2.0, 0.0]], np.float32)
    return batch.with_columns({"token.advantage": advantage, **columns})


def with_steps(kind: str = "turn") -> Rollouts:
    lists = {
        "step.start": [[0, 5]], "step.end": [[2, 6]], "step.kind": [[kind, kind]], "step.state": [["FP", "PF"]],
        "step.reward": [[0.0, 1.0]], "step.valid": [[False, True]],
    }  # fmt: skip
    return played(**{path: pa.array(value) for path, value in lists.items()}, flags=pa.array([["truncated"]]))


def test_a_turn_has_what_the_step_ruler_says_of_it() -> None:
    one, two = turns_of(with_steps(), 0, PIECES)
    assert (one.number, one.start, one.end, one.action) == (1, 0, 2, "go left")
    assert (one.answer_start, one.answer_end, one.answer) == (2, 5, "P F")
    assert (one.kind, one.state, one.reward, one.valid, one.flags) == ("turn", "FP", 0.0, False, ("invalid",))
    assert (two.action, two.answer, two.state, two.reward, two.flags) == ("down", "", "PF", 1.0, ("truncated",))


def test_the_credit_of_a_turn_is_that_of_its_own_tokens() -> None:
    one, two = turns_of(with_steps(), 0, PIECES)
    assert one.credit == {"token.advantage": TurnCredit(0.25, 0.125)}
    assert two.credit == {"token.advantage": TurnCredit(2.0, 2.0)}


def test_without_steps_each_stretch_that_the_policy_wrote_is_a_turn() -> None:
    one, two = turns_of(played(), 0, PIECES)
    assert (one.start, one.end, two.start, two.end) == (0, 2, 5, 6)
    assert (one.state, one.reward, one.valid) == (None, None, None)


def test_steps_of_reasoning_are_no_turns() -> None:
    assert [turn.state for turn in turns_of(with_steps("step"), 0, PIECES)] == [None, None]
    assert turns_of(rollouts_of([1.0], tokens=[[1, 2]]), 0, ["a", "b"]) == []


def test_a_rollout_without_credit_has_turns_without() -> None:
    missing = {"token.advantage": pa.array([None], pa.list_(pa.float32()))}
    assert [turn.credit for turn in turns_of(with_steps().with_columns(missing), 0, PIECES)] == [{}, {}]


def test_calls_are_read_as_chat_templates_write_them() -> None:
    call = (ToolCall("add", '{"a": 1}'),)
    assert calls_of('hm <tool>{"name": "add", "arguments": {"a": 1}}</tool>') == (call, "")
    assert calls_of('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>') == (call, "")
    assert calls_of('[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]') == (call, "")
    assert calls_of('{"name": "add", "parameters": {"a": 1}}') == (call, "")
    assert calls_of('<function=add>{"a": 1}</function>') == (call, "")
    assert calls_of('{"name": 3') == ((), "the tool call is not JSON")
    assert calls_of("so 2 < 3") == ((), "")


def test_the_marks_of_a_chat_template_are_not_part_of_the_words() -> None:
    assert without_marks("<|im_end|>\n<|im_start|>tool\n8<|im_end|>\n<|im_start|>assistant\n") == "8"
    assert without_marks("<s>" * 100_000) == ""
    assert without_marks("user says <b>") == "user says <b>"
