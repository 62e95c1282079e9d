import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit._method import Credit
from apportion.stages.assign_credit.treerl import treerl

# methods A, TreeRL: root -> a (leaves 1, 0), b (leaf 0), c (leaves 1, 1).
TOKENS = [[1, 5], [1, 6], [2], [3, 5], [3, 6]]
REWARDS = [1.0, 0.0, 0.0, 1.0, 1.0]


def test_worked_example() -> None:
    found = treerl(credit_of(REWARDS, tokens=TOKENS))
    expected = [-0.176777, 1.125, -0.176777, -1.375, -1.5, 0.707107, 0.5, 0.707107, 0.5]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_worked_example_of_the_released_code() -> None:
    found = treerl(credit_of(REWARDS, tokens=TOKENS), weigh="value")
    expected = [-0.176777, 1.088388, -0.176777, -1.411612, -1.5, 0.707107, 0.646447, 0.707107, 0.646447]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_credit_of_exactly_zero_can_get_that_of_the_node_before() -> None:
    tokens, rewards = [[5, 1], [5, 2, 3], [5, 2, 4], [6]], [1.0, 0.5, 0.5, 0.0]
    credit = credit_of(rewards, tokens=tokens)
    # mean 0.5: r = 2/3, 0, 0, -2/3; V(5) = 2/9, V(5 2) = 0.
    plain = treerl(credit)
    assert plain[3] == pytest.approx((2 * 0 - 2 / 9) / np.sqrt(2))
    assert plain[4] == plain[7] == 0  # leaves under 5 2: r = 0, parent 0
    filled = treerl(credit, fill_zeros=True)
    assert filled[4] == filled[7] == plain[3]
    first = credit_of([1.0, 0.0], tokens=[[5, 7], [5, 8]])
    assert treerl(first, fill_zeros=True).tolist() == [0.0, 2.0, 0.0, -2.0]  # nothing before the first node


def test_an_unfinished_rollout_counts_as_asked() -> None:
    rollouts = credit_of([1.0, 0.0], tokens=[[5], [6]]).rollouts.with_flag("truncated", np.array([True, False]))
    assert treerl(Credit(rollouts), unfinished=-1.0).tolist() == [-2.0, -2.0]


@pytest.mark.parametrize("weigh", ["difference", "value"])
def test_equal_rewards_give_exactly_zero(weigh: str) -> None:
    assert not treerl(credit_of([0.7] * 5, tokens=TOKENS), weigh=weigh, fill_zeros=True).any()  # type: ignore[arg-type]


def test_a_group_of_one() -> None:
    credit = credit_of([0.5], tokens=[[1, 2]])
    assert not treerl(credit).any()
    assert treerl(credit, singleton="raw").tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match="alone"):
        treerl(credit, singleton="error")


def test_environment_tokens_and_empty_responses() -> None:
    tokens = [[1, 9, 5], [1, 9, 6], [2], [3, 9, 5], [3, 9, 6]]
    mask = [[True] if len(row) == 1 else [True, False, True] for row in tokens]
    found = treerl(credit_of(REWARDS, tokens=tokens, mask=mask))
    assert not found[[1, 4, 8, 11]].any()
    np.testing.assert_allclose(np.delete(found, [1, 4, 8, 11]), treerl(credit_of(REWARDS, tokens=TOKENS)))
    np.testing.assert_allclose(treerl(credit_of([1.0, 0.0], tokens=[[], [5]])), [-2.0])


def oracle(rewards: list[float], responses: list[list[int]], released: bool) -> list[float]:
    """The definition, slowly: leaves below every prefix, one node where they change."""
    count = len(rewards)
    relative = [(reward - (sum(rewards) - reward) / (count - 1)) for reward in rewards]

    def members(prefix: list[int]) -> list[int]:
        return [row for row in range(count) if responses[row][: len(prefix)] == prefix]

    def value(prefix: list[int]) -> float:
        return float(np.mean([relative[row] for row in members(prefix)])) if prefix else 0.0

    out: list[float] = []
    for response in responses:
        parent, here = [], 0.0
        for length in range(1, len(response) + 1):
            prefix = response[:length]
            if length == 1 or members(prefix) != members(response[: length - 1]):
                parent = response[: length - 1]
                leaves = len(members(prefix))
                above = len(members(parent))
                if released:
                    here = 2 * value(prefix) / np.sqrt(leaves) - value(parent) / np.sqrt(above)
                else:
                    here = (2 * value(prefix) - value(parent)) / np.sqrt(leaves)
            out.append(here)
    return out


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_definition_on_random_groups(seed: int, released: bool) -> None:
    rng = np.random.default_rng(seed)
    responses = [rng.integers(0, 3, rng.integers(0, 7)).tolist() for _ in range(9)]
    rewards = rng.random(9).tolist()
    found = treerl(credit_of(rewards, tokens=responses), weigh="value" if released else "difference")
    np.testing.assert_allclose(found, oracle(rewards, responses, released), atol=1e-12)
