import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

dr_grpo = METHODS["dr_grpo"].assign
maxrl = METHODS["maxrl"].assign


def test_worked_example() -> None:
    np.testing.assert_allclose(maxrl(credit_of([1.0, 0, 0, 1, 0.5])), [1, -1, -1, 1, 0], rtol=1e-12)
    np.testing.assert_allclose(maxrl(credit_of([1.0] + [0.0] * 7)), [7.0] + [-1.0] * 7, rtol=1e-12)


def test_is_the_centred_reward_over_the_rate_of_success() -> None:
    credit = credit_of([1.0, 0, 0, 1, 1, 1, 0, 1], groups=[0, 0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(maxrl(credit), dr_grpo(credit) / np.array([1 / 3] * 3 + [4 / 5] * 5), rtol=1e-12)


def test_scale_of_the_reward_does_not_matter() -> None:
    np.testing.assert_allclose(maxrl(credit_of([3.0, 0.3, 0])), maxrl(credit_of([10.0, 1.0, 0])), rtol=1e-12)


def test_eps_is_added_to_the_mean() -> None:
    np.testing.assert_allclose(maxrl(credit_of([1.0, 0.0]), eps=0.5), [0.5, -0.5], rtol=1e-12)


def test_groups_without_a_difference_and_groups_of_one() -> None:
    assert not maxrl(credit_of([0.0] * 4)).any()
    assert not maxrl(credit_of([0.7] * 12)).any()
    assert maxrl(credit_of([0.5])).tolist() == [0.0]
    assert maxrl(credit_of([0.5]), singleton="raw").tolist() == [0.5]
    with pytest.raises(DataError, match="alone in its group"):
        maxrl(credit_of([0.5]), singleton="error")


def test_a_negative_reward_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match=r"row 1, column 'reward': -1"):
        maxrl(credit_of([1.0, -1.0]))
