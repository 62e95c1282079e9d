"""GPG: centred rewards, made up for the groups that have nothing to say."""

from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import Above, AtLeast
from ...structure.baseline import centre, settle_singletons
from ...structure.statistics import divide_by_spread
from ..kind import Singleton, credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2504.02546 (GPG, accurate gradient estimation)",
    evidence="second-hand",
    scope="batch",
    presets={"verl": {"live": "nonzero", "scale": "none", "singleton": "raw"}},
)
def gpg(
    reward: Array,
    groups: Segments,
    *,
    live: Literal["groups", "nonzero", "all"] = "groups",
    scale: Literal["none", "std"] = "none",
    f_norm: Annotated[float, Above(0)] = 1.0,
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """Centred reward times the share of rollouts that count, turned over.

        A_i = α · (R_i - mean_g) / f_norm                       scale = "none"
        A_i = α · (R_i - mean_g) / (std_g + eps) / f_norm       scale = "std"
        α   = R / M                                    M of the file's R rollouts are live, at least 1

    A mean over the batch is diluted by rollouts that give no gradient; α brings it back to the size it has without them.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        live: which rollouts count: those of "groups" whose rewards differ (paper), those whose reward is "nonzero"
            (verl), or "all", which makes α 1.
        scale: the paper's F_norm: nothing more than f_norm ("none"), or the group's "std" as well.
        f_norm: a number to divide by, above 0; verl's f_norm, 1 there as here.
        ddof: divisor n - ddof of the std.
        eps: added to the std.
        singleton: what a group of one gets before α: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [R] advantages: reward units ("none") or standard deviations ("std"). A group of equal rewards gets exactly 0.

    Raises:
        UsageError: f_norm of 0 or less. DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. The paper makes up for groups without a gradient; verl counts rollouts of reward 0 instead, which with
        rewards of 0 and 1 divides by the mean reward of the batch. 2. The paper also samples anew while too few groups are
        live; that is not a matter of credit.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> reward, groups = np.array([1.0, 0.0, 1.0, 1.0]), Segments.of_sizes([2, 2])
    >>> gpg(reward, groups).tolist()  # 2 of 4 are live, α = 2
    [1.0, -1.0, 0.0, 0.0]
    >>> gpg(reward, groups, live="nonzero").round(4).tolist()  # 3 of 4 are not 0, α = 4/3
    [0.6667, -0.6667, 0.0, 0.0]
    """
    advantage = centre(reward, groups)
    if scale == "std":
        advantage = divide_by_spread(advantage, groups.spread(groups.std(reward, ddof=ddof)), eps)
    if live == "all":
        counted = len(reward)
    elif live == "nonzero":
        counted = int(np.count_nonzero(reward))
    else:
        counted = int(np.count_nonzero(~groups.spread(groups.constant(reward))))
    alpha = len(reward) / max(counted, 1) / f_norm
    return alpha * settle_singletons(advantage, reward, groups, singleton)
