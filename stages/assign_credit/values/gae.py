"""GAE: credit from a value per token, the reward and the values to come weighed by λ."""

from typing import Annotated, Any, Literal

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast, Between
from ...structure.statistics import whiten_batch
from ...structure.steps import Steps
from ...structure.turns import Rewards, reward_columns, token_rewards
from ..kind import credit_method


def _needs_with(*, value: str, **options: Any) -> tuple[str, ...]:
    return (value, *reward_columns(**options))


@credit_method(
    needs_with=_needs_with,
    columns={"values": "value"},
    granularity="token",
    methodology="temporal-difference",
    source="arXiv:1506.02438, eq. 16; masked tokens and whitening as in verl",
    evidence="code",
    scope="batch",
    presets={
        "verl": {"lam": 1.0, "whiten": "batch"},
        "trl": {"lam": 0.95, "whiten": "batch"},
    },
)
def gae(
    reward: Array,
    values: Array,
    tokens: Segments,
    mask: Array,
    steps: Steps | None = None,
    step_reward: Array | None = None,
    *,
    gamma: Annotated[float, Between(0, 1)] = 1.0,
    lam: Annotated[float, Between(0, 1)] = 0.95,
    rewards: Rewards = "outcome",
    value: str = "token.value",
    whiten: Literal["none", "batch"] = "none",
    eps: Annotated[float, AtLeast(0)] = 1e-8,
) -> Array:
    """Generalised advantage estimation: λ-weighted sum of the temporal differences that follow, per token.

        δ_t = r_t + γ · V_{t+1} - V_t                V after the last token = 0
        A_t = δ_t + γ · λ · A_{t+1}
        A   = (A - mean) / √(var + eps)              whiten = "batch": over the file's policy tokens, var with n - 1

    Tokens an environment wrote are skipped: t + 1 is the policy's next token, whatever stands between. V_t is the value
    before token t is chosen. λ = 0 gives the one-step change, λ = 1 the return to come minus V_t.

    Args:
        reward: [R] reward units.
        values: [T] V, reward units; that of masked tokens is not read.
        tokens: response tokens [T] of each rollout.
        mask: [T] the policy wrote the token.
        steps: where the S steps are, for rewards other than "outcome".
        step_reward: [S] reward units, for the same.
        gamma: discount a token, 0 to 1.
        lam: λ, 0 to 1: 0.95 the classic choice (ours, TRL), 1 verl's default.
        rewards: "outcome" puts the rollout's reward on its last policy token; "steps" puts `step.reward` on the last
            policy token of each step (of a step without one, on the last before it; on the first where there is
            none); "both".
        value: the column that the values are in, one a token.
        whiten: "none", or "batch" over all rollouts of the file; then the advantages of groups depend on each other.
        eps: added to the variance, inside the root.

    Returns:
        [T] advantages: reward units, in standard deviations with whiten="batch"; 0 where the mask is false.

    Raises:
        DataError: a missing reward or value; no column `value`, or no `step.reward` where asked for.

    Departures: 1. the paper does not whiten; implementations of PPO do. 2. OpenRLHF sets value and reward of masked
        tokens to 0 instead of skipping them, and older verl discounts across them; both would let what an environment
        wrote change the credit of other tokens, so neither is offered. 3. There are no groups in it: equal rewards
        give 0 only where the values say so. 4. `scope` is the batch for whiten="batch"; without it the file is read
        at once for nothing.

    >>> one, mask = Segments.of_sizes(np.array([3])), np.ones(3, bool)
    >>> gae(np.array([1.0]), np.array([0.5, 0.6, 0.4]), one, mask).round(4).tolist()
    [0.4515, 0.37, 0.6]
    """
    paid, inside = token_rewards(reward, tokens, mask, steps, step_reward, rewards)
    own = slice(None) if mask.all() else np.flatnonzero(mask)
    advantage = generalised_advantages(paid, values[own], inside, gamma=gamma, lam=lam)
    if whiten == "batch":
        advantage = whiten_batch(advantage, np.ones(len(advantage), bool), eps=eps)
    if mask.all():
        return advantage
    out = np.zeros(len(mask))
    out[own] = advantage
    return out


def generalised_advantages(reward: Array, value: Array, rollouts: Segments, *, gamma: float, lam: float) -> Array:
    """The formula of `gae` on the policy's own tokens alone.

    Args:
        reward: [T] of each token, reward units. value: [T] of the state before it. rollouts: tokens [T] of each rollout.

    Returns:
        [T] advantages, reward units.

    >>> value = np.array([0.5, 0.6, 0.4])
    >>> one = Segments.of_sizes(np.array([3]))
    >>> generalised_advantages(np.array([0.0, 0.0, 1.0]), value, one, gamma=1.0, lam=0.95).round(4).tolist()
    [0.4515, 0.37, 0.6]
    """
    following = np.zeros(len(value))
    following[:-1] = value[1:]
    following[rollouts.offsets[1:][rollouts.sizes > 0] - 1] = 0.0
    difference = following  # in place: these are as long as the file
    difference *= gamma
    difference += reward
    difference -= value
    return rollouts.discounted(difference, gamma * lam)
