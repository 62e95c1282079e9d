from itertools import combinations

import numpy as np
import pytest
from apportion.stages.eval.accuracy import bootstrap, pass_at_k


@pytest.mark.parametrize("samples", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: int) -> None:
    for k in range(1, samples + 1):
        for correct in range(samples + 1):
            right = [True] * correct + [False] * (samples - correct)
            expected = np.mean([any(chosen) for chosen in combinations(right, k)])
            found = pass_at_k(np.array([samples]), np.array([correct]), k)
            np.testing.assert_allclose(found, [expected], rtol=1e-12, atol=1e-15)


def test_pass_at_1_is_the_share_of_right_samples() -> None:
    np.testing.assert_allclose(pass_at_k(np.array([4, 8]), np.array([1, 6]), 1), [0.25, 0.75], rtol=1e-12)


def test_pass_at_k_of_many_samples_stays_in_bounds() -> None:
    found = pass_at_k(np.array([10_000] * 3), np.array([0, 1, 10_000]), 5_000)
    np.testing.assert_allclose(found, [0, 0.5, 1], rtol=1e-9)


def test_pass_at_k_needs_k_samples_of_every_problem() -> None:
    with pytest.raises(ValueError, match=r"pass@4 needs at least 4 samples of every problem, got 3 of one"):
        pass_at_k(np.array([4, 3]), np.array([1, 1]), 4)


PER_PROBLEM = np.random.default_rng(0).random(50)


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    assert bootstrap(PER_PROBLEM, seed=3) == bootstrap(PER_PROBLEM, seed=3)
    assert bootstrap(PER_PROBLEM, seed=3) != bootstrap(PER_PROBLEM, seed=4)


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    found = bootstrap(PER_PROBLEM)
    error = PER_PROBLEM.std() / np.sqrt(50)
    assert found.value == pytest.approx(PER_PROBLEM.mean(), rel=1e-12)
    assert (found.value - found.low) / error == pytest.approx(1.96, abs=0.12)
    assert (found.high - found.value) / error == pytest.approx(1.96, abs=0.12)


def test_the_interval_covers_the_truth_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        estimate = bootstrap((rng.random(60) < 0.4).astype(float), seed=trial, resamples=1_000)
        covered += estimate.low <= 0.4 <= estimate.high
    assert 180 <= covered <= 199


def test_equal_problems_have_no_width() -> None:
    assert str(bootstrap(np.full(8, 0.25))) == "0.250 [0.250, 0.250]"


def test_many_problems_are_resampled_in_parts() -> None:
    """4 million drawn at once: 3,000 resamples of 2,000 problems take two parts."""
    found = bootstrap(np.arange(2_000) / 2_000, resamples=3_000)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.2887 / np.sqrt(2_000), rel=0.1)
