import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

rloo = METHODS["rloo"].assign


def test_worked_example() -> None:
    np.testing.assert_allclose(
        rloo(credit_of([1.0, 0.0, 0.0, 1.0, 0.5])), [0.625, -0.625, -0.625, 0.625, 0.0], rtol=1e-12
    )


def test_hand_worked() -> None:
    # A success is compared with (0 + 0 + 1) / 3 = 1/3, a failure with (1 + 0 + 1) / 3 = 2/3.
    np.testing.assert_allclose(rloo(credit_of([1.0, 0, 0, 1])), [2 / 3, -2 / 3, -2 / 3, 2 / 3], rtol=1e-12)


def test_two_binary_rollouts_get_plus_and_minus_one() -> None:
    assert rloo(credit_of([1.0, 0.0])).tolist() == [1.0, -1.0]


def test_is_the_centred_reward_scaled_by_n_over_n_minus_1() -> None:
    rewards = np.array([0.2, 1.7, -0.4])
    np.testing.assert_allclose(rloo(credit_of(rewards.tolist())), (rewards - rewards.mean()) * 3 / 2, rtol=1e-12)


def test_equal_rewards_give_exactly_zero() -> None:
    assert rloo(credit_of([0.7] * 12)).tolist() == [0.0] * 12


def test_a_group_of_one_gets_zero_or_its_raw_reward_or_an_error() -> None:
    assert rloo(credit_of([2.0])).tolist() == [0.0]
    assert rloo(credit_of([2.0]), singleton="raw").tolist() == [2.0]
    with pytest.raises(DataError, match="alone in its group"):
        rloo(credit_of([2.0]), singleton="error")
