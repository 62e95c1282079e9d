"""GDPO: normalise each of several rewards by itself in the group, add them up, and normalise over the batch."""

from typing import Annotated, Literal

import numpy as np

from ....formats.errors import DataError, UsageError
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...structure.baseline import centred, settle_singletons
from ...structure.statistics import batch_std, batch_whitened, in_spreads
from ..kind import Credit, Singleton, credit_method

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
    credit: Credit,
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
        credit: uses the columns `rewards.NAME` [R] of scorers that give several rewards, reward units each. The column
            `reward` is not read.
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

    >>> from apportion.stages.assign_credit._examples import rollouts_of
    >>> import numpy as np
    >>> rollouts = rollouts_of([0.0, 0.0], groups=[0, 0]).with_columns(
    ...     {"rewards.right": np.array([1.0, 0.0]), "rewards.format": np.array([0.2, 0.2])})
    >>> gdpo(Credit(rollouts), eps=0.0, batch="none").round(4).tolist()
    [0.7071, -0.7071]
    """
    groups = credit.groups
    total = np.zeros(len(credit.rollouts))
    for name, weight in _chosen(credit, weights).items():
        reward = _reward(credit, name)
        value = centred(reward, groups)
        if scale == "std":
            value = in_spreads(value, groups.spread(groups.std(reward, ddof=ddof)), eps)
        total += weight * settle_singletons(value, reward, groups, singleton)
    if batch == "token":
        return batch_whitened(credit.tokens.spread(total), credit.mask, eps=batch_eps)
    if batch == "rollout":
        total = in_spreads(total - total.mean(), np.array(batch_std(total)), batch_eps)
    return np.where(credit.mask, credit.tokens.spread(total), 0.0)


def _chosen(credit: Credit, weights: dict[str, float] | None) -> dict[str, float]:
    found = [path.removeprefix(PREFIX) for path in credit.rollouts.paths if path.startswith(PREFIX)]
    if not found:
        raise DataError(f"no column '{PREFIX}NAME', which gdpo needs; run a scorer that gives several rewards first")
    if weights is None:
        return dict.fromkeys(found, 1.0)
    if not weights:
        raise UsageError("credit method gdpo: weights must name at least one reward, {NAME: weight}")
    for name in weights:
        if name not in found:
            raise UsageError(f"credit method gdpo: weights: no reward {name!r} (found: {', '.join(found)})")
    return weights


def _reward(credit: Credit, name: str) -> Array:
    reward = credit.rollouts.numbers(PREFIX + name).astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(reward))
    if len(wrong):
        raise DataError(f"row {int(wrong[0])}, column '{PREFIX}{name}': {reward[wrong[0]]}, expected a finite number")
    return reward
