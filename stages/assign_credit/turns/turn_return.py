"""Turn returns: what came after a turn, against what came after the turns it is compared with."""

from typing import Annotated, Any, Literal

import numpy as np

from ....formats.segments import Array
from ...core.ranges import AtLeast, Between
from ...structure.steps import StepTexts
from ...structure.turns import Decisions, Rewards, Siblings, reward_columns, step_rewards
from .._remarks import remark_on_length
from ..kind import Singleton, credit_method


def _needs_with(*, siblings: str, **options: Any) -> tuple[str, ...]:
    return reward_columns(**options) + (("step.state",) if siblings == "state" else ())


@credit_method(
    needs=("reward", "step.start", "step.end"),
    needs_with=_needs_with,
    granularity="turn",
    methodology="monte-carlo",
    source="arXiv:2505.11821 (MT-GRPO); verl#7244 for the bias",
    evidence="second-hand",
    remark=remark_on_length,
)
def turn_return(
    reward: Array,
    decisions: Decisions,
    step_reward: Array | None = None,
    step_state: StepTexts | None = None,
    *,
    rewards: Rewards = "outcome",
    gamma: Annotated[float, Between(0, 1)] = 1.0,
    siblings: Literal["turn", "state", "group", "none"] = "turn",
    normalise: Literal["returns", "rewards"] = "returns",
    baseline: Literal["mean", "others"] = "mean",
    scale: Literal["std", "none"] = "none",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """Monte-Carlo return of every turn, centred among its siblings.

        G_t = Σ_{k>=t} gamma^(k-t) · r_k
        A_t = G_t - mean of G over the siblings of turn t                    normalise = "returns", baseline = "mean"
        A_t = G_t - mean of G over those siblings that others made           normalise = "returns", baseline = "others"
        A_t = Σ_{k>=t} gamma^(k-t) · (r_k - mean of r over k's siblings)     normalise = "rewards" (biased, see below)

    With scale="std" each difference is divided by the siblings' std + eps.

    Args:
        reward: [R] reward units.
        decisions: the S steps (`score --with steps`), a step being a turn.
        step_reward: [S] reward units, for rewards other than "outcome".
        step_state: of each step (`score --with states`), for siblings="state".
        rewards: where r comes from: the rollout's reward on its last turn ("outcome"), `step.reward`, or "both" added.
        gamma: discount per turn.
        siblings: turns of the group with the same "turn" index, with the same "state", all of the "group", or "none":
            the return as it is.
        normalise: returns, or rewards before they are added up, as per-turn normalisation is often written.
        baseline: the "mean" of all siblings, the turn itself among them, or of the siblings that "others" made, which leaves
            out all turns of its own rollout (leave-one-out).
        scale: divide by the std of all siblings, or not at all.
        ddof: divisor n - ddof of the std.
        eps: added to the std.
        singleton: a turn without siblings: "zero", its "raw" return (or reward), or an "error".

    Returns:
        [T] advantages: reward units ("none") or standard deviations ("std"); 0 where the mask is false or in no turn.

    Raises:
        DataError: rollouts without steps; a missing reward or state; a turn without siblings with singleton="error".

    Departures: 1. MT-GRPO normalises rewards; here returns are the default, whose bias is the smaller one.
        2. baseline="others" is ours.

    Bias: per-turn-index normalisation is biased when the policy decides when to stop.

        Of rewards: normalise="rewards" with siblings="turn" (or "group") takes off as many means as there are turns, and
        that was the policy's choice. Every decision to go on loses the mean reward of the turns it leads to,
        -E[R_intermediate]. Costs of turns vanish (a hidden bonus for length), and gains of turns too.

        Of returns: normalise="returns" takes one mean off each turn that was reached. With baseline="mean" the turn itself
        is in it, and of n siblings the expected gradient keeps the share (n-1)/n. How many siblings a turn has depends on
        the policy: if it reaches a turn with probability p, a group of N keeps 1 - (1 - (1-p)^N) / (N·p) of that turn's
        gradient on average, less the later the turn (N = 2: a half at the first turn, p/2 further on). So the direction
        changes: what late turns teach counts too little. baseline="others" keeps 1 - (1-p)^(N-1), the chance that another
        rollout came so far; with singleton="raw" besides, which gives the return to a turn that no other rollout reached,
        the expected gradient is exactly the true one, and late turns are noisier.

        Of other siblings: siblings="group" mixes early and late turns, and the "mean" holds the rollout's own other turns,
        so the decision that is judged is in its own baseline; "others" leaves them out. So it is with siblings="state"
        where a rollout comes to a state twice. scale="std" weighs turns by 1/std, which moves the optimum where turns share
        parameters.

        Of judges: rewards="both" (or "steps") pays by the turn. If a judge's scores are not centred (0.6 a turn on average,
        say), a further turn pays whatever it is worth, the policy learns length before the outcome, and credit can be worse
        than none. Take the judge's mean off `step.reward` first; with "both", `assign-credit` remarks on it where the number
        of turns makes for much of what rollouts differ in.

        `tests/stages/assign_credit/test_turn_return.py` has the bandit that shows the first, and enumerates all groups of a
        policy of two turns for the second.

    >>> reward, decisions = np.array([1.0, 0.5]), Decisions.of_sizes([[1, 1], [1]])
    >>> turn_return(reward, decisions).tolist()                            # to go on was better than to stop
    [0.25, 0.0, -0.25]
    >>> turn_return(reward, decisions, baseline="others").tolist()
    [0.5, 0.0, -0.5]
    >>> turn_return(reward, decisions, normalise="rewards").tolist()       # to stop seems better than to go on
    [-0.25, 0.0, 0.25]
    """
    own, rows, group = decisions.own, decisions.rows, decisions.group
    paid = step_rewards(decisions.steps, reward, step_reward, rewards)
    if normalise == "rewards":
        paid = decisions.hand_back(paid)
    values = decisions.returns(paid, gamma) if normalise == "returns" else paid
    if siblings != "none":
        if siblings == "state":
            assert step_state is not None
            keys = (step_state.codes[own], group[own])
        elif siblings == "turn":
            keys = (decisions.index[own], group[own])
        else:
            keys = (group[own],)
        compared = np.zeros(len(values))
        compared[own] = Siblings.of(*keys).compare(
            values[own], scale, ddof, eps, singleton, rows.ids[own] if baseline == "others" else None
        )
        values = compared
    if normalise == "rewards":
        values = decisions.returns(values, gamma)
    return decisions.on_tokens(values)
