"""REINFORCE++-baseline: centre rewards in the group, then normalise over all tokens of the batch."""

from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.baseline import centre, settle_singletons
from ...structure.statistics import Floor, whiten_batch
from ..kind import Singleton, credit_method


@credit_method(
    granularity="token",
    methodology="monte-carlo",
    source="arXiv:2501.03262, §3 (REINFORCE++ w/ baseline)",
    evidence="code",
    scope="batch",
    presets={
        "verl": {"ddof": 1, "eps": 1e-8, "floor": "add", "singleton": "raw"},
        "openrlhf": {"ddof": 0, "eps": 1e-8, "floor": "clamp"},
    },
)
def reinforce_plus_plus_baseline(
    reward: Array,
    groups: Segments,
    tokens: Segments,
    mask: Array,
    *,
    unit: Literal["token", "rollout"] = "token",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-8,
    floor: Floor = "add",
    singleton: Singleton = "zero",
) -> Array:
    """Group-centred reward, whitened over the batch.

        c_i = R_i - mean_g
        A_i = (c_i - mean) / √(var + eps)              floor = "add"
        A_i = (c_i - mean) / √max(var, eps)            floor = "clamp"

    Mean and var (divisor n - ddof) are over all policy tokens of the file (unit="token"), where a long response counts as
    often as it has tokens, or over its rollouts. The division is by the batch's spread, never by the group's.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        tokens, mask: response tokens [T] of each rollout, and which of them the policy wrote.
        unit: what is counted in mean and var: each policy "token" (both libraries), or each "rollout" once.
        ddof: divisor n - ddof of the variance: 1 verl, 0 OpenRLHF.
        eps: floor of the variance, inside the root.
        floor: "add" eps to the variance (verl), or "clamp" it to eps at least (OpenRLHF).
        singleton: c of a group of one: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [T] advantages in standard deviations; 0 where the mask is false. Where all c are equal it is exactly 0. A group of
        equal rewards has c = 0, but its credit is -mean / √(var + eps), which is 0 only where the mean is.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. The paper says neither which variance nor where eps stands; the default is verl's, but for a group of
        one. 2. unit="rollout" is ours.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> reward, groups, tokens = np.array([1.0, 0.0, 1.0, 1.0]), Segments.of_sizes([2, 2]), Segments.of_sizes([1] * 4)
    >>> reinforce_plus_plus_baseline(reward, groups, tokens, np.ones(4, bool), eps=0.0).round(4).tolist()
    [1.2247, -1.2247, 0.0, 0.0]
    """
    value = settle_singletons(centre(reward, groups), reward, groups, singleton)
    if unit == "rollout":
        advantage = whiten_batch(value, np.ones(len(value), bool), ddof=ddof, eps=eps, floor=floor)
        return np.where(mask, tokens.spread(advantage), 0.0)
    return whiten_batch(tokens.spread(value), mask, ddof=ddof, eps=eps, floor=floor)
