"""MAPO (MICA): mix how a turn's future compares at its turn index with how its own reward compares to all turns."""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array
from ...core.ranges import AtLeast, Between
from ...structure.turns import Decisions, Siblings
from .._remarks import remark_on_length
from ..kind import credit_method


@credit_method(
    needs=("step.start", "step.end", "step.reward"),
    granularity="turn",
    methodology="monte-carlo",
    source="arXiv:2603.06194",
    evidence="second-hand",
    scope="batch",
    presets={"v1-ablation": {"alpha": 0.4, "beta": 0.6}},
    remark=remark_on_length,
    system=("MAPO",),
)
def mapo(
    step_reward: Array,
    decisions: Decisions,
    truncated: Array | None = None,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: Annotated[float, Between(0, 1)] = 0.85,
    statistics: Literal["batch", "group"] = "batch",
    ddof: Annotated[int, AtLeast(0)] = 0,
    eps: Annotated[float, AtLeast(0)] = 1e-8,
    failed: Literal["mean", "error"] = "mean",
) -> Array:
    """Mixed advantage of dialogue turns from one judge's reward for each.

        G_t      = Σ_{k>=t} gamma^(k-t) · r_k
        A^turn_t  = (G_t - mean) / (std + eps)        over the group's rollouts that have a turn t
        A^batch_t = (r_t - mean) / (std + eps)        over all turns
        A_t       = alpha · A^turn_t + beta · A^batch_t

    Not to be confused with arXiv:2509.18849, another method of the same name. Later versions of the paper call it MICA.

    Args:
        step_reward: [S] reward units, NaN of a turn that the judge could not score.
        decisions: the S steps (`score --with steps`), a step being a turn.
        truncated: [R] bool, the response ended at the token limit; None: no response did.
        alpha: weight of the return's part.
        beta: weight of the immediate reward's part.
        gamma: discount per turn.
        statistics: A^batch is over all turns of the whole file ("batch", v1), or of the prompt's rollouts ("group", v2).
        ddof: divisor n - ddof of both stds; 0 as in the published module.
        eps: added to the stds.
        failed: a reward that is not a number, which a judge could not give, is the "mean" of its rollout's others (0
            if there are none), or an "error".

    Returns:
        [T] advantages in standard deviations; 0 where the mask is false or in no turn, and for a part all of whose
        values are equal.

    Raises:
        DataError: rollouts without steps; a failed reward with failed="error".

    Departures: 1. The repository's own returns start anew at every user token and discount per token; the estimator its
        paper describes is not published. Here returns cross turns. 2. A turn index that one rollout alone reached has
        A^turn = 0 (a guess). 3. Turns of environments take no part; their reward counts in the turn before. 4. The last
        turn of a truncated rollout takes no part and gets 0 where it has no reward.

    Bias: per-turn-index comparison, which is biased when the policy decides when to stop: the few rollouts that are left
        at a late turn are no fair sample, and A^batch takes the mean reward off every further turn. See `turn_return`.

        It maximises the sum of the judge's rewards, so their zero matters: of scores that are not centred (0.6 a turn on
        average, say) longer rollouts collect more, whatever their turns are worth and however they end, and credit can be
        worse than none. The paper's reward is a difference of distances, which has a zero of its own. Of another judge take the
        mean off `step.reward` first; `assign-credit` remarks on it where the number of turns makes for much of what rollouts
        differ in.

    >>> mapo(np.array([1.0, 0.0, 0.5]), Decisions.of_sizes([[1, 1], [1]])).round(3).tolist()
    [1.112, -0.612, -0.5]
    """
    known = np.isfinite(step_reward)
    if truncated is not None:
        decisions = _drop_cut_turns(decisions, known, truncated)
    own, rows, group = decisions.own, decisions.rows, decisions.group
    reward = np.where(own | known, step_reward, 0.0)
    if not known[own].all():
        if failed == "error":
            row = int(rows.ids[np.flatnonzero(~known & own)[0]])
            raise DataError(f"row {row}, column 'step.reward': a turn without a reward; score it again, or failed=mean")
        judged = known & own
        mean = rows.sum(np.where(judged, reward, 0.0)) / np.maximum(rows.sum(judged), 1)
        reward = np.where(np.isfinite(reward), reward, rows.spread(mean))
    reward = decisions.hand_back(reward)

    advantage = np.zeros(len(reward))
    ahead = decisions.returns(reward, gamma)
    by_turn = Siblings.of(decisions.index[own], group[own])
    by_batch = Siblings.of(np.zeros(int(own.sum()), np.int64) if statistics == "batch" else group[own])
    advantage[own] = alpha * by_turn.compare(ahead[own], "std", ddof, eps)
    advantage[own] += beta * by_batch.compare(reward[own], "std", ddof, eps)
    return decisions.on_tokens(advantage)


def _drop_cut_turns(decisions: Decisions, known: Array, truncated: Array) -> Decisions:
    """The decisions but for those that the token limit cut off before they could be judged. known: [S], truncated: [R]."""
    last = decisions.own & (decisions.rows.spread(decisions.rows.sum(decisions.own)) == decisions.index + 1)
    cut = last & ~known & decisions.rows.spread(truncated)
    return replace(decisions, own=decisions.own & ~cut)
