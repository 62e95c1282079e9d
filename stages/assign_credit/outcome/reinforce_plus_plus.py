"""REINFORCE++: the return to come, normalised over all tokens of the batch."""

from typing import Annotated

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast, Between
from ...structure.statistics import Floor, batch_whitened
from ...structure.turns import Rewards, token_rewards
from ...structure.values import discounted_sums, token_signal
from ..kind import Credit, credit_method


@credit_method(
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
    credit: Credit,
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
        credit: uses reward [R] (and step.reward with the step ruler), reward units; with a KL token.logprob and the
            reference's, nat.
        rewards: "outcome" puts the rollout's reward on its last policy token; "steps" puts `step.reward` on the last policy
            token of each step (of a step without one, on the last before it; on the first where there is none); "both".
        gamma: discount a token, 0 to 1.
        kl_coef: β of the KL penalty in the reward (k1 per token), reward units per nat; 0 is none.
        reference: column with the log-probability of each token under the reference model; read only with a KL.
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

    >>> from apportion.stages.assign_credit._examples import credit_of
    >>> credit = credit_of([1.0, 0.0], tokens=[[4, 5], [6, 7]])
    >>> reinforce_plus_plus(credit, ddof=0, eps=0.0).tolist()
    [1.0, 1.0, -1.0, -1.0]
    """
    own = np.flatnonzero(credit.mask)
    inside = Segments.of_sizes(credit.tokens.sum(credit.mask))
    paid = token_rewards(credit, inside, rewards)
    if kl_coef:
        paid -= kl_coef * (_logprob(credit, "token.logprob") - _logprob(credit, reference))[own]
    returns = discounted_sums(paid, inside, gamma)
    advantage = np.zeros(len(credit.mask))
    advantage[own] = batch_whitened(returns, np.ones(len(own), bool), ddof=ddof, eps=eps, floor=floor)
    return advantage


def _logprob(credit: Credit, path: str) -> Array:
    if path not in credit.rollouts:
        raise DataError(f"no column {path!r}, which reinforce_plus_plus needs for kl_coef; add it, or --set kl_coef=0")
    return token_signal(credit, path)
