"""GroundedPRM's sampling: the search, what it verifies, and what it writes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.invariants import broken_invariants
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.formats.segments import Segments
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.models.engine import Completion, Request, Sampling
from apportion.stages.models.kind import ENGINES, engine
from apportion.stages.models.policy import Policy
from apportion.stages.models.transformers._engine import TransformersEngine
from apportion.stages.sample._questions import truth_of
from apportion.stages.sample.trees._search_tree import NOTHING, Node, SearchTree, uct
from apportion.stages.sample.trees.mcts import Search
from apportion.stages.structure.batch import credit_of_batch
from apportion.stages.structure.simulations import simulation_values
from apportion.stages.tasks import Problem
from apportion.stages.tasks.arithmetic import Arithmetic
from typer.testing import Result

from .conftest import Sampled, check_branches, check_logprobs

groundedprm = METHODS["groundedprm"].assign


def test_the_worked_examples() -> None:
    # methods A, GroundedPRM: virtual steps +1, -1, +1 and a right answer; +1, +1 and a wrong one; a wrong one alone.
    rows = Segments.of_sizes(np.array([3, 2, 0]))
    found = simulation_values(np.array([1.0, -1, 1, 1, 1]), rows, np.array([1.0, -1, -1]))
    np.testing.assert_allclose(found, [0.555556, 0.25, -1.0], atol=1e-6)
    found = simulation_values(np.array([1.0, -1, 1, 1, 1]), rows, np.array([1.0, -1, -1]), 0.5)
    np.testing.assert_allclose(found, [0.722222, 0.25, -0.5], atol=1e-6)


def test_a_value_goes_up_with_decay_and_counts_visits_above() -> None:
    grandparent = Node(NOTHING)
    parent = Node(NOTHING, grandparent)
    node, sibling = Node(NOTHING, parent), Node(NOTHING, parent)
    node.backed_up(5 / 9, 0.9)
    assert [round(each.value, 6) for each in (node, parent, grandparent)] == [0.555556, 0.5, 0.45]
    sibling.backed_up(-1.0, 0.9)
    assert [round(each.value, 6) for each in (node, parent, grandparent)] == [0.555556, -0.4, -0.36]
    assert [each.visits for each in (node, sibling, parent, grandparent)] == [0, 0, 2, 2]


def tree_of() -> tuple[SearchTree, Node, Node, Node]:
    """A prompt with two next steps, the first of which has one."""
    tree = SearchTree(Random(0))
    left, right = Node(NOTHING, tree.root), Node(NOTHING, tree.root)
    below = Node(NOTHING, left)
    tree.root.children, left.children = [left, right], [below]
    return tree, left, right, below


def search(select: str, exploration: float = 1.0) -> Search:
    return Search(3, 5, select, exploration, 0.9, 3, "1/N", 0.0, ("\n",), None, lambda forest, claims: [])


def test_uct_goes_down_to_the_leaf_that_is_worth_looking_at() -> None:
    assert uct(1.5, 3, 8, 1.414) == pytest.approx(0.5 + 1.414 * (np.log(9) / 4) ** 0.5)
    assert uct(1.5, 0, 0, 1.414) == 1.5
    tree, left, right, below = tree_of()
    tree.root.visits, left.visits, left.value = 4, 2, 1.0
    assert search("uct", 0.0).select_node(tree) is below  # 1/2 against 0
    assert search("uct", 1.0).select_node(tree) is right  # 0.5 + √(ln 5/3) = 1.23 against √(ln 5) = 1.27
    below.over = below.simulated = True
    assert search("uct", 0.0).select_node(tree) is right, "nothing is left to the left"
    empty = SearchTree(Random(0))
    assert search("uct").select_node(empty) is empty.root


def test_random_child_goes_down_one_level_whatever_it_is_worth() -> None:
    tree, left, right, _ = tree_of()
    left.value = -9.0
    chosen = [search("random_child").select_node(tree) for _ in range(50)]
    assert set(map(id, chosen)) == {id(left), id(right)}
    empty = SearchTree(Random(0))
    assert search("random_child").select_node(empty) is empty.root


def rows_of(rollouts: Rollouts) -> Iterator[dict[str, Any]]:
    yield from rollouts.table.to_pylist()


def test_every_simulation_is_a_rollout_in_verified_steps(sampled: Sampled) -> None:
    rollouts = sampled("mcts", rounds=6, enough=0)
    assert list(broken_invariants(rollouts)) == []
    check_branches(rollouts)
    check_logprobs(rollouts)
    assert (rollouts.groups.sizes <= 6).all()
    assert rollouts.groups.sizes.max() == 6
    task, seen = Arithmetic(), set()
    for row in rows_of(rollouts):
        problem = Problem("", row["prompt"], int(row["reference"]))
        lines, steps = row["text"].splitlines(), row["step"]
        assert len(lines) == len(steps["end"])
        assert steps["start"] == [0, *steps["end"][:-1]]
        assert steps["end"][-1] == len(row["token"]["id"])
        assert steps["kind"] == ["step"] * (len(lines) - 1) + ["answer"]
        assert row["reward"] == task.verify(row["text"], problem.reference)
        for index, check in enumerate(steps["reward"][:-1]):
            right = task.verify_step(problem, "".join(f"{line}\n" for line in lines[:index]), lines[index])
            assert check == {True: 1.0, False: -1.0, None: 0.0}[right]
            seen.add(check)
        assert steps["reward"][-1] == (1.0 if row["reward"] > 0 else -1.0)
    assert seen == {1.0, -1.0}


def test_one_round_is_worth_what_the_formula_says(sampled: Sampled) -> None:
    for row in rows_of(sampled("mcts", rounds=1)):
        virtual = row["step"]["reward"][1:-1]
        size = len(virtual)
        final = sum(v * (size - j + 1) / size for j, v in enumerate(virtual, 1)) / size
        final += (1 if row["reward"] else -1) / size
        found = row["step"]["search_value"]
        np.testing.assert_allclose(found, [final, *row["step"]["reward"][1:]], atol=1e-12)


def test_the_search_can_be_played_again_from_its_rows(sampled: Sampled) -> None:
    """With random_child and one next step a time, every simulation begins at a new next step of the prompt or one below."""
    rollouts = sampled("mcts", rounds=4, children=1, select="random_child", enough=0)
    for group in range(len(rollouts.groups)):
        first, *others = rows_of(rollouts.slice(*rollouts.groups.offsets[group : group + 2].tolist()))
        assert first["parent_id"] is None
        below = first["step"]["end"][0]
        values = [0.0] * (1 + len(others))
        for place, row in enumerate([first, *others]):
            assert row["fork"] in (None, below)
            begun = int(place > 0)
            virtual = row["step"]["reward"][begun + 1 : -1]
            size = max(len(virtual), 1)
            final = sum(v * (size - j + 1) / size for j, v in enumerate(virtual, 1)) / size
            final += (1 if row["reward"] else -1) / size
            values[0] += final * 0.9**begun
            values[place] = final if place else values[0]
        for place, row in enumerate([first, *others]):
            assert row["step"]["search_value"][0] == pytest.approx(values[0])
            if place:
                assert row["step"]["search_value"][1] == pytest.approx(values[place])


def test_a_whole_response_is_simulated_once(sampled: Sampled) -> None:
    rollouts = sampled("mcts", rounds=9, enough=0, options={"task_settings": {"terms": 1}, "max_tokens": 16})
    for row in rows_of(rollouts):
        if len(row["step"]["end"]) == 1:
            assert row["step"]["search_value"] == [1.0 if row["reward"] else -1.0]
    tokens = sampled("mcts", rounds=9, enough=0, options={"max_tokens": 2})
    assert tokens.groups.sizes.tolist() == [3, 3, 3], "three steps of two tokens, and nothing can follow"
    assert tokens.flagged("truncated").all()


def test_enough_right_and_wrong_responses_end_the_search(sampled: Sampled) -> None:
    whole, short = sampled("mcts", rounds=8, enough=0), sampled("mcts", rounds=8, enough=1)
    assert (short.groups.sizes < whole.groups.sizes).any()
    for group in range(len(short.groups)):
        rewards = short.numbers("reward")[short.groups.ids == group].tolist()
        assert len(set(rewards[:-1])) < 2, "it would have ended before"
        assert len(rewards) == 8 or set(rewards) == {0.0, 1.0}


def test_simulations_of_so_many_steps(sampled: Sampled) -> None:
    rollouts = sampled("mcts", rounds=4, depth=1, enough=0)
    assert {len(row["step"]["end"]) for row in rows_of(rollouts) if row["parent_id"] is None} <= {1, 2, 3}
    cut = [row for row in rows_of(rollouts) if row["finish_reason"] == "length"]
    assert cut
    for row in cut:
        assert row["text"].endswith("\n")
        assert row["flags"] == ["truncated"]
        assert row["step"]["kind"][-1] == "step"


def test_the_same_seed_makes_the_same_search_in_parts_or_not(sampled: Sampled) -> None:
    first = sampled("mcts", rounds=4)
    assert first.table.equals(sampled("mcts", rounds=4).table)
    parts = sampled("mcts", rounds=4, rows_at_once=1)
    for path in ("rollout_id", "parent_id", "text", "step.reward", "step.search_value", "seed"):
        assert parts.arrow(path).equals(first.arrow(path)), path
    assert first.strings("text") != sampled("mcts", rounds=4, options={"seed": 4}).strings("text")


def test_the_policy_verifies_and_is_asked_again(sampled: Sampled, scripted: Callable[..., Any]) -> None:
    asked: dict[str, int] = {}

    def reply(text: str) -> str | None:
        if "Answer as JSON" not in text:
            return None
        asked[text] = asked.get(text, 0) + 1
        step = text.partition("Next step:\n")[2].partition("\n")[0]
        if "12-" in step:
            return '{"reason": "not false", "result": "False"}'
        if "*" in step:
            return "no idea"
        return "It is true." if asked[text] % 2 == 0 else "hm"

    scripted(reply)
    rollouts = sampled("mcts", rounds=2, verify_steps="policy", options={"engine": "scripted"})
    seen = set()
    for row in rows_of(rollouts):
        for line, check in list(zip(row["text"].splitlines(), row["step"]["reward"], strict=True))[:-1]:
            expected = -1.0 if "12-" in line else 0.0 if "*" in line else 1.0
            assert check == expected, line
            seen.add(check)
    assert seen == {1.0, 0.0, -1.0}
    assert all(count % 5 == 0 for text, count in asked.items() if "*" in text.partition("Next step:\n")[2])


def test_simulations_that_failed_are_worth_nothing(sampled: Sampled, flaky: None) -> None:
    rollouts = sampled("mcts", rounds=6, enough=0, options={"engine": "flaky", "prompts": 6})
    assert list(broken_invariants(rollouts)) == []
    failed = rollouts.flagged("error")
    assert 0 < failed.sum() < len(rollouts)
    assert "token.logprob" in rollouts
    for row in rollouts.take(np.flatnonzero(failed)).table.to_pylist():
        assert row["step"]["end"][-1] == len(row["token"]["id"])
    groundedprm(credit_of_batch(rollouts)[0])


ERROR = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "error", error="HTTP 500: told to fail")
ENDED = ERROR._replace(finish_reason="stop", error=None)


class FailingEngine(TransformersEngine):
    """The built-in policy, but for samples of which `instead(text read, sampling)` has another end."""

    name, can_fail = "failing", True

    def __init__(self, policy: Policy, instead: Callable[[str, Sampling], Completion | None]):
        super().__init__(policy)
        self._decode_text, self._instead = policy.tokenizer.decode, instead

    def generate(self, requests: Sequence[Request], sampling: Sampling, on_progress: Any = None) -> Any:
        found = [
            self._instead(self._decode_text(each.prefix_ids, skip_special_tokens=True), sampling) for each in requests
        ]
        made = iter(
            super().generate([each for each, end in zip(requests, found, strict=True) if end is None], sampling)
        )
        return [
            next(made) if end is None else [end for _ in each.seeds] for each, end in zip(requests, found, strict=True)
        ]


Failing = Callable[[Callable[[str, Sampling], Completion | None]], None]


@pytest.fixture
def failing() -> Iterator[Failing]:
    """failing(instead) registers engine "failing"."""

    def register(instead: Callable[[str, Sampling], Completion | None]) -> None:
        engine("failing")(lambda source, seed: FailingEngine(source.load(), instead))

    yield register
    ENGINES.remove("failing")


LINE = "sample --strategy mcts --set rounds=4 --prompts 3 --seed 3 --max-tokens 40 --device cpu --engine failing -o"


def test_a_problem_that_cannot_be_sampled_is_rows_that_failed(
    cli: Callable[..., Result], failing: Failing, sampled: Sampled, tmp_path: Path
) -> None:
    lost = [sampled("mcts", rounds=1).strings("prompt")[-1][-1]["content"]]
    failing(lambda text, sampling: ERROR if any(question in text for question in lost) else None)
    result = cli(*LINE.split(), tmp_path / "rows")
    assert result.exit_code == 4, result.output
    assert "4 rollouts failed (the first: HTTP 500: told to fail); they are flagged error" in result.output
    assert cli("validate", tmp_path / "rows").exit_code == 0
    rollouts = RolloutFile(tmp_path / "rows").read()
    assert (rollouts.groups.sizes <= 4).all()
    assert len(rollouts.groups) == 3
    failed = rollouts.flagged("error")
    assert failed.tolist() == (rollouts.groups.ids == 2).tolist()
    for row in rows_of(rollouts.take(np.flatnonzero(failed))):
        assert (row["token"]["id"], row["step"]["end"], row["error"]) == ([], [], "HTTP 500: told to fail")
    groundedprm(credit_of_batch(rollouts)[0])
    lost.append("")
    result = cli(*LINE.split(), tmp_path / "nothing")
    assert result.exit_code == 1
    assert "all 12 rollouts failed" in result.output
    assert not (tmp_path / "nothing").exists()


def test_a_step_that_cannot_be_gone_on_from_is_a_row_that_failed(sampled: Sampled, failing: Failing) -> None:
    failing(lambda text, sampling: ERROR if sampling.stop and text.endswith("\n") else None)
    rollouts = sampled("mcts", rounds=8, children=2, enough=0, options={"engine": "failing"})
    assert list(broken_invariants(rollouts)) == []
    check_branches(rollouts.take(np.flatnonzero(~rollouts.flagged("error"))))
    assert rollouts.groups.sizes.max() == 8
    rows = {row["rollout_id"]: row for row in rows_of(rollouts)}
    failed = [row for row in rows.values() if "error" in row["flags"]]
    assert failed
    assert {row["parent_id"] is None for row in failed} == {True, False}
    for row in failed:
        ids, steps = row["token"]["id"], row["step"]
        assert row["text"].count("\n") == 1, "the second step is what failed"
        assert steps["end"] == [len(ids)]
        if row["parent_id"] is not None:
            whole = rows[row["parent_id"]]
            assert row["fork"] == len(ids)
            assert ids == whole["token"]["id"][: row["fork"]]
            assert steps["search_value"] == whole["step"]["search_value"][:1]


def test_a_response_that_ends_without_a_token_more_is_whole(sampled: Sampled, failing: Failing) -> None:
    failing(lambda text, sampling: ENDED if sampling.stop else None)
    rollouts = sampled("mcts", rounds=4, options={"engine": "failing"})
    assert list(broken_invariants(rollouts)) == []
    assert rollouts.strings("finish_reason") == ["stop"] * 3
    assert rollouts.strings("flags") == [[]] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"reason": "it is not true that", "result": false}', False),
        ('{"result": "True"}', True),
        ("'result': True, said false", True),
        ("FALSE", False),
        ("not false, true", True),
        ("", None),
        ("yes", None),
    ],
)
def test_truth_is_read_tolerantly(text: str, expected: bool | None) -> None:
    assert truth_of(text) is expected


def test_from_the_command_line_to_credit(cli: Callable[..., Result], tmp_path: Path) -> None:
    rows, credit = tmp_path / "rows", tmp_path / "credit"
    line = "sample --strategy mcts --set rounds=4 --prompts 3 --seed 3 --max-tokens 40 --device cpu -o"
    for words in (
        [*line.split(), rows],
        ["validate", rows],
        ["assign-credit", rows, "--method", "groundedprm", "-o", credit],
        ["validate", credit],
    ):
        result = cli(*words)
        assert result.exit_code == 0, result.output
    batch = RolloutFile(credit).read()
    assert np.count_nonzero(batch.ragged("token.advantage").values) > 0
    for row in rows_of(batch.take(batch.groups.starts)):
        last = row["step"]["start"][-1]
        assert row["token"]["advantage"][last] == (1.0 if row["reward"] else -1.0)


def test_what_is_refused(sampled: Sampled, tmp_path: Path) -> None:
    for name in ("rounds", "children", "depth", "verify_tokens", "step_tokens"):
        with pytest.raises(UsageError, match=f"strategy mcts: {name} must be at least 1, got 0"):
            sampled("mcts", **{name: 0})
    for name in ("enough", "exploration", "verify_temperature"):
        with pytest.raises(UsageError, match=f"strategy mcts: {name} must be at least 0, got -1.*"):
            sampled("mcts", **{name: -1})
    with pytest.raises(UsageError, match=r"strategy mcts: decay must be between 0 and 1, got 1\.5"):
        sampled("mcts", decay=1.5)
    with pytest.raises(UsageError, match="strategy mcts: stop must name texts that end a step"):
        sampled("mcts", stop=[])
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"prompt": "1+1", "answer": "2"}\n')
    with pytest.raises(UsageError, match="cannot tell right steps from wrong ones; choose verify_steps=policy"):
        sampled("mcts", verify_steps="task", options={"task": str(problems), "prompts": 1})


def test_a_deep_tree_is_known_to_be_whole() -> None:
    root = Node(NOTHING)
    node = root
    for _ in range(5_000):
        child = Node(NOTHING, node)
        node.children.append(child)
        node = child
    assert not root.exhausted
    node.over = True
    assert not root.exhausted
    node.simulated = True
    assert root.exhausted
    root.children[0].children.append(Node(NOTHING, root.children[0]))
    assert not root.exhausted
