"""R3L: centred rewards, what is better than the group's mean amplified, and what is as good as can be at 1."""

from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import Above
from ...structure.baseline import centre, settle_singletons
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2601.03715 (R3L), positive amplification",
    evidence="code",
    presets={"paper": {"best": "alpha"}},
    system=("R3L",),
)
def r3l(
    reward: Array,
    groups: Segments,
    *,
    alpha: Annotated[float, Above(0)] = 3.0,
    best: Literal["one", "alpha"] = "one",
    max_reward: float = 1.0,
    baseline: Literal["mean", "logavgexp"] = "mean",
    tau: Annotated[float, Above(0)] = 1.0,
    singleton: Singleton = "raw",
) -> Array:
    """Reward of every rollout against its group, better ones amplified, the same on all its tokens.

        a_i = R_i - b_g            b_g: mean of the group, or tau · ln(1/n Σ exp(R/tau))
        A_i = 1                    R_i >= max_reward
        A_i = alpha · a_i          a_i >= 0
        A_i = a_i                  else

    There is no std. A group of one has b = 0, and in a group that is all as good as can be everyone gets 1: rows of
    `sample --strategy retry` that teach a reflection or a guided try are such. What comes before the pivot is masked there,
    by `parents=suffix`.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        alpha: factor of those better than the baseline.
        best: what the maximal reward gets: "one" (released code, and the caption of the paper's Table 5) or "alpha" (its
            equation 11).
        max_reward: from which a reward is that.
        baseline: "mean", or "logavgexp", which leans to the best rewards.
        tau: temperature of that.
        singleton: a group of one keeps its A with b = 0 ("raw"), gets "zero", or is an "error".

    Returns:
        [R] advantages, reward units but for the maximal reward's.

    Raises:
        UsageError: tau or alpha of 0 or less. DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. `best` is the code's by default, where paper and code differ, since a table of the paper says the same.
        2. A group of one is "raw" by default, unlike in other methods: its rows are groups of one on purpose.

    Bias: a group that is all right still pushes, and a reward just below the maximum may get more than it (0.9 · 3).

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> r3l(np.array([0.1, 0.6, 0.3, 1.0]), Segments.of_sizes([4])).round(6).tolist()
    [-0.4, 0.3, -0.2, 1.0]
    """
    if baseline == "mean":
        above = centre(reward, groups)
    else:
        top = groups.max(reward)
        soft = groups.mean(np.exp((reward - groups.spread(top)) / tau))
        above = np.where(groups.spread(groups.constant(reward)), 0.0, reward - groups.spread(top + tau * np.log(soft)))
    above = np.where(groups.spread(groups.sizes == 1), reward, above)
    amplified = np.where(above >= 0, alpha * above, above)
    advantage = np.where(reward >= max_reward, alpha if best == "alpha" else 1.0, amplified)
    return settle_singletons(advantage, advantage, groups, singleton)
