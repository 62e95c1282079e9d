"""SLATE's sampling: candidates of every step, the choice among them, and how they are judged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.invariants import broken_invariants
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.models.engine import Completion, Sampling
from apportion.stages.models.kind import ENGINES, engine
from apportion.stages.models.policy import load_tokenizer
from apportion.stages.models.transformers._engine import TransformersEngine
from apportion.stages.sample._questions import score_of
from apportion.stages.sample._steps import Step, step_ends
from apportion.stages.sample.trees.truncate import Growth, advantages, choose
from apportion.stages.score import score
from apportion.stages.structure.batch import credit_of_batch
from apportion.stages.structure.turns import selection_probabilities
from apportion.stages.tasks import Problem
from apportion.stages.tasks.arithmetic import Arithmetic
from typer.testing import Result

from .conftest import Sampled, check_branches, check_logprobs

slate = METHODS["slate"].assign


def sets_of(rollouts: Rollouts) -> list[list[dict[str, Any]]]:
    """The rows of each group that were sampled from one prefix, in the order of the steps."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rollouts.table.to_pylist():
        found.setdefault((row["group_id"], row["parent_id"]), []).append(row)
    return list(found.values())


def test_the_worked_example() -> None:
    # methods A, SLATE: k = 5 at t = 0, an answer among them with a bonus of 0.1.
    found = advantages([2, 1, -1, 2.1, 2])
    np.testing.assert_allclose(found, [0.590976, -0.166686, -1.682010, 0.666743, 0.590976], atol=1e-6)
    expected = [0.286370, 0.097019, 0.011136, 0.319105, 0.286370]
    np.testing.assert_allclose(selection_probabilities(found, 0.7), expected, atol=1e-6)
    assert advantages([0.3, 0.3]).tolist() == [0.0, 0.0]
    assert advantages([1.0]).tolist() == [0.0]


def test_rows_are_candidates_that_leave_the_one_chosen_before_them(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=3)
    check_branches(rollouts)
    check_logprobs(rollouts)
    assert list(broken_invariants(rollouts)) == []
    rows = {row["rollout_id"]: row for row in rollouts.table.to_pylist()}
    for candidates in sets_of(rollouts):
        parent = rows.get(candidates[0]["parent_id"])
        before = parent["step"] if parent else {"start": [], "end": [], "kind": [], "reward": []}
        assert len(candidates) == (1 if len(before["end"]) == 4 else 3), "after 4 steps the rest comes in one piece"
        for row in candidates:
            size = len(row["token"]["id"])
            assert row["fork"] == (len(parent["token"]["id"]) if parent else None)
            assert row["step"]["start"] == [*before["start"], *(before["end"][-1:] or [0])]
            assert row["step"]["end"] == [*before["end"], size]
            assert row["step"]["reward"][:-1] == before["reward"]
            assert all(row["token"]["mask"])
            assert len(candidates) == 1 or row["text"].count("\n") == len(row["step"]["end"]) - (
                row["finish_reason"] == "stop"
            )
            assert row["step"]["kind"][-1] == ("answer" if row["finish_reason"] == "stop" else "step")
            assert row["flags"] == ([] if row["finish_reason"] == "stop" else ["partial"])
    parents = [row["parent_id"] for row in rows.values()]
    assert {rows[each]["step"]["kind"][-1] for each in parents if each} == {"step"}, "nothing goes on after an answer"


def test_the_first_candidates_are_the_first_lines_of_independent_responses(sampled: Sampled) -> None:
    first = [row["text"] for rows in sets_of(sampled("truncate", k=4)) if not rows[0]["parent_id"] for row in rows]
    alone = sampled("independent").strings("text")
    assert first == [text.splitlines(keepends=True)[0] for text in alone]


def test_without_temperature_the_best_is_continued(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=5, eta=0, bonus=0.4)
    steps, budget, chosen = 0, 4, 0
    parents = set(rollouts.strings("parent_id"))
    for candidates in sets_of(rollouts):
        index = len(candidates[0]["step"]["end"]) - 1
        last = [
            row["step"]["reward"][-1] + (row["step"]["kind"][-1] == "answer") * 0.4 * (budget - index) / budget
            for row in candidates
        ]
        went_on = [place for place, row in enumerate(candidates) if row["rollout_id"] in parents]
        steps += len(candidates) > 1
        chosen += len(went_on)
        assert went_on in ([], [int(np.argmax(last))])
    assert 0 < chosen < steps


def test_the_choice_has_the_chances_of_the_softmax() -> None:
    steps = [
        [Step(0, 1, kind, reward)]
        for kind, reward in zip(["step"] * 3 + ["answer", "step"], [2, 1, -1, 2, 2], strict=True)
    ]
    tree = Growth(Problem("", [], 0), Random(1), steps=steps)
    counts = np.zeros(5)
    for _ in range(20_000):
        choose(tree, range(5), 0.1, 0.7)
        counts[tree.at] += 1
    np.testing.assert_allclose(counts / 20_000, [0.286370, 0.097019, 0.011136, 0.319105, 0.286370], atol=0.01)


def test_after_the_budget_the_response_is_finished(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=3, budget=1)
    assert rollouts.groups.sizes.tolist() == [4, 4, 4]
    for candidates in sets_of(rollouts):
        if candidates[0]["parent_id"] is not None:
            (row,) = candidates
            assert row["finish_reason"] == "stop"
            assert row["step"]["kind"] == ["step", "answer"]
            assert row["flags"] == []


def test_an_answer_is_worth_what_the_task_says_and_a_step_what_comes_of_it(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=4, judge_temperature=0)
    task, worth = Arithmetic(), set()
    for row in rollouts.table.to_pylist():
        reward = row["step"]["reward"][-1]
        worth.add(reward)
        if row["step"]["kind"][-1] == "answer":
            assert reward == task.verify(row["text"], int(row["reference"]))
    assert worth == {0.0, 1.0}, "one greedy response each"
    mean = sampled("truncate", k=4, judge_samples=8)
    found = [row["step"]["reward"][-1] for row in mean.table.to_pylist() if row["flags"]]
    assert all(reward * 8 == round(reward * 8) for reward in found)
    assert any(0 < reward < 1 for reward in found)


def test_equal_candidates_are_worth_the_same(sampled: Sampled) -> None:
    for candidates in sets_of(sampled("truncate", k=5)):
        worth: dict[str, set[float]] = {}
        for row in candidates:
            worth.setdefault(row["text"], set()).add(row["step"]["reward"][-1])
        assert all(len(rewards) == 1 for rewards in worth.values())


def test_steps_of_so_many_tokens(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=2, step_tokens=4, budget=2)
    for candidates in sets_of(rollouts):
        for row in candidates:
            sizes = np.subtract(row["step"]["end"], row["step"]["start"])
            assert (sizes[:2] <= 4).all()
    assert "length" in rollouts.strings("finish_reason")
    check_branches(rollouts)


def test_the_budget_of_tokens_ends_a_response(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=2, options={"max_tokens": 9})
    assert rollouts.tokens.sizes.max() == 9
    for row in rollouts.table.to_pylist():
        cut = len(row["token"]["id"]) == 9
        assert row["finish_reason"] == ("length" if cut else "stop_text")
        assert row["flags"] == (["truncated"] if cut else ["partial"])


def test_a_text_that_answers_ends_the_response(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=2, answer=["="])
    assert rollouts.groups.sizes.tolist() == [2, 2, 2]
    assert all(row["text"].endswith("=") and row["step"]["kind"] == ["answer"] for row in rollouts.table.to_pylist())


def test_the_same_seed_makes_the_same_rows_in_parts_or_not(sampled: Sampled) -> None:
    first = sampled("truncate")
    assert first.table.equals(sampled("truncate").table)
    parts = sampled("truncate", rows_at_once=1)
    for path in ("rollout_id", "parent_id", "text", "step.reward", "seed"):
        assert parts.arrow(path).equals(first.arrow(path)), path
    assert not first.table.equals(sampled("truncate", options={"seed": 4}).table)


def test_from_the_command_line_to_credit(cli: Callable[..., Result], tmp_path: Path) -> None:
    rows, credit = tmp_path / "rows", tmp_path / "credit"
    line = "sample --strategy truncate --set k=4 --prompts 3 --seed 3 --max-tokens 40 --device cpu -o"
    for words in (
        [*line.split(), rows],
        ["validate", rows],
        ["assign-credit", rows, "--method", "slate", "-o", credit],
        ["validate", credit],
    ):
        result = cli(*words)
        assert result.exit_code == 0, result.output
    for candidates in sets_of(RolloutFile(credit).read()):
        index = len(candidates[0]["step"]["end"]) - 1
        bonus = 0.1 * max(4 - index, 0) / 4
        rewards = [row["step"]["reward"][-1] + bonus * (row["step"]["kind"][-1] == "answer") for row in candidates]
        for row, expected in zip(candidates, advantages(rewards), strict=True):
            found = row["token"]["advantage"]
            assert found[: row["fork"]] == [0.0] * (row["fork"] or 0) or row["fork"] is None
            np.testing.assert_allclose(found[row["fork"] or 0 :], expected, atol=1e-5)


def test_partial_rows_can_be_told_once_responses_are_scored(sampled: Sampled, tmp_path: Path) -> None:
    sampled("truncate", k=3)
    score(tmp_path / "sampled.parquet", out=tmp_path / "scored")
    scored = RolloutFile(tmp_path / "scored").read()
    whole = ~scored.flagged("partial")
    assert scored.groups.any(whole).all()
    for row in scored.take(np.flatnonzero(whole)).table.to_pylist():
        assert row["reward"] == row["step"]["reward"][-1]


def test_the_policy_as_a_judge(sampled: Sampled, scripted: Callable[..., Any]) -> None:
    def reply(text: str) -> str | None:
        if "Rate only the next step" in text:
            return "Fine. <score>1</score>" if "\n12-8=4\n" in text else "<score>-0.5</score>"
        return "No. Score: -1" if "Known answer:" in text else None

    opened = scripted(reply)
    rollouts = sampled("truncate", k=3, judge="policy", options={"engine": "scripted"})
    rows = rollouts.table.to_pylist()
    assert len(opened[0].read) == len(rows) + sum(row["step"]["kind"][-1] == "answer" for row in rows)
    for row in rows:
        step = row["text"].splitlines()[len(row["step"]["end"]) - 1]
        expected = (1.0 if "12-8=4" in row["text"] else -0.5) + (-1.0 if row["step"]["kind"][-1] == "answer" else 0.0)
        assert row["step"]["reward"][-1] == expected, step
    assert {row["step"]["reward"][0] for row in rows} == {1.0, -0.5}


def test_a_policy_that_cannot_judge_gives_0(sampled: Sampled) -> None:
    rollouts = sampled("truncate", k=2, judge="policy", judge_tokens=4, options={"prompts": 1})
    assert all(-1 <= reward <= 1 for row in rollouts.table.to_pylist() for reward in row["step"]["reward"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9 of 10. <score>-1</score> or <score>1</score>", -1.0),
        ("<SCORE> 0.5 </SCORE>", 0.5),
        ("3 reasons. Score: -1", -1.0),
        ("rating = +1", 1.0),
        ("I give it 7", 1.0),
        ("-4", -1.0),
        ("", 0.0),
        ("no number", 0.0),
    ],
)
def test_scores_are_read_by_tag_then_word_then_number(text: str, expected: float) -> None:
    assert score_of(text) == expected


def test_a_step_ends_with_the_token_that_completes_a_text() -> None:
    tokenizer = load_tokenizer("builtin:tiny")
    ids = tokenizer("7+10=17\n17-12=5\n", add_special_tokens=False)["input_ids"]
    assert len(ids) == 12
    assert step_ends(tokenizer, [ids, ids[:8], []], ["\n"]) == [[6, 12], [6], []]
    assert step_ends(tokenizer, [ids], ["7\n1", "=5"]) == [[7, 11]]
    assert step_ends(tokenizer, [ids, ids[:5]], ["\n"], first=True) == [[6], []]


class Deaf(TransformersEngine):
    """An engine that does not know stop texts."""

    name = "deaf"

    def generate(self, requests: Any, sampling: Sampling, on_progress: Any = None) -> list[list[Completion]]:
        return super().generate(requests, replace(sampling, stop=()), on_progress)


def test_an_engine_that_does_not_know_stop_texts_makes_the_same(sampled: Sampled) -> None:
    engine("deaf")(lambda source, seed: Deaf(source.load()))
    try:
        found = sampled("truncate", k=3, stop=["\n", "="], options={"engine": "deaf"})
    finally:
        ENGINES.remove("deaf")
    expected = sampled("truncate", k=3, stop=["\n", "="], options={"engine": "transformers"})
    for path in ("token.id", "finish_reason", "step.reward", "parent_id"):
        assert found.arrow(path).equals(expected.arrow(path)), path


def test_candidates_that_failed_are_never_chosen(sampled: Sampled, flaky: None) -> None:
    rollouts = sampled("truncate", k=4, options={"engine": "flaky", "prompts": 6})
    assert list(broken_invariants(rollouts)) == []
    failed = rollouts.flagged("error")
    assert 0 < failed.sum() < len(rollouts)
    assert "token.logprob" in rollouts
    names = np.array(rollouts.strings("rollout_id"))
    assert not set(names[failed]) & set(rollouts.strings("parent_id"))
    for row in rollouts.take(np.flatnonzero(failed)).table.to_pylist():
        assert len(row["token"]["id"]) == (row["fork"] or 0) == (row["step"]["end"] or [0])[-1]
    slate(credit_of_batch(rollouts)[0])


@pytest.mark.parametrize("name", ["k", "budget", "judge_samples", "judge_tokens", "step_tokens"])
def test_less_than_one_is_refused(sampled: Sampled, name: str) -> None:
    with pytest.raises(UsageError, match=f"strategy truncate: {name} must be at least 1, got 0"):
        sampled("truncate", **{name: 0})


def test_an_empty_stop_text_is_refused(sampled: Sampled) -> None:
    with pytest.raises(UsageError, match="must not hold an empty text"):
        sampled("truncate", stop=[""])
