import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

rloo = METHODS["rloo"].assign
dr_grpo = METHODS["dr_grpo"].assign
grpo = METHODS["grpo"].assign


def test_worked_examples() -> None:
    np.testing.assert_allclose(dr_grpo(credit_of([1.0, 0, 0, 1, 0.5])), [0.5, -0.5, -0.5, 0.5, 0.0], rtol=1e-12)
    np.testing.assert_allclose(dr_grpo(credit_of([1.0, 0, 0, 1, 0])), [0.6, -0.4, -0.4, 0.6, -0.4], rtol=1e-12)


def test_is_grpo_without_the_std_and_rloo_times_n_minus_1_over_n() -> None:
    credit = credit_of([0.2, 1.7, 0.4, 0.9, 0.3], groups=[0, 0, 0, 1, 1])
    np.testing.assert_array_equal(dr_grpo(credit), grpo(credit, scale="none"))
    np.testing.assert_allclose(dr_grpo(credit), rloo(credit) * np.array([2 / 3] * 3 + [1 / 2] * 2), rtol=1e-12)


def test_equal_rewards_give_exactly_0() -> None:
    assert not dr_grpo(credit_of([0.7] * 12)).any()


def test_a_group_of_one() -> None:
    assert dr_grpo(credit_of([0.5])).tolist() == [0.0]
    assert dr_grpo(credit_of([0.5]), singleton="raw").tolist() == [0.5]
    with pytest.raises(DataError, match="alone in its group"):
        dr_grpo(credit_of([0.5]), singleton="error")


def test_an_empty_response_counts_in_the_mean() -> None:
    np.testing.assert_allclose(dr_grpo(credit_of([1.0, 0.0], tokens=[[3], []])), [0.5, -0.5])
