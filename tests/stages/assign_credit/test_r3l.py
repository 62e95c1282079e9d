"""R3L's amplified advantages, by the worked numbers."""

import math
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

r3l = METHODS["r3l"].assign


@pytest.mark.parametrize(
    ("rewards", "options", "expected"),
    [
        ([0.1, 0.6, 0.3, 1.0], {}, [-0.4, 0.3, -0.2, 1.0]),
        ([0.1, 0.6, 0.3, 1.0], {"best": "alpha"}, [-0.4, 0.3, -0.2, 3.0]),
        ([0.1, 0.6, 0.3, 1.0], {"baseline": "logavgexp"}, [-0.458963, 0.123112, -0.258963, 1.0]),
        ([0.0, 0.2, 1.0, 0.1], {}, [-0.325, -0.125, 1.0, -0.225]),
        ([1.0] * 4, {}, [1.0] * 4),
        ([0.3, 0.3], {}, [0.0, 0.0]),
        ([1.0], {}, [1.0]),
        ([0.4], {}, [1.2]),
        ([-0.5], {}, [-0.5]),
        ([0.4], {"baseline": "logavgexp"}, [1.2]),
        ([2.0, 4.0], {"max_reward": 4.0, "alpha": 2.0}, [-1.0, 1.0]),
    ],
    ids=str,
)
def test_worked_examples(rewards: list[float], options: dict[str, Any], expected: list[float]) -> None:
    np.testing.assert_allclose(r3l(credit_of(rewards), **options), expected, atol=1e-6)


@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0])
def test_the_soft_baseline_is_the_formula(tau: float) -> None:
    rewards = [0.1, 0.6, 0.3, 0.9, -0.4]
    b = tau * math.log(sum(math.exp(reward / tau) for reward in rewards) / len(rewards))
    expected = [3 * (reward - b) if reward >= b else reward - b for reward in rewards]
    np.testing.assert_allclose(r3l(credit_of(rewards), baseline="logavgexp", tau=tau), expected, atol=1e-12)


def test_equal_rewards_below_the_best_are_exactly_0() -> None:
    for baseline in ("mean", "logavgexp"):
        assert r3l(credit_of([0.7] * 12), baseline=baseline).tolist() == [0.0] * 12


def test_a_group_of_one_is_left_as_it_is_unless_told() -> None:
    credit = credit_of([0.4, 1.0, 0.1, 0.6, 0.3, 1.0], groups=[0, 1, 2, 2, 2, 2])
    rest = [-0.4, 0.3, -0.2, 1.0]
    np.testing.assert_allclose(r3l(credit), [1.2, 1.0, *rest])
    np.testing.assert_allclose(r3l(credit, singleton="zero"), [0.0, 0.0, *rest])
    with pytest.raises(DataError, match="row 0 is alone in its group"):
        r3l(credit, singleton="error")


def test_large_rewards_overflow_nothing() -> None:
    assert np.isfinite(r3l(credit_of([1e4, -1e4, 3.0]), baseline="logavgexp", tau=0.01, max_reward=2e4)).all()


def test_the_paper_gives_the_best_alpha() -> None:
    options = METHODS.settle("r3l", {}, "paper")
    assert r3l(credit_of([1.0, 0.0]), **options).tolist() == [3.0, -0.5]


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"tau": -1.0}, {"tau": float("nan")}])
def test_an_option_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"credit method r3l: (alpha|tau) must be (above 0|a number)"):
        METHODS.settle("r3l", options)
