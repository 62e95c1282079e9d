"""OPO: judge each rollout against the mean of its group weighed by length."""

import numpy as np

from ....formats.segments import Array, Segments
from ...structure.baseline import settle_singletons
from ...structure.statistics import weighted_mean
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2505.23585 (OPO)",
    evidence="code",
    presets={"verl": {"singleton": "raw"}},
)
def opo(reward: Array, groups: Segments, tokens: Segments, mask: Array, *, singleton: Singleton = "zero") -> Array:
    """Reward minus the length-weighted mean of the group, the same on all tokens.

        b_g = Σ_j len_j · R_j / Σ_j len_j
        A_i = R_i - b_g

    The baseline of least variance weighs each rollout by the squared norm of its gradient; for gradients of tokens that
    are about orthogonal and of equal size, that is its length. Lengths are policy tokens, so what an environment wrote
    does not count. With equal lengths this is `dr_grpo`.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        tokens, mask: response tokens [T] of each rollout, and which of them the policy wrote.
        singleton: what a group of one gets: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [R] advantages, reward units. A group of equal rewards gets exactly 0.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. OPO trains strictly on policy, without KL and without clipping; that is up to `train`.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> tokens, mask = Segments.of_sizes([3, 1]), np.ones(4, bool)
    >>> opo(np.array([1.0, 0.0]), Segments.of_sizes([2]), tokens, mask).tolist()
    [0.25, -0.75]
    """
    baseline = groups.spread(weighted_mean(reward, tokens.sum(mask), groups))
    advantage = np.where(groups.spread(groups.constant(reward)), 0.0, reward - baseline)
    return settle_singletons(advantage, reward, groups, singleton)
