from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.sample import sample
from apportion.stages.score import score
from apportion.stages.tree_build import tree_build

spo_tree = METHODS["spo_tree"].assign

# methods A, SPO tree: children with leaves 1, 1, 0 and 0, 0, 1.
TOKENS = [[5, 1], [5, 2], [5, 3], [6, 1], [6, 2], [6, 3]]
REWARDS = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
LEFT = [None, (0, 1), (0, 1), None, (3, 1), (3, 1)]
Left = Sequence[tuple[int, int] | None]


def tree_of(rewards: list[float], tokens: list[list[int]], prob: float = 0.5, **kwargs: Any) -> Credit:
    credit = credit_of(rewards, tokens=tokens, **kwargs)
    logprob = credit.rollouts.token_ids.with_values(np.full(len(credit.mask), np.log(prob)))
    return Credit(credit.rollouts.with_columns({"token.logprob": logprob}))


def test_worked_example() -> None:
    found = spo_tree(tree_of(REWARDS, TOKENS, left=LEFT)).reshape(6, 2)
    np.testing.assert_allclose(found[:, 0], [1 / 6] * 3 + [-1 / 6] * 3)
    np.testing.assert_allclose(found[:, 1], [1 / 3, 1 / 3, -2 / 3, -1 / 3, -1 / 3, 2 / 3])


def test_worked_example_with_the_spread_of_the_siblings() -> None:
    found = spo_tree(tree_of(REWARDS, TOKENS, left=LEFT), scale="grpo").reshape(6, 2)
    np.testing.assert_allclose(found[:, 0], [1.0] * 3 + [-1.0] * 3, atol=1e-6)
    np.testing.assert_allclose(found[:3, 1], [0.707107, 0.707107, -1.414214], atol=1e-6)


def test_a_child_counts_once_however_many_rollouts_carry_it_on() -> None:
    # The root's children: 5 (rewards 1, 0: value 0.5) and 6 (reward 0). Root 0.25, not the mean 1/3.
    found = spo_tree(tree_of([1.0, 0.0, 0.0], [[5, 1], [5, 2], [6]], left=[None, (0, 1), None]))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.25, -0.5, -0.25])


def test_a_child_counts_once_for_each_time_it_was_drawn() -> None:
    # Three times from the prompt: 5 twice, 6 once. Root 1/3.
    found = spo_tree(tree_of([1.0, 0.0, 0.0], [[5, 1], [5, 2], [6]]))
    np.testing.assert_allclose(found, [1 / 6, 0.5, 1 / 6, -0.5, -1 / 3])
    # Twice the same segment from the prompt, each of which goes on twice: 5 is worth .25, the prompt (2 · .25 + 1) / 3.
    tokens, left = [[5, 1], [5, 2], [5, 3], [5, 4], [6]], [None, (0, 1), None, (2, 1), None]
    found = spo_tree(tree_of([1.0, 0.0, 0.0, 0.0, 1.0], tokens, left=left))
    np.testing.assert_allclose(found, [-0.25, 0.75] + [-0.25, -0.25] * 3 + [0.5])
    # Children of the prompt: .25, .25, 1 with std0 √.125.
    scaled = spo_tree(tree_of([1.0, 0.0, 0.0, 0.0, 1.0], tokens, left=left), scale="grpo")
    np.testing.assert_allclose(scaled[[0, 8]], [-0.25 / np.sqrt(0.125), 0.5 / np.sqrt(0.125)], atol=1e-6)


def test_where_the_rollout_that_drew_a_node_is_not_in_the_file_it_counts_once() -> None:
    # r0, which drew 5, is gone; two carry it on.
    found = spo_tree(tree_of([1.0, 0.0, 0.0], [[5, 1], [5, 2], [6]], left=[(7, 1), (7, 1), None]))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.25, -0.5, -0.25])


def test_a_rollout_that_ends_inside_is_a_child() -> None:
    # At node 5: one rollout ends (reward 1), one goes on (reward 0): value 0.5.
    np.testing.assert_allclose(spo_tree(tree_of([1.0, 0.0], [[5], [5, 2]])), [0.0, 0.0, -0.5])


def test_an_empty_response_is_a_child_of_the_prompt() -> None:
    np.testing.assert_allclose(spo_tree(tree_of([1.0, 0.0], [[], [5]])), [-0.5])


def test_split_adds_up_to_each_edge_once() -> None:
    found = spo_tree(tree_of(REWARDS, TOKENS, left=LEFT), shared="split").reshape(6, 2)
    np.testing.assert_allclose(found[:, 0], [1 / 18] * 3 + [-1 / 18] * 3)
    np.testing.assert_allclose(found[:3, 1], [1 / 3, 1 / 3, -2 / 3])
    # Of five rollouts that begin with 5, two drew it.
    tokens, left = [[5, 1], [5, 2], [5, 3], [5, 4], [5, 5], [6]], [None, (0, 1), None, (2, 1), (2, 1), None]
    credit = tree_of([1.0, 0.0, 0.0, 0.0, 0.0, 1.0], tokens, left=left)
    whole, split = spo_tree(credit), spo_tree(credit, shared="split")
    np.testing.assert_allclose(split[:10:2].sum(), 2 * whole[0])
    np.testing.assert_array_equal(split[1::2], whole[1::2])


def test_split_counts_draws_token_by_token() -> None:
    # r1 left r0 after 5 and drew 6 again; so did r2, which drew 7. Of node 5 6 the 5 was drawn once and the 6 twice.
    credit = tree_of([1.0, 0.0, 0.0], [[5, 6, 1], [5, 6, 2], [5, 7]], left=[None, (0, 1), (0, 1)])
    whole, split = spo_tree(credit), spo_tree(credit, shared="split")
    np.testing.assert_allclose(whole, [0, 1 / 6, 0.5, 0, 1 / 6, -0.5, 0, -1 / 3], atol=1e-12)
    np.testing.assert_array_equal(split, whole)
    joined = tree_of([1.0, 0.0, 0.0], [[5, 6, 1], [5, 6, 2], [8]], left=[None, (0, 1), None])
    whole, split = spo_tree(joined), spo_tree(joined, shared="split")
    np.testing.assert_allclose(whole[[0, 1, 3, 4]], 0.25)
    np.testing.assert_allclose(split[[0, 1, 3, 4]], [0.125, 0.25, 0.125, 0.25])


def test_likely_tokens_get_nothing_unless_asked() -> None:
    assert not spo_tree(tree_of(REWARDS, TOKENS, prob=0.95)).any()
    assert spo_tree(tree_of(REWARDS, TOKENS, prob=0.95), mask_above=None).all()


def test_a_token_of_exactly_the_threshold_keeps_its_credit() -> None:
    credit = tree_of(REWARDS, TOKENS, prob=0.9)
    logprob = credit.rollouts.ragged("token.logprob")
    stored = logprob.with_values(logprob.values.astype(np.float32))  # as it is on disk: a little more than 0.9
    found = spo_tree(Credit(credit.rollouts.with_columns({"token.logprob": stored})))
    np.testing.assert_array_equal(found, spo_tree(credit, mask_above=None))


@pytest.mark.parametrize("scale", ["rloo", "grpo"])
def test_equal_rewards_and_groups_of_one_give_exactly_zero(scale: Any) -> None:
    tokens = [[5, 1], [5, 2], [6], [7, 1, 1], [7, 1, 2], [7, 3]]
    assert not spo_tree(tree_of([0.7] * 6, tokens), scale=scale).any()
    assert not spo_tree(tree_of([0.7], [[1, 2]]), scale=scale).any()


def test_environment_tokens_change_no_other_credit() -> None:
    tokens = [[5, 9, 1], [5, 9, 2], [5, 9, 3], [6, 9, 1], [6, 9, 2], [6, 9, 3]]
    found = spo_tree(tree_of(REWARDS, tokens, mask=[[True, False, True]] * 6)).reshape(6, 3)
    assert not found[:, 1].any()
    np.testing.assert_allclose(found[:, [0, 2]], spo_tree(tree_of(REWARDS, TOKENS)).reshape(6, 2))


def test_missing_log_probabilities_are_named() -> None:
    with pytest.raises(DataError, match=r"'token\.logprob'"):
        spo_tree(credit_of([1.0, 0.0], tokens=[[1], [2]]))


Prefix = tuple[int, ...]


def oracle(rewards: list[float], responses: list[list[int]], left: Left, grpo: bool) -> list[float]:
    """The definition, slowly: an uncompressed trie whose unary chains change nothing."""
    forks = [each[1] if each else 0 for each in left]

    members: dict[Prefix, list[int]] = {}
    for row, response in enumerate(responses):
        for length in range(len(response) + 1):
            members.setdefault(tuple(response[:length]), []).append(row)

    def children(prefix: Prefix) -> list[float]:
        drawn = [
            (*prefix, responses[row][len(prefix)])
            for row in members[prefix]
            if len(responses[row]) > len(prefix) >= forks[row]
        ]
        return [value(each) for each in drawn] + [
            rewards[row] for row in members[prefix] if len(responses[row]) == len(prefix)
        ]

    def value(prefix: Prefix) -> float:
        return float(np.mean(children(prefix)))

    out: list[float] = []
    for response in responses:
        edge = 0.0
        for length in range(len(response)):
            prefix = tuple(response[:length])
            if length == 0 or members[prefix] != members[tuple(response[: length + 1])]:
                edge = value(tuple(response[: length + 1])) - value(prefix)
                edge /= float(np.std(children(prefix))) + 1e-8 if grpo else 1.0
            out.append(edge)
    return out


@pytest.mark.parametrize("grpo", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_definition_on_random_groups(seed: int, grpo: bool) -> None:
    rng = np.random.default_rng(seed)
    responses = [rng.integers(0, 3, rng.integers(0, 7)).tolist() for _ in range(9)]
    rewards = rng.random(9).tolist()
    responses[0], responses[1] = [0, 1], [1]
    left: list[tuple[int, int] | None] = [None] * 9
    for row in range(3, 9):  # some leave one before them
        parent = int(rng.integers(0, row))
        if len(responses[parent]) and rng.random() < 0.7:
            fork = int(rng.integers(0, len(responses[parent])))
            left[row] = (parent, fork)
            responses[row] = responses[parent][:fork] + responses[row][: 7 - fork]
    found = spo_tree(tree_of(rewards, responses, left=left), scale="grpo" if grpo else "rloo")
    np.testing.assert_allclose(found, oracle(rewards, responses, left, grpo), atol=1e-6)


def value_of_the_prompt(credit: Credit) -> list[float]:
    """[R] the same number from every rollout: what its nodes changed leads from the prompt's value to its reward."""
    ids = credit.rollouts.ragged("node.start")
    changes = spo_tree(credit, mask_above=None)[credit.tokens.starts[ids.segments.ids] + ids.values]
    return (credit.reward - ids.segments.sum(changes)).tolist()


def value_of_a_draw(rewards: list[float], left: Left, rows: list[int], forks: int) -> float:
    """The sampled tree, draw by draw: a row is drawn on where others leave it, and is one of those drawn there.

    rows: what has been drawn from one place so far, each behind its first `forks` tokens.
    """
    found = []
    for row in rows:
        later = sorted({each[1] for each in left if each and each[0] == row and each[1] > forks})
        there = [at for at, each in enumerate(left) if later and each == (row, later[0])]
        found.append(value_of_a_draw(rewards, left, [row, *there], later[0]) if later else rewards[row])
    return float(np.mean(found))


def test_the_prompt_of_the_recipes_own_tree_is_worth_what_was_sampled(tmp_path: Path) -> None:
    """Recipe spo-tree's chain, small. Equal segments are drawn often, and responses end early."""
    sample(
        strategy="branch_schedule", settings={"factors": [4, 2, 2], "length": 8}, prompts=12, seed=1, max_tokens=64,
        device="cpu", out=tmp_path / "rows",
    )  # fmt: skip
    tree_build(tmp_path / "rows", out=tmp_path / "tree")
    score(tmp_path / "tree", out=tmp_path / "scored")
    whole = RolloutFile(tmp_path / "scored").read()
    merged, live = 0, 0
    for start, end in pairwise(whole.groups.offsets.tolist()):
        credit = Credit(whole.take(np.arange(start, end)))
        names = credit.rollouts.strings("rollout_id")
        parents, forks = (credit.rollouts.arrow(path).to_pylist() for path in ("parent_id", "fork"))
        left = [parent and (names.index(parent), fork) for parent, fork in zip(parents, forks, strict=True)]
        roots = [row for row, each in enumerate(left) if each is None]
        expected = value_of_a_draw(credit.reward.tolist(), left, roots, 0)
        np.testing.assert_allclose(value_of_the_prompt(credit), expected, atol=1e-12)
        live += len(set(credit.reward)) > 1
        merged += len({tuple(credit.rollouts.token_ids[row][:8]) for row in roots}) < len(roots)
    assert live > 6
    assert merged > 3


def test_groups_do_not_mix() -> None:
    both = tree_of([1.0, 0.0, 0.25, 0.5], [[5, 1], [5, 2], [5, 1], [6]], groups=[0, 0, 1, 1])
    first, second = tree_of([1.0, 0.0], [[5, 1], [5, 2]]), tree_of([0.25, 0.5], [[5, 1], [6]])
    np.testing.assert_allclose(spo_tree(both), np.concatenate((spo_tree(first), spo_tree(second))))


def test_a_row_without_a_path_is_refused() -> None:
    credit = tree_of([1.0, 0.0], [[1], [2]])
    absent = Ragged(np.array([0], np.int32), np.array([0, 1, 1]), np.array([True, False]))
    columns = {f"node.{leaf}": absent for leaf in ("id", "start", "end")}
    with pytest.raises(DataError, match="tree-build"):
        spo_tree(Credit(credit.rollouts.with_columns(columns)))
