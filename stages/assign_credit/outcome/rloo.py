"""RLOO: judge each rollout against the mean of its siblings."""

import numpy as np

from ....formats.segments import Array, Segments
from ...structure.baseline import centre, settle_singletons
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2402.14740",
    evidence="code",
    presets={
        "verl": {"singleton": "raw"},
        "trl": {"singleton": "zero"},
        "openrlhf": {"singleton": "zero"},
        "skyrl": {"singleton": "zero"},
    },
)
def rloo(reward: Array, groups: Segments, *, singleton: Singleton = "zero") -> Array:
    """Leave-one-out advantage of every rollout, the same on all its tokens.

        A_i = R_i - 1/(n-1) · Σ_{j≠i} R_j  =  n/(n-1) · (R_i - mean_g)

    Unlike GRPO there is no division by the std: advantages keep the unit of the reward and sum to 0 over a group.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        singleton: what a group of one gets: "zero", its "raw" reward (verl's loop version), or an "error".

    Returns:
        [R] advantages, reward units. A group of equal rewards gets exactly 0.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. TRL takes a KL of the whole response off the reward before (β 0.05 by default), for which a reference is
        needed; its preset does not. `train --set kl_coef` has a KL in the loss.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> rloo(np.array([3.0, 1.0, 2.0]), Segments.of_sizes([3])).tolist()
    [1.5, -1.5, 0.0]
    """
    size = groups.spread(groups.sizes)
    advantage = centre(reward, groups) * (size / np.maximum(size - 1, 1))
    return settle_singletons(advantage, reward, groups, singleton)
