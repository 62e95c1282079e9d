from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit._method import Credit
from apportion.stages.assign_credit.spo_tree import spo_tree

# methods A, SPO tree: children with leaves 1, 1, 0 and 0, 0, 1.
TOKENS = [[5, 1], [5, 2], [5, 3], [6, 1], [6, 2], [6, 3]]
REWARDS = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def tree_of(rewards: list[float], tokens: list[list[int]], prob: float = 0.5, **kwargs: Any) -> Credit:
    credit = credit_of(rewards, tokens=tokens, **kwargs)
    logprob = credit.rollouts.token_ids.with_values(np.full(len(credit.mask), np.log(prob)))
    return Credit(credit.rollouts.with_columns({"token.logprob": logprob}))


def test_worked_example() -> None:
    found = spo_tree(tree_of(REWARDS, TOKENS)).reshape(6, 2)
    np.testing.assert_allclose(found[:, 0], [1 / 6] * 3 + [-1 / 6] * 3)
    np.testing.assert_allclose(found[:, 1], [1 / 3, 1 / 3, -2 / 3, -1 / 3, -1 / 3, 2 / 3])


def test_worked_example_with_the_spread_of_the_siblings() -> None:
    found = spo_tree(tree_of(REWARDS, TOKENS), scale="grpo").reshape(6, 2)
    np.testing.assert_allclose(found[:, 0], [1.0] * 3 + [-1.0] * 3, atol=1e-6)
    np.testing.assert_allclose(found[:3, 1], [0.707107, 0.707107, -1.414214], atol=1e-6)


def test_children_count_equally_however_many_rollouts_they_hold() -> None:
    # The root's children: 5 (rewards 1, 0: value 0.5) and 6 (reward 0). Root 0.25, not the mean 1/3.
    np.testing.assert_allclose(
        spo_tree(tree_of([1.0, 0.0, 0.0], [[5, 1], [5, 2], [6]])), [0.25, 0.5, 0.25, -0.5, -0.25]
    )


def test_a_rollout_that_ends_inside_is_a_child() -> None:
    # At node 5: one rollout ends (reward 1), one goes on (reward 0): value 0.5.
    np.testing.assert_allclose(spo_tree(tree_of([1.0, 0.0], [[5], [5, 2]])), [0.0, 0.0, -0.5])


def test_an_empty_response_is_a_child_of_the_prompt() -> None:
    np.testing.assert_allclose(spo_tree(tree_of([1.0, 0.0], [[], [5]])), [-0.5])


def test_split_adds_up_to_each_edge_once() -> None:
    found = spo_tree(tree_of(REWARDS, TOKENS), shared="split").reshape(6, 2)
    np.testing.assert_allclose(found[:, 0], [1 / 18] * 3 + [-1 / 18] * 3)
    np.testing.assert_allclose(found[:3, 1], [1 / 3, 1 / 3, -2 / 3])


def test_likely_tokens_get_nothing_unless_asked() -> None:
    assert not spo_tree(tree_of(REWARDS, TOKENS, prob=0.95)).any()
    assert spo_tree(tree_of(REWARDS, TOKENS, prob=0.95), mask_above=None).all()


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


def oracle(rewards: list[float], responses: list[list[int]], grpo: bool) -> list[float]:
    """The definition, slowly: an uncompressed trie whose unary chains change nothing."""

    members: dict[Prefix, list[int]] = {}
    for row, response in enumerate(responses):
        for length in range(len(response) + 1):
            members.setdefault(tuple(response[:length]), []).append(row)

    def children(prefix: Prefix) -> list[float]:
        below = sorted(
            {(*prefix, responses[row][len(prefix)]) for row in members[prefix] if len(responses[row]) > len(prefix)}
        )
        return [value(each) for each in below] + [
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
    found = spo_tree(tree_of(rewards, responses), scale="grpo" if grpo else "rloo")
    np.testing.assert_allclose(found, oracle(rewards, responses, grpo), atol=1e-6)


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
