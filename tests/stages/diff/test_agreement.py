"""Agreement of two signals, by hand."""

import numpy as np
import pytest
from apportion.stages.diff.agreement import agreement, correlation, ranks

# |a| sums to 8, |b| to 4; scaled by their means 2 and 1 they are (1, 0, -1, 2) and (1, 0, 1, 2).
A, B = np.array([2.0, 0.0, -2.0, 4.0]), np.array([1.0, 0.0, 1.0, 2.0])


def test_by_hand() -> None:
    found = agreement(A, B)
    assert (found.places, found.same_sign, found.opposite) == (4, 3 / 4, 1 / 4)
    # a: 2/8 + 4/8 on the same sign; b: 1/4 + 2/4
    assert found.same_sign_mass == (6 / 8 + 3 / 4) / 2
    assert found.mean_difference == (0 + 0 + 2 + 0) / 4
    # ranks (3, 2, 1, 4) and (2.5, 1, 2.5, 4): covariance .5·0 + -.5·-1.5 + -1.5·0 + 1.5·1.5 = 3, squares 5 and 4.5
    assert found.spearman == pytest.approx(3 / np.sqrt(5 * 4.5), rel=1e-12)
    # centred (1, -1, -3, 3) and (0, -1, 0, 1): covariance 4, squares 20 and 2
    assert found.pearson == pytest.approx(4 / np.sqrt(20 * 2), rel=1e-12)


def test_another_unit_is_no_difference() -> None:
    found = agreement(A, A * 1e-3)
    assert (found.same_sign, found.same_sign_mass) == (1.0, 1.0)
    assert found.mean_difference == pytest.approx(0, abs=1e-12)
    assert found.pearson == pytest.approx(1)


def test_the_opposite_is_as_far_as_it_gets() -> None:
    found = agreement(np.array([1.0, -1.0]), np.array([-3.0, 3.0]))
    assert (found.same_sign, found.opposite, found.same_sign_mass) == (0, 1, 0)
    assert (found.spearman, found.pearson, found.mean_difference) == (-1, -1, 2)


def test_zeros_everywhere() -> None:
    found = agreement(np.zeros(3), np.array([1.0, 0.0, 2.0]))
    assert (found.same_sign, found.opposite) == (1 / 3, 0)
    assert (found.spearman, found.pearson, found.same_sign_mass) == (None, None, None)
    assert found.mean_difference == 1


def test_of_nothing() -> None:
    assert agreement(np.empty(0), np.empty(0)).pearson is None


def test_ties_share_the_mean_of_their_ranks() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 3.0, 0.0])).tolist() == [4, 2, 4, 4, 1]


def test_correlation_of_huge_and_tiny_numbers() -> None:
    assert correlation(np.array([1e300, 2e300]), np.array([1e-300, 2e-300])) == pytest.approx(1)
