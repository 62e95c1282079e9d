"""Dr.GRPO: GRPO without the division by the group's spread."""

from ....formats.segments import Array, Segments
from ...structure.baseline import centre, settle_singletons
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2503.20783, §3.2",
    evidence="code",
    presets={
        "verl": {"singleton": "raw"},
        "trl": {"singleton": "zero"},
        "skyrl": {"singleton": "raw"},
        "rllm": {"singleton": "raw"},
        "open-instruct": {"singleton": "zero"},
        "prime-rl": {"singleton": "zero"},
    },
)
def dr_grpo(reward: Array, groups: Segments, *, singleton: Singleton = "zero") -> Array:
    """Centred reward of every rollout, the same on all its tokens.

        A_i = R_i - mean_g

    Division by the std weighs easy and hard prompts more than those in between; without it every prompt has the weight of
    its rewards. This is one half of Dr.GRPO. The other is in the loss: the sum over tokens divided by a constant instead
    of each response's length (`train --aggregation seq-mean-token-sum-norm`). The same as `grpo` with scale="none", and
    (n-1)/n times `rloo`.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        singleton: what a group of one gets: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [R] advantages, reward units. A group of equal rewards gets exactly 0.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: none.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> dr_grpo(np.array([1.0, 0.0, 0.0, 1.0, 0.5]), Segments.of_sizes([5])).tolist()
    [0.5, -0.5, -0.5, 0.5, 0.0]
    """
    return settle_singletons(centre(reward, groups), reward, groups, singleton)
