"""Lite PPO: centre rewards in the group, divide by the spread of the whole batch."""

from typing import Annotated

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.baseline import centre, settle_singletons
from ...structure.statistics import batch_std, divide_by_spread
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2508.08221 (Lite PPO); TRL's scale_rewards=batch",
    evidence="code",
    scope="batch",
    presets={"trl": {"eps": 1e-4}},
)
def lite_ppo(
    reward: Array,
    groups: Segments,
    *,
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """Group-centred reward in units of the batch's spread, the same on all tokens of a rollout.

        A_i = (R_i - mean_g) / (std_batch + eps)

    The std is that of the rewards of all rollouts in the file as they are, each counted once, with divisor n - ddof. One
    number for all groups: unlike in GRPO a group whose rewards hardly differ is not blown up. This is GRPO's
    scale_rewards="batch" in TRL; it is a method of its own, since it has to see the whole file.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        ddof: 1 sample std (TRL), 0 population std.
        eps: added to the std: 1e-4 TRL.
        singleton: what a group of one gets: "zero", its "raw" reward, or an "error".

    Returns:
        [R] advantages, in standard deviations of the batch. A group of equal rewards gets exactly 0.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. eps of 1e-6 is ours; the paper gives none.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> reward, groups = np.array([1.0, 0.0, 1.0, 1.0]), Segments.of_sizes([2, 2])  # mean 3/4, sample std 1/2
    >>> lite_ppo(reward, groups, eps=0.0).tolist()
    [1.0, -1.0, 0.0, 0.0]
    """
    advantage = divide_by_spread(centre(reward, groups), np.array(batch_std(reward, ddof=ddof)), eps)
    return settle_singletons(advantage, reward, groups, singleton)
