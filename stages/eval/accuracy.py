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
    """[P] unbiased estimate of the chance that at least one of k samples is right (arXiv:2107.03374, eq. 1).

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - Π_{i=n-c+1..n} (1 - k/i)

    Args:
        samples: [P] n, samples per problem; must be >= k.
        correct: [P] c, of which right.

    >>> pass_at_k(np.array([4, 4]), np.array([1, 0]), 2).tolist()
    [0.5, 0.0]
    """
    samples, correct = np.asarray(samples, np.float64), np.asarray(correct, np.float64)
    if (samples < k).any():
        raise ValueError(f"pass@{k} needs {k} samples of every problem, one has {int(samples.min())}")
    miss = np.ones(len(samples))
    for drawn in range(k):
        miss *= np.clip(samples - correct - drawn, 0, None) / (samples - drawn)
    return 1 - miss


def bootstrap(per_problem: Array, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over problems [P], with the percentile interval of means over problems drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, 4_000_000 // max(len(per_problem), 1))
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = rng.integers(0, len(per_problem), (count, len(per_problem)))
        means[first : first + count] = per_problem[drawn].mean(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(per_problem.mean()), float(low), float(high))
