"""Accuracy and pass@k of scored rollouts, with bootstrap confidence intervals over problems."""

from dataclasses import dataclass

import numpy as np

from ...formats.segments import Array

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its 95 % percentile-bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def pass_at_k(samples: Array, correct: Array, k: int) -> Array:
    """[P] unbiased estimate of the probability that at least one of k samples is right (arXiv:2107.03374).

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - Π_{i=n-c+1..n} (1 - k/i)

    Args:
        samples: [P] n, samples per problem; must be >= k.
        correct: [P] c, how many of them are right.

    >>> pass_at_k(np.array([4, 4]), np.array([1, 0]), 2).tolist()
    [0.5, 0.0]
    """
    samples, correct = np.asarray(samples, np.float64), np.asarray(correct, np.float64)
    if (samples < k).any():
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem, got {int(samples.min())} of one")
    miss = np.ones(len(samples))
    for drawn in range(k):
        miss *= np.clip(samples - correct - drawn, 0, None) / (samples - drawn)
    return 1 - miss


def bootstrap(per_problem: Array, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over problems [P], with the percentile interval of means over problems drawn with replacement."""
    found = bootstrap_ratio(per_problem, np.ones(len(per_problem)), seed, resamples)
    assert found is not None, "there is at least one problem"
    return found


def bootstrap_ratio(sums: Array, counts: Array, seed: int = 0, resamples: int = RESAMPLES) -> Estimate | None:
    """Σ sums / Σ counts over problems, with the percentile interval of problems drawn with replacement.

    This is the mean over cases when problems have different numbers of them. A draw without any case is left out.

    Args:
        sums: [P] total of each problem.
        counts: [P] number of cases of each problem.

    Returns:
        None if there are no cases.

    >>> bootstrap_ratio(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    if not counts.sum():
        return None
    rng = np.random.default_rng(seed)
    found: list[Array] = []
    at_once = max(1, 4_000_000 // max(len(sums), 1))
    for first in range(0, resamples, at_once):
        drawn = rng.integers(0, len(sums), (min(at_once, resamples - first), len(sums)))
        cases = counts[drawn].sum(1)
        found.append(sums[drawn].sum(1)[cases > 0] / cases[cases > 0])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))
