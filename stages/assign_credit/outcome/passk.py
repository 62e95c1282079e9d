"""Pass@k training: credit for what a rollout does to the best of k."""

from math import comb
from typing import Annotated, Literal

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.baseline import settle_singletons
from ...structure.statistics import divide_by_spread
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2508.10751, §2.4; form=gap: arXiv:2503.19595",
    evidence="code",
    presets={"verl": {"form": "gap", "eps": 1e-6, "singleton": "error"}},
)
def passk(
    reward: Array,
    groups: Segments,
    *,
    k: Annotated[int, AtLeast(1)] = 4,
    form: Literal["analytic", "gap"] = "analytic",
    scale: Literal["std", "none"] = "std",
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """Advantage when k rollouts are rewarded together with the best of their rewards.

        B(S) = max of R over the k rollouts of S,  S any k of the group's n
        A_i  = (mean of B over S that hold i - mean of B over all S) / (std of B over all S + eps)      form = "analytic"
        A_i  = (best - second best) / (std_g + eps) for the best rollout, 0 for all others              form = "gap"

    The means are over all C(n, k) sets, in closed form. For rewards of 0 and 1, c of them 1, the mean of B is pass@k and
    this is the paper's

        ρ = 1 - C(n-c, k) / C(n, k),   σ = √(ρ(1-ρ))
        A = (1 - ρ) / (σ + eps) for a success,   (1 - ρ - C(n-c-1, k-1) / C(n-1, k-1)) / (σ + eps) for a failure

    Once any k rollouts hold a success there is nothing left to learn. k = 1 is `grpo` with ddof=0.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        k: how many rollouts share the best reward, 1 to n; not used by "gap".
        form: "analytic", or "gap", which looks at the single best rollout (verl's grpo_passk).
        scale: divide by the std, or not at all. That of "gap" is of the group's rewards, with divisor n - 1.
        eps: added to the std.
        singleton: what a group of one gets: "zero", its "raw" reward, or an "error" (verl).

    Returns:
        [R] advantages: in standard deviations ("std") or reward units ("none"). A group of equal rewards gets exactly 0, and
        with "analytic" one whose k-th worst reward equals the best.

    Raises:
        DataError: a missing reward; a group of fewer than k rollouts, but for groups of one; a group of one with
            singleton="error". UsageError: k < 1.

    Departures: 1. The paper has rewards of 0 and 1 only, its code leaves others as they are; best of k is ours, and the
        same where theirs is defined. 2. The paper has no eps, its code this one. 3. Of several best rollouts "gap" gives
        none anything, since the second best is as good.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> passk(np.array([1.0, 0.0, 0.0, 0.0]), Segments.of_sizes([4]), k=2, eps=0.0).round(4).tolist()  # ρ = 1/2, σ = 1/2
    [1.0, -0.3333, -0.3333, -0.3333]
    >>> passk(np.array([0.2, 0.9, 0.4]), Segments.of_sizes([3]), form="gap", scale="none").tolist()
    [0.0, 0.5, 0.0]
    """
    if form == "analytic":
        small = np.flatnonzero((groups.sizes < k) & (groups.sizes > 1))
        if len(small):
            row, size = int(groups.starts[small[0]]), int(groups.sizes[small[0]])
            raise DataError(f"row {row}: a group of {size} rollouts, fewer than k = {k}; sample more or --set k={size}")
    advantage = np.zeros(len(reward))
    for size in np.unique(groups.sizes[groups.sizes > 1]).tolist():
        chosen = groups.starts[groups.sizes == size]
        rows = chosen[:, None] + np.arange(size)
        each = _gap(reward[rows], scale, eps) if form == "gap" else _analytic(reward[rows], k, scale, eps)
        advantage[rows] = each
    return settle_singletons(advantage, reward, groups, singleton)


def _analytic(reward: Array, k: int, scale: str, eps: float) -> Array:
    """[G, n] advantages for rewards [G, n] of groups of the same size."""
    n = reward.shape[1]
    order = np.argsort(reward, axis=1, kind="stable")
    ascending = np.take_along_axis(reward, order, axis=1)
    # Of the C(n, k) sets, C(j, k-1) have the j-th (from 0) as their best; of those that hold a worse one, C(j-1, k-2).
    best = np.array([comb(j, k - 1) / comb(n, k) for j in range(n)])
    if k == 1:
        inside = ascending
    else:
        after = np.array([comb(j - 1, k - 2) / comb(n - 1, k - 1) if j else 0.0 for j in range(n)])
        own = np.array([comb(j, k - 1) / comb(n - 1, k - 1) for j in range(n)])
        above = np.cumsum((ascending * after)[:, ::-1], axis=1)[:, ::-1]
        inside = ascending * own + np.concatenate((above[:, 1:], np.zeros((len(reward), 1))), axis=1)
    mean = (ascending * best).sum(axis=1, keepdims=True)
    advantage = inside - mean
    if scale == "std":
        std = np.sqrt((best * (ascending - mean) ** 2).sum(axis=1, keepdims=True))
        advantage = divide_by_spread(advantage, std, eps)
    settled = ascending[:, k - 1] == ascending[:, -1]  # every set has the same best
    advantage[settled] = 0.0
    out = np.empty_like(advantage)
    np.put_along_axis(out, order, advantage, axis=1)
    return out


def _gap(reward: Array, scale: str, eps: float) -> Array:
    """[G, n] advantages for rewards [G, n] of groups of the same size, n ≥ 2."""
    size = reward.shape[1]
    first = reward.argmax(axis=1)
    two = np.partition(reward, size - 2, axis=1)[:, -2:]
    gap = two[:, 1] - two[:, 0]
    if scale == "std":
        flat = Segments(np.arange(len(reward) + 1) * size)
        gap = divide_by_spread(gap, flat.std(reward.reshape(-1)), eps)
    out = np.zeros_like(reward)
    out[np.arange(len(reward)), first] = gap
    return out
