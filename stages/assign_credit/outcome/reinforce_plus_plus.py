"""REINFORCE++: the return to come, normalised over all tokens of the batch."""

from typing import Annotated, Any

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast, Between
from ...structure.statistics import Floor, whiten_batch
from ...structure.steps import Steps
from ...structure.turns import Rewards, reward_columns, token_rewards
from ..kind import credit_method


def _needs_with(*, kl_coef: float, reference: str, **options: Any) -> tuple[str, ...]:
    return (("token.logprob", reference) if kl_coef else ()) + reward_columns(**options)


@credit_method(
    needs_with=_needs_with,
    columns={"reference_logprob": "reference"},
    granularity="token",
    methodology="monte-carlo",
    source="arXiv:2501.03262, §3",
    evidence="code",
    scope="batch",
    presets={
        "verl": {"ddof": 1, "eps": 1e-8, "floor": "add"},
        "openrlhf": {"ddof": 0, "eps": 1e-8, "floor": "clamp"},
    },
)
def reinforce_plus_plus(
    reward: Array,
    tokens: Segments,
    mask: Array,
    steps: Steps | None = None,
    step_reward: Array | None = None,
    logprob: Array | None = None,
    reference_logprob: Array | None = None,
    *,
    rewards: Rewards = "outcome",
    gamma: Annotated[float, Between(0, 1)] = 1.0,
    kl_coef: float = 0.0,
    reference: str = "token.reference_logprob",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-8,
    floor: Floor = "add",
) -> Array:
    """Discounted return from each token, whitened over all policy tokens of the batch. No groups, no critic.

        r_t = reward of token t - kl_coef · (logprob_t - reference_t)
        G_t = r_t + gamma · G_{t+1}
        A_t = (G_t - mean) / √(var + eps)              floor = "add"
        A_t = (G_t - mean) / √max(var, eps)            floor = "clamp"

    Mean and var (divisor n - ddof) are over the policy tokens of all rollouts in the file, so long responses weigh more.
    Tokens an environment wrote are skipped: t + 1 is the policy's next token. With gamma 1, no KL and the outcome alone
    every token of a rollout has the same credit.

    Args:
        reward: [R] reward units.
        tokens: response tokens [T] of each rollout.
        mask: [T] the policy wrote the token.
        steps: where the S steps are, for rewards other than "outcome".
        step_reward: [S] reward units, for the same.
        logprob: [T] of the token when it was sampled, nat, for a KL.
        reference_logprob: [T] under the reference model, nat, for a KL.
        rewards: "outcome" puts the rollout's reward on its last policy token; "steps" puts `step.reward` on the last policy
            token of each step (of a step without one, on the last before it; on the first where there is none); "both".
        gamma: discount a token, 0 to 1.
        kl_coef: β of the KL penalty in the reward (k1 per token), reward units per nat; 0 is none.
        reference: the column that the reference log-probabilities are in; read only with a KL.
        ddof: divisor n - ddof of the variance: 1 verl, 0 OpenRLHF.
        eps: floor of the variance, inside the root.
        floor: "add" eps to the variance (verl), or "clamp" it to eps at least (OpenRLHF).

    Returns:
        [T] advantages in standard deviations; 0 where the mask is false. Equal returns in the whole batch give exactly 0; a
        group of equal rewards does not, since it is compared with the batch.

    Raises:
        DataError: a missing reward, of a step where asked for; a missing log-probability with a KL.

    Departures: 1. The paper says neither which variance nor where eps stands; the default is verl's. 2. Clipping of
        rewards is not offered; `assign-credit --clip` cuts credit off. 3. A batch of one token is an error in verl, here 0.

    >>> tokens, mask = Segments.of_sizes(np.array([2, 2])), np.ones(4, bool)
    >>> reinforce_plus_plus(np.array([1.0, 0.0]), tokens, mask, ddof=0, eps=0.0).tolist()
    [1.0, 1.0, -1.0, -1.0]
    """
    own = np.flatnonzero(mask)
    paid, inside = token_rewards(reward, tokens, mask, steps, step_reward, rewards)
    if kl_coef:
        assert logprob is not None and reference_logprob is not None
        paid -= kl_coef * (logprob - reference_logprob)[own]
    returns = inside.discounted(paid, gamma)
    advantage = np.zeros(len(mask))
    advantage[own] = whiten_batch(returns, np.ones(len(own), bool), ddof=ddof, eps=eps, floor=floor)
    return advantage
