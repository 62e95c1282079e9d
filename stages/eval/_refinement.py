"""What a refiner that accepts or cuts adds to a policy, and by which of its skills (Search-R2, arXiv:2602.03647)."""

from dataclasses import dataclass

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array


@dataclass(frozen=True)
class Refinement:
    """Reward units where not said otherwise. improvement = precision + volume · skill, but for `residual`.

    skill: S_trim, whether it cuts where a fresh rest is worth more than the rest there was.
    precision: A_prec, whether it accepts where a cut would cost.
    volume: V_inter, the share of responses that it cuts.
    improvement: dJ, what it adds to the expected reward.
    residual: what the three leave unexplained, volume · Σ_k E[π_k] E[G_k]; 0 where values are exact.
    """

    skill: float
    precision: float
    volume: float
    improvement: float
    residual: float


def refinement(reward: Array, accept: Array, cut: Array, value: Array) -> Refinement:
    """The paper's decomposition of what a refiner improves, over the N first responses.

        G_k(y)    = V(y_1:k) - R(y)                          a fresh rest after k steps against the one there was
        S_trim    = Σ_k Cov_y(π(k|y), G_k(y))                A_prec = Cov_y(α(y), R(y) - J_trim(y))
        J_trim(y) = Σ_k π(k|y) V(y_1:k)                      V_inter = 1 - E[α]
        dJ        = A_prec + V_inter · S_trim

    Covariances are over responses at a fixed cut, divided by N. E[G_k] = 0 for exact values, as the paper supposes; for
    estimated ones the gain that they imply, E[(1 - α)(J_trim - R)], is dJ + residual.

    Args:
        reward: [N] R of the first responses, reward units.
        accept: [N] α, the probability that the refiner accepts one.
        cut: [N, K] π(k|y), the probability of each cut; rows add up to 1.
        value: [N, K] V, the expected reward of what is kept there, reward units.

    Returns:
        The four numbers and the residual.

    Raises:
        DataError: shapes that do not fit, no responses, or cuts whose probabilities do not add up to 1.

    Departures: the residual, which the paper does not have.

    >>> found = refinement(np.array([1.0, 0.0]), np.array([1.0, 0.5]), np.ones((2, 1)), np.full((2, 1), 0.5))
    >>> found.precision, found.volume, found.skill, found.improvement
    (0.125, 0.25, 0.0, 0.125)
    """
    if cut.shape != value.shape or cut.ndim != 2 or not len(cut) == len(value) == len(reward) == len(accept) > 0:
        shapes = ", ".join(str(each.shape) for each in (reward, accept, cut, value))
        raise DataError(f"reward, accept, cut, value: {shapes}, needed are [N], [N], [N, K] and [N, K] with N > 0")
    wrong = np.flatnonzero(~np.isclose(cut.sum(1), 1.0))
    if len(wrong):
        raise DataError(f"response {int(wrong[0])}: the cuts' probabilities add up to {cut[wrong[0]].sum():g}, not 1")
    gain = value - reward[:, None]
    trimmed = (cut * value).sum(1)
    volume = float(1 - accept.mean())
    skill = float(((cut - cut.mean(0)) * (gain - gain.mean(0))).mean(0).sum())
    precision = float(((accept - accept.mean()) * (reward - trimmed - (reward - trimmed).mean())).mean())
    residual = volume * float((cut.mean(0) * gain.mean(0)).sum())
    return Refinement(skill, precision, volume, precision + volume * skill, residual)
