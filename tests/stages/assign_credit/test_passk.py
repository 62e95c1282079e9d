from itertools import combinations
from math import comb

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

passk = METHODS["passk"].assign
grpo = METHODS["grpo"].assign


def test_one_success_in_four() -> None:
    # k = 2: ρ = 1 - C(3,2)/C(4,2) = 1/2, σ = 1/2; failures: 1/2 - C(2,1)/C(3,1) = -1/6.
    found = passk(credit_of([1.0, 0, 0, 0]), k=2, eps=0.0)
    np.testing.assert_allclose(found, [1, -1 / 3, -1 / 3, -1 / 3], rtol=1e-12)
    found = passk(credit_of([1.0, 0, 0, 0]), k=2, scale="none")
    np.testing.assert_allclose(found, [1 / 2, -1 / 6, -1 / 6, -1 / 6], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
@pytest.mark.parametrize("right", range(1, 9))
def test_is_the_papers_formula_for_rewards_of_0_and_1(right: int, k: int) -> None:
    size = 8
    rho = 1 - comb(size - right, k) / comb(size, k)
    sigma = np.sqrt(rho * (1 - rho))
    failure = comb(size - right - 1, k - 1) / comb(size - 1, k - 1) if right < size else 0
    expected = np.array([1 - rho] * right + [1 - rho - failure] * (size - right)) / (sigma + 1e-6)
    np.testing.assert_allclose(passk(credit_of([1.0] * right + [0.0] * (size - right)), k=k), expected, atol=1e-9)


def test_k_of_1_is_grpo_with_the_population_std() -> None:
    credit = credit_of([0.2, 0.9, 0.4, 0.4, 1.0, 0.0], groups=[0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(passk(credit, k=1), grpo(credit, ddof=0), rtol=1e-9)


def test_nothing_is_left_to_learn_once_any_k_hold_a_success() -> None:
    assert not passk(credit_of([1.0, 1.0, 1.0, 0.0]), k=2).any()
    assert not passk(credit_of([0.7, 0.7, 0.7, 0.1]), k=3, eps=0.0).any()


def test_the_best_minus_the_second_best() -> None:
    found = passk(credit_of([0.2, 0.9, 0.4]), form="gap")  # .5 / (.360555 + 1e-6) (methods D, L0)
    np.testing.assert_allclose(found, [0, 1.386747, 0], atol=1e-6)
    assert passk(credit_of([1.0, 1.0, 0.0]), form="gap").tolist() == [0, 0, 0]
    assert passk(credit_of([0.5, 1.0]), form="gap", scale="none").tolist() == [0, 0.5]


def test_equal_rewards_and_groups_of_one() -> None:
    assert not passk(credit_of([0.7] * 12), eps=0.0).any()
    assert not passk(credit_of([0.7] * 12), form="gap", eps=0.0).any()
    assert passk(credit_of([0.5])).tolist() == [0.0]
    assert passk(credit_of([0.5]), singleton="raw").tolist() == [0.5]
    with pytest.raises(DataError, match="alone in its group"):
        passk(credit_of([0.5]), form="gap", singleton="error")


def test_a_group_smaller_than_k_is_an_error() -> None:
    with pytest.raises(DataError, match="row 1: a group of 3 rollouts, fewer than k = 4"):
        passk(credit_of([1.0, 0.0, 1.0, 0.0], groups=[0, 1, 1, 1]))
    with pytest.raises(UsageError, match="passk: k must be at least 1, got 0"):
        METHODS.settle("passk", {"k": 0})


def oracle(reward: list[float], k: int) -> list[float]:
    """The definition: every set of k."""
    best = {each: max(reward[row] for row in each) for each in combinations(range(len(reward)), k)}
    mean, std = np.mean(list(best.values())), np.std(list(best.values()))
    own = [np.mean([value for each, value in best.items() if row in each]) for row in range(len(reward))]
    if len(set(best.values())) == 1:
        return [0.0] * len(reward)
    return [float((value - mean) / (std + 1e-6)) for value in own]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_agrees_with_all_sets_of_k_on_random_graded_rewards(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [5, 7, 5]
    parts = [np.round(rng.random(size), 1).tolist() for size in sizes]
    credit = credit_of([each for part in parts for each in part], groups=np.repeat([0, 1, 2], sizes).tolist())
    np.testing.assert_allclose(passk(credit, k=k), [each for part in parts for each in oracle(part, k)], atol=1e-9)
