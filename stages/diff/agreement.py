"""How far two signals on the same places agree: numbers, on arrays."""

from dataclasses import dataclass

import numpy as np

from ...formats.segments import Array


@dataclass(frozen=True)
class Agreement:
    """Of two signals over the same places.

    same_sign: share of places where both are above 0, both below, or both 0. opposite: share where one is above and the other
    below. spearman, pearson: None where either signal does not vary. same_sign_mass: share of the credit, each signal's
    magnitudes taken as shares of its own total, on places where both have the same sign and neither is 0; None where
    either is 0 everywhere. mean_difference: of the scaled signals, 0 (the same but for a positive factor) to 2.
    """

    places: int
    same_sign: float | None
    opposite: float | None
    spearman: float | None
    pearson: float | None
    same_sign_mass: float | None
    mean_difference: float | None


def agreement(first: Array, second: Array) -> Agreement:
    """Of two signals [N] without missing values.

    >>> found = agreement(np.array([2.0, 0.0, -2.0, 4.0]), np.array([1.0, 0.0, 1.0, 2.0]))
    >>> found.same_sign, found.opposite, found.same_sign_mass, found.mean_difference
    (0.75, 0.25, 0.75, 0.5)
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    if not len(a):
        return Agreement(0, *[None] * 6)
    one, other = np.sign(a), np.sign(b)
    shares = [np.abs(each) / np.abs(each).sum() if each.any() else None for each in (a, b)]
    mass = None
    if shares[0] is not None and shares[1] is not None:
        mass = float((shares[0] + shares[1])[one * other > 0].sum() / 2)
    return Agreement(
        len(a), float((one == other).mean()), float((one * other < 0).mean()),
        correlation(ranks(a), ranks(b)), correlation(a, b), mass,
        float(np.abs(divide_by_magnitude(a) - divide_by_magnitude(b)).mean()),
    )  # fmt: skip


def divide_by_magnitude(values: Array) -> Array:
    """[N], divided by the mean magnitude; zeros stay.

    >>> divide_by_magnitude(np.array([3.0, -1.0])).tolist()
    [1.5, -0.5]
    """
    magnitude = np.abs(values).mean() if len(values) else 0.0
    return values / magnitude if magnitude > 0 else values


def ranks(values: Array) -> Array:
    """[N] from 1, equal values sharing the mean of their ranks.

    >>> ranks(np.array([0.5, -1.0, 0.5, 7.0])).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def correlation(a: Array, b: Array) -> float | None:
    """Pearson's; None where either does not vary.

    >>> correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    1.0
    """
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    a, b = ((each - each.mean()) / np.abs(each - each.mean()).max() for each in (a, b))
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))
