"""MaxRL: centred reward divided by the group's mean, so that rare successes count most."""

from typing import Annotated

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.baseline import centre, settle_singletons
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2602.02710, Algorithm 1",
    evidence="code",
    presets={"released": {"eps": 1e-6, "singleton": "raw"}},
)
def maxrl(
    reward: Array, groups: Segments, *, eps: Annotated[float, AtLeast(0)] = 0.0, singleton: Singleton = "zero"
) -> Array:
    """Centred reward in units of the group's mean reward, the same on all tokens.

        A_i = (R_i - mean_g) / (mean_g + eps)
        A_i = 0                                        a group whose rewards are all 0

    With rewards of 0 and 1 the mean is the rate of success p, and the division turns the gradient of p into about that of
    log p: n rollouts give the expansion of the likelihood up to the order n - 1, which weighs pass@1, pass@2 … by 1/k.
    GRPO divides by √(p(1-p)) instead, `dr_grpo` by 1.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        eps: added to the mean: 0 in the paper, 1e-6 in the released code.
        singleton: what a group of one gets: "zero", its "raw" reward, or an "error".

    Returns:
        [R] advantages, in mean rewards: -1 at least. A group of equal rewards gets exactly 0. Multiplying all rewards by a
        number changes nothing (eps = 0).

    Raises:
        DataError: a missing or negative reward; a group of one with singleton="error".

    Departures: 1. The released code gives a group of one R / eps (mean 0), here 0 or the reward itself.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> maxrl(np.array([1.0, 0.0, 0.0, 0.0]), Segments.of_sizes([4])).tolist()
    [3.0, -1.0, -1.0, -1.0]
    """
    if (reward < 0).any():
        row = int(np.flatnonzero(reward < 0)[0])
        raise DataError(
            f"row {row}, column 'reward': {reward[row]:g}, but maxrl needs rewards of 0 or more; shift them"
        )
    mean = groups.spread(groups.mean(reward))
    advantage = centre(reward, groups) / np.where(mean > 0, mean + eps, 1.0)
    return settle_singletons(advantage, reward, groups, singleton)
