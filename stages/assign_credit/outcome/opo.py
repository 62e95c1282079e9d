"""OPO: judge each rollout against the mean of its group weighed by length."""

import numpy as np

from ....formats.segments import Array
from ...structure.baseline import settle_singletons
from ...structure.statistics import weighted_mean
from ..kind import Credit, Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2505.23585 (OPO)",
    evidence="code",
    presets={"verl": {"singleton": "raw"}},
)
def opo(credit: Credit, *, singleton: Singleton = "zero") -> Array:
    """Reward minus the length-weighted mean of the group, the same on all tokens.

        b_g = Σ_j len_j · R_j / Σ_j len_j
        A_i = R_i - b_g

    The baseline of least variance weighs each rollout by the squared norm of its gradient; for gradients of tokens that
    are about orthogonal and of equal size, that is its length. Lengths are policy tokens, so what an environment wrote
    does not count. With equal lengths this is `dr_grpo`.

    Args:
        credit: uses reward [R], reward units, and the mask.
        singleton: what a group of one gets: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [R] advantages, reward units. A group of equal rewards gets exactly 0.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. OPO trains strictly on policy, without KL and without clipping; that is up to `train`.

    >>> from apportion.stages.assign_credit._examples import credit_of
    >>> opo(credit_of([1.0, 0.0], tokens=[[1, 2, 3], [4]])).tolist()
    [0.25, -0.75]
    """
    reward, groups = credit.reward, credit.groups
    baseline = groups.spread(weighted_mean(reward, credit.tokens.sum(credit.mask), groups))
    advantage = np.where(groups.spread(groups.constant(reward)), 0.0, reward - baseline)
    return settle_singletons(advantage, reward, groups, singleton)
