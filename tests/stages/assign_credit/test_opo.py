import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

dr_grpo = METHODS["dr_grpo"].assign
opo = METHODS["opo"].assign


def test_worked_example() -> None:
    # Lengths 3, 1, 2, 2, 4 with rewards 1, 0, 0, 1, 0: (3 + 2) / 12 = .416667 (methods D, L0).
    credit = credit_of([1.0, 0, 0, 1, 0], tokens=[[1] * size for size in (3, 1, 2, 2, 4)])
    np.testing.assert_allclose(opo(credit), [7 / 12, -5 / 12, -5 / 12, 7 / 12, -5 / 12], rtol=1e-12)


def test_equal_lengths_reduce_to_the_centred_reward() -> None:
    credit = credit_of([0.1, 0.7, 0.4, 0.9], tokens=[[1, 2, 3]] * 4, groups=[0, 0, 1, 1])
    np.testing.assert_allclose(opo(credit), dr_grpo(credit), rtol=1e-12)


def test_credit_summed_over_tokens_is_0_in_a_group() -> None:
    credit = credit_of([0.1, 0.7, 0.4], tokens=[[1], [1, 2, 3], [1, 2]])
    assert abs(credit.tokens.spread(opo(credit)).sum()) < 1e-12


def test_environment_tokens_are_no_length() -> None:
    plain = opo(credit_of([1.0, 0.0], tokens=[[1, 2, 3], [4]]))
    holed = opo(credit_of([1.0, 0.0], tokens=[[1, 2, 3], [9, 4, 9]], mask=[[True] * 3, [False, True, False]]))
    np.testing.assert_array_equal(holed, plain)


def test_equal_rewards_empty_responses_and_groups_of_one() -> None:
    assert not opo(credit_of([0.7] * 12, tokens=[[1] * (1 + size % 3) for size in range(12)])).any()
    np.testing.assert_allclose(opo(credit_of([1.0, 0.0], tokens=[[5], []])), [0.0, -1.0])
    assert np.isfinite(opo(credit_of([1.0, 0.0], tokens=[[], []]))).all()
    assert opo(credit_of([0.5])).tolist() == [0.0]
    assert opo(credit_of([0.5]), singleton="raw").tolist() == [0.5]
    with pytest.raises(DataError, match="alone in its group"):
        opo(credit_of([0.5]), singleton="error")
