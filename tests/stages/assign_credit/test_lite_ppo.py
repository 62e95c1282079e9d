import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

dr_grpo = METHODS["dr_grpo"].assign
lite_ppo = METHODS["lite_ppo"].assign
grpo = METHODS["grpo"].assign

REWARDS, GROUPS = [1.0, 0, 1, 1], [0, 0, 1, 1]  # mean 3/4; squares 1/16 · 3 + 9/16 = 3/4; sample var 1/4


def test_worked_example() -> None:
    found = lite_ppo(credit_of(REWARDS, groups=GROUPS))
    np.testing.assert_allclose(found, np.array([0.5, -0.5, 0, 0]) / (0.5 + 1e-6), rtol=1e-12)
    found = lite_ppo(credit_of(REWARDS, groups=GROUPS), ddof=0, eps=0.0)
    np.testing.assert_allclose(found, np.array([0.5, -0.5, 0, 0]) / np.sqrt(3 / 16), rtol=1e-12)


def test_one_group_is_grpo() -> None:
    credit = credit_of([0.3, 1.0, 0.0, 0.8])
    np.testing.assert_allclose(lite_ppo(credit), grpo(credit), rtol=1e-12)


def test_a_group_whose_rewards_hardly_differ_is_not_blown_up() -> None:
    credit = credit_of([0.5, 0.501, 1.0, 0.0], groups=[0, 0, 1, 1])
    assert abs(lite_ppo(credit)[0]) < 0.002 < 0.7 < abs(grpo(credit)[0])


def test_is_proportional_to_the_centred_reward() -> None:
    credit = credit_of([0.3, 1.0, 0.0, 0.8, 2.0], groups=[0, 0, 1, 1, 1])
    ratio = lite_ppo(credit) / dr_grpo(credit)
    np.testing.assert_allclose(ratio, 1 / (np.std([0.3, 1.0, 0.0, 0.8, 2.0], ddof=1) + 1e-6), rtol=1e-12)


def test_equal_rewards_and_groups_of_one() -> None:
    assert not lite_ppo(credit_of([0.7] * 12, groups=[0] * 6 + [1] * 6), eps=0.0).any()
    assert not lite_ppo(credit_of([0.7] * 4 + [0.2] * 4, groups=[0] * 4 + [1] * 4)).any()
    assert not lite_ppo(credit_of([0.4])).any()
    assert lite_ppo(credit_of([0.4]), singleton="raw").tolist() == [0.4]
    with pytest.raises(DataError, match="alone in its group"):
        lite_ppo(credit_of([0.4]), singleton="error")
