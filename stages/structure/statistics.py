"""Statistics of baselines: whitening over a batch, and means in which a rollout counts by its length."""

from typing import Literal

import numpy as np

from ...formats.segments import Array, Segments

Floor = Literal["add", "clamp"]


def whiten_batch(values: Array, where: Array, *, ddof: int = 1, eps: float = 1e-8, floor: Floor = "add") -> Array:
    """[N] values over the chosen places with mean 0 and variance 1; 0 elsewhere, and where all are equal.

        (x - mean) / √(var + eps)          floor = "add"
        (x - mean) / √max(var, eps)        floor = "clamp"

    where: [N] bool. The var has divisor n - ddof; of n ≤ ddof values nothing can be said, they get 0.

    >>> whiten_batch(np.array([1.0, 9.0, 3.0]), np.array([True, False, True]), ddof=0, eps=0.0).tolist()
    [-1.0, 0.0, 1.0]
    """
    chosen = values[where]
    out = np.zeros(len(values))
    if len(chosen) > max(ddof, 1) and chosen.max() > chosen.min():
        variance = float(chosen.var(ddof=ddof))
        variance = variance + eps if floor == "add" else max(variance, eps)
        out[where] = (chosen - chosen.mean()) / np.sqrt(variance)
    return out


def batch_std(values: Array, *, ddof: int = 1) -> float:
    """Std with divisor n - ddof; exactly 0 where all values are equal, or n ≤ ddof."""
    if len(values) <= max(ddof, 1) or values.max() == values.min():
        return 0.0
    return float(values.std(ddof=ddof))


def weighted_mean(values: Array, weights: Array, groups: Segments) -> Array:
    """[G] Σ w·x / Σ w in each group; the plain mean where all weights are 0. values, weights: [R].

    >>> weighted_mean(np.array([1.0, 0.0]), np.array([3, 1]), Segments(np.array([0, 2]))).tolist()
    [0.75]
    """
    total = groups.sum(weights.astype(np.float64))
    return np.where(total > 0, groups.sum(values * weights) / np.where(total > 0, total, 1.0), groups.mean(values))


def weighted_std(values: Array, weights: Array, groups: Segments, *, ddof: int = 1) -> Array:
    """[G] std of a group in which each value stands `weights` times, divisor Σ w - ddof; exactly 0 where all are equal
    or Σ w ≤ ddof. values, weights: [R]."""
    total = groups.sum(weights.astype(np.float64))
    centred = values - groups.spread(weighted_mean(values, weights, groups))
    variance = groups.sum(weights * centred * centred) / np.maximum(total - ddof, 1)
    return np.where((total <= ddof) | groups.constant(values), 0.0, np.sqrt(variance))


def divide_by_spread(values: Array, spread: Array, eps: float) -> Array:
    """values / (spread + eps); exactly 0 where there is no spread, also with eps 0. spread broadcasts."""
    return np.where(spread > 0, values / np.where(spread > 0, spread + eps, 1.0), 0.0)
