import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

grpo = METHODS["grpo"].assign

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.5]  # mean 0.5, std1 0.5, std0 0.447214 (methods A, GRPO)


def test_worked_example_divides_by_the_sample_std_plus_eps() -> None:
    expected = np.array([0.5, -0.5, -0.5, 0.5, 0.0]) / (0.5 + 1e-6)
    np.testing.assert_allclose(grpo(credit_of(REWARDS)), expected, rtol=1e-12)


def test_trl_convention_is_an_eps_of_1e_4() -> None:
    np.testing.assert_allclose(grpo(credit_of(REWARDS), eps=1e-4), [0.9998, -0.9998, -0.9998, 0.9998, 0], atol=1e-6)


def test_without_std_the_unit_stays_the_reward() -> None:
    np.testing.assert_allclose(grpo(credit_of(REWARDS), scale="none"), [0.5, -0.5, -0.5, 0.5, 0.0], rtol=1e-12)


def test_one_success_in_eight_differs_between_std_conventions() -> None:
    rewards = [1.0] + [0.0] * 7  # peers.md 1E: ddof 1 -> +2.475/-0.354, ddof 0 -> +2.646/-0.378
    np.testing.assert_allclose(grpo(credit_of(rewards))[:2], [2.475, -0.354], atol=1e-3)
    np.testing.assert_allclose(grpo(credit_of(rewards), ddof=0)[:2], [2.646, -0.378], atol=1e-3)


@pytest.mark.parametrize("eps", [1e-4, 1e-6, 1e-9])
def test_a_constant_group_gets_exactly_zero_even_where_its_mean_is_off_by_an_ulp(eps: float) -> None:
    assert grpo(credit_of([0.7] * 12), eps=eps).tolist() == [0.0] * 12


def test_groups_do_not_see_each_other() -> None:
    both = grpo(credit_of([1.0, 0.0, 5.0, 3.0, 1.0], groups=[0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(both[:2], grpo(credit_of([1.0, 0.0])))
    np.testing.assert_array_equal(both[2:], grpo(credit_of([5.0, 3.0, 1.0])))


def test_a_group_of_one_gets_zero_or_its_raw_reward_or_an_error() -> None:
    assert grpo(credit_of([2.0])).tolist() == [0.0]
    assert grpo(credit_of([2.0]), singleton="raw").tolist() == [2.0]
    with pytest.raises(DataError, match="alone in its group"):
        grpo(credit_of([2.0]), singleton="error")


def test_a_reward_that_is_not_finite_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match="row 1, column 'reward': nan"):
        grpo(credit_of([1.0, float("nan")]))


def test_without_a_centre_it_is_the_reward_in_standard_deviations_or_as_it_is() -> None:
    np.testing.assert_allclose(grpo(credit_of(REWARDS), center="none", eps=0.0), [2, 0, 0, 2, 1], rtol=1e-12)
    assert grpo(credit_of(REWARDS), center="none", scale="none").tolist() == REWARDS
    assert not grpo(credit_of([0.7] * 12), center="none").any()
    assert grpo(credit_of([0.7] * 12), center="none", scale="none").tolist() == [0.7] * 12


def test_counted_by_tokens_a_long_response_weighs_more() -> None:
    # Lengths 3 and 1: mean 3/4; squares 3/16 + 9/16 = 3/4, over 4 - 1: variance 1/4.
    credit = credit_of([1.0, 0.0], tokens=[[1, 2, 3], [4]])
    np.testing.assert_allclose(grpo(credit, unit="token", scale="none"), [0.25, -0.75], rtol=1e-12)
    np.testing.assert_allclose(grpo(credit, unit="token", eps=0.0), [0.5, -1.5], rtol=1e-12)
    np.testing.assert_allclose(grpo(credit, unit="token", ddof=0, eps=0.0), [1 / 3**0.5, -(3**0.5)], rtol=1e-12)


def test_counted_by_tokens_those_of_environments_are_left_out() -> None:
    credit = credit_of([1.0, 0.0], tokens=[[1, 2, 3], [9, 4, 9]], mask=[[True] * 3, [False, True, False]])
    np.testing.assert_allclose(grpo(credit, unit="token", eps=0.0), [0.5, -1.5], rtol=1e-12)


def test_counted_by_tokens_without_any_nothing_breaks() -> None:
    assert np.isfinite(grpo(credit_of([1.0, 0.0, 0.5], tokens=[[], [], []]), unit="token")).all()
    assert np.isfinite(grpo(credit_of([1.0, 0.0], tokens=[[1], []]), unit="token")).all()
    assert not grpo(credit_of([0.7] * 12, tokens=[[1] * (size % 4) for size in range(12)]), unit="token").any()


def test_without_an_eps_equal_rewards_still_give_0() -> None:
    assert not grpo(credit_of([0.7] * 12), eps=0.0).any()
