"""GDPO: normalise each of several rewards by itself in the group, add them up, and normalise over the batch."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from ....formats.errors import DataError, UsageError
from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.baseline import centre, settle_singletons
from ...structure.statistics import batch_std, divide_by_spread, whiten_batch
from ..kind import Singleton, credit_method

PREFIX = "rewards."


@credit_method(
    needs=("rewards.NAME",),
    granularity="token",
    methodology="monte-carlo",
    source="arXiv:2601.05242, eq. 4–6",
    evidence="code",
    scope="batch",
    presets={
        "verl": {"eps": 1e-6, "batch": "token", "batch_eps": 1e-8, "singleton": "raw"},
        "trl": {"eps": 1e-4, "batch": "rollout", "batch_eps": 1e-4},
    },
)
def gdpo(
    rewards: Mapping[str, Array],
    groups: Segments,
    tokens: Segments,
    mask: Array,
    *,
    weights: dict[str, float] | None = None,
    scale: Literal["std", "none"] = "std",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    batch: Literal["rollout", "token", "none"] = "rollout",
    batch_eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """Sum of separately normalised rewards, normalised once more over the batch.

        A_ik = (r_ik - mean_gk) / (std_gk + eps)       reward k inside the group g, divisor n - ddof
        S_i  = Σ_k weight_k · A_ik
        A_i  = (S_i - mean) / (std + batch_eps)        batch = "rollout": over all rollouts of the file, divisor n - 1
        A_i  = (S_i - mean) / √(var + batch_eps)       batch = "token": over all policy tokens of the file, divisor n - 1
        A_i  = S_i                                     batch = "none"

    GRPO adds the rewards up first: then different mixes with the same sum are the same to it, and the reward that varies
    most decides. A reward that is the same in all of a group adds exactly 0 there.

    Args:
        rewards: {NAME: [R]} of scorers that give several rewards, the columns `rewards.NAME`, reward units each. The column
            `reward` is not read.
        groups: rollouts [R] of each group.
        tokens: response tokens [T] of each rollout.
        mask: [T] the policy wrote it.
        weights: {NAME: weight} of the rewards to use; None takes every `rewards.NAME` with weight 1.
        scale: divide by the group's std in the first line, or not at all.
        ddof: divisor n - ddof of the group's std.
        eps: added to the group's std: 1e-4 TRL.
        batch: over what the sum is normalised.
        batch_eps: added to the batch's std, or under the root with "token".
        singleton: A_ik of a group of one: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [T] advantages in standard deviations; 0 where the mask is false. Where all S are equal, A is exactly 0; a group all of
        whose rewards are equal has S = 0 but, unless batch="none", is shifted by the batch's mean.

    Raises:
        DataError: no `rewards.NAME`, or a missing value; a group of one with singleton="error". UsageError: a weight for a
            reward that is not there.

    Departures: 1. The paper's code and verl weigh the batch's statistics by tokens (batch="token"); the paper's formula
        and TRL count rollouts. 2. The paper also conditions an easy reward on a hard one; write such a column instead.

    Bias: rewards that oppose each other cancel but for what eps did to them (in a group of two always). If they do in the
        whole batch, the second normalisation blows that remainder up; a larger batch_eps prevents it.

    >>> rewards = {"right": np.array([1.0, 0.0]), "format": np.array([0.2, 0.2])}
    >>> tokens = Segments.of_sizes(np.array([1, 1]))
    >>> gdpo(rewards, Segments.of_sizes(np.array([2])), tokens, np.ones(2, bool), eps=0.0, batch="none").round(4).tolist()
    [0.7071, -0.7071]
    """
    total = np.zeros(len(tokens))
    for name, weight in _choose(rewards, weights).items():
        reward = _checked(rewards[name], name)
        value = centre(reward, groups)
        if scale == "std":
            value = divide_by_spread(value, groups.spread(groups.std(reward, ddof=ddof)), eps)
        total += weight * settle_singletons(value, reward, groups, singleton)
    if batch == "token":
        return whiten_batch(tokens.spread(total), mask, eps=batch_eps)
    if batch == "rollout":
        total = divide_by_spread(total - total.mean(), np.array(batch_std(total)), batch_eps)
    return np.where(mask, tokens.spread(total), 0.0)


def _choose(rewards: Mapping[str, Array], weights: dict[str, float] | None) -> dict[str, float]:
    if not rewards:
        raise DataError(f"no column '{PREFIX}NAME', which gdpo needs; run a scorer that gives several rewards first")
    if weights is None:
        return dict.fromkeys(rewards, 1.0)
    if not weights:
        raise UsageError("credit method gdpo: weights must name at least one reward, {NAME: weight}")
    for name in weights:
        if name not in rewards:
            raise UsageError(f"credit method gdpo: weights: no reward {name!r} (found: {', '.join(rewards)})")
    return weights


def _checked(reward: Array, name: str) -> Array:
    wrong = np.flatnonzero(~np.isfinite(reward))
    if len(wrong):
        raise DataError(f"row {int(wrong[0])}, column '{PREFIX}{name}': {reward[wrong[0]]}, expected a finite number")
    return reward
