"""What a refiner improves, and by which skill."""

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.eval._refinement import refinement

# methods C, Search-R2: four responses, two cuts.
CUT = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1], [0.4, 0.6]])
VALUE = np.array([[0.5, 0.75], [0.5, 0.75], [0.5, 0.25], [0.5, 0.25]])
REWARD = np.array([1, 0.5, 0.5, 0])
ACCEPT = np.array([0.9, 0.6, 0.5, 0.1])


def test_the_worked_example() -> None:
    found = refinement(REWARD, ACCEPT, CUT, VALUE)
    assert found.skill == pytest.approx(0.0375, abs=1e-12)  # -0.0125 + 0.05
    assert found.precision == pytest.approx(0.0684375, abs=1e-12)
    assert found.volume == pytest.approx(0.475, abs=1e-12)
    assert found.improvement == pytest.approx(0.08625, abs=1e-12)  # 0.0684375 + 0.475 · 0.0375
    assert found.residual == pytest.approx(0, abs=1e-12)


def test_with_estimated_values_the_gain_is_the_improvement_and_the_residual() -> None:
    rng = np.random.default_rng(0)
    cut = rng.dirichlet(np.ones(3), 50)
    reward, accept, value = rng.random(50), rng.random(50), rng.random((50, 3))
    found = refinement(reward, accept, cut, value)
    gain = ((1 - accept) * ((cut * value).sum(1) - reward)).mean()
    assert found.improvement + found.residual == pytest.approx(gain, abs=1e-12)
    assert abs(found.residual) > 1e-3


def test_a_refiner_that_accepts_all_changes_nothing() -> None:
    found = refinement(REWARD, np.ones(4), CUT, VALUE)
    assert (found.volume, found.precision, found.improvement, found.residual) == (0, 0, 0, 0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"needed are \[N\], \[N\], \[N, K\] and \[N, K\] with N > 0"):
        refinement(REWARD[:3], ACCEPT, CUT, VALUE)
    with pytest.raises(DataError, match="response 1: the cuts' probabilities add up to 2, not 1"):
        refinement(REWARD, ACCEPT, CUT * np.array([[1], [2], [1], [1]]), VALUE)
