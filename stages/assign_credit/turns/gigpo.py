"""GiGPO: judge each rollout against its group, and each step against the steps that began in the same state."""

from typing import Annotated, Any, Literal

import numpy as np

from ....formats.segments import Array
from ...core.ranges import AtLeast, Between, Range
from ...structure.steps import StepTexts
from ...structure.turns import Decisions, Rewards, Siblings, reward_columns, step_rewards
from ..kind import Singleton, credit_method


def _needs_with(*, penalty: float, unjudged: str, **options: Any) -> tuple[str, ...]:
    return reward_columns(**options) + (("step.valid",) if penalty and unjudged == "error" else ())


@credit_method(
    needs=("reward", "step.start", "step.end", "step.state"),
    needs_with=_needs_with,
    granularity="step",
    methodology="monte-carlo",
    source="arXiv:2505.10978, eq. 3–8",
    evidence="code",
    presets={
        "verl-agent": {
            "scale": "none", "statistics": "steps", "penalty": 0.1, "unjudged": "valid", "singleton": "raw",
        },
        "verl-agent-alfworld": {
            "scale": "std", "statistics": "steps", "penalty": 0.1, "unjudged": "valid", "singleton": "raw",
        },
        "slea": {  # arXiv:2603.18079
            "scale": "none", "statistics": "steps", "similarity": 0.85, "penalty": 0.1, "unjudged": "valid",
        },
    },
    system=('GiGPO',),
)  # fmt: skip
def gigpo(
    reward: Array,
    decisions: Decisions,
    step_state: StepTexts,
    step_reward: Array | None = None,
    step_valid: Array | None = None,
    *,
    rewards: Rewards = "outcome",
    gamma: Annotated[float, Between(0, 1)] = 0.95,
    weight: float = 1.0,
    scale: Literal["std", "none"] = "std",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    statistics: Literal["trajectories", "steps"] = "trajectories",
    similarity: Annotated[float, Range(0, 1, above=True)] = 1.0,
    penalty: float = 0.0,
    unjudged: Literal["error", "valid"] = "error",
    singleton: Singleton = "zero",
) -> Array:
    """Group advantage of the rollout plus the advantage of each step among those of its group with the same state.

        Q_t   = Σ_{k>=t} gamma^(k-t) · r_k                      steps of one rollout
        A^E_i = (R_i - mean_g) / (std_g + eps)                  R_i = Σ_t r_t; rollouts of the group
        A^S_t = (Q_t - mean_s) / (std_s + eps)                  steps of the group that began in the state s
        A_t   = A^E_i + weight · A^S_t                          on every token of the step

    With scale="none" (the released code's `mean_norm`; "std" is its `mean_std_norm`) nothing is divided. States are
    compared within a group and never across prompts; the same rollout may bring a state twice. A state met once gives
    A^S = 0; if no state is met twice this is GRPO.

    Args:
        reward: [R] reward units.
        decisions: the S steps (`score --with steps`).
        step_state: the state that each began in (`score --with states`).
        step_reward: [S] reward units, for rewards other than "outcome".
        step_valid: [S] whether the environment took the action as one, for a penalty.
        rewards: where r comes from: the rollout's reward on its last step ("outcome"), `step.reward`, or "both" added.
        gamma: discount per step of the policy's.
        weight: w, of the step part.
        scale: "std" (mean_std_norm) or "none" (mean_norm), of both parts.
        ddof: divisor n - ddof of the std.
        eps: added to the std.
        statistics: mean and std of A^E over "trajectories" (paper), or over all "steps" of the group, where long
            rollouts weigh more (released code).
        similarity: 1 groups equal states; below, a state joins the first one seen in its group whose difflib ratio with
            it is at least this.
        penalty: taken off R and Q of a step whose `step.valid` is false, of that step alone (0.1 in the released code).
        unjudged: with a penalty, a file without `step.valid`, which an environment writes, is an "error", or all its steps
            count as "valid".
        singleton: A^E of a group of one: "zero", its "raw" reward (released code), or an "error".

    Returns:
        [T] advantages: in standard deviations ("std") or reward units ("none"); 0 where the mask is false or in no step.

    Raises:
        DataError: rollouts without steps, steps without a state, a missing reward, a penalty without `step.valid`.

    Departures: 1. Statistics over steps are the released code's default; the paper's equation 3 is over rollouts.
        2. There the penalty is on (0.1); here it is 0 but in its presets, since files without an environment have no
        invalid actions.
        3. There rows that pad a batch enter the statistics; here nothing is padded.
        4. Similar states are matched in the order of rollouts and steps, so that the result depends on nothing else.
        5. Preset slea is SLEA-RL's credit (arXiv:2603.18079) as its text has it; its released code groups equal states only.

    Bias: the state's mean includes the step itself, which shrinks A^S of n siblings by (n-1)/n; n depends on how often the
        policy comes to the state, so what rarely met states teach counts less (see `turn_return`). Division by a std of
        few steps favours states where returns hardly differ.

    >>> decisions, states = Decisions.of_sizes([[1, 1], [1, 1]]), StepTexts.by_hand(["shop", "till", "shop", "exit"])
    >>> gigpo(np.array([1.0, 0.0]), decisions, states, scale="none", gamma=0.5).tolist()
    [0.75, 0.5, -0.75, -0.5]
    """
    own, rows, group = decisions.own, decisions.rows, decisions.group
    paid = step_rewards(decisions.steps, reward, step_reward, rewards)
    off = penalty * (step_valid == 0) if penalty and step_valid is not None else np.zeros(len(paid))
    total = rows.sum(paid) + np.where((rows.sizes == 0) & (rewards != "steps"), reward, 0.0)
    quality = decisions.returns(paid, gamma) - off
    score = rows.spread(total) - off

    groups, episode = decisions.groups, np.zeros(len(paid))
    if statistics == "steps":
        episode[own] = Siblings.of(group[own]).compare(score[own], scale, ddof, eps, singleton)
    else:
        first = np.where(rows.sizes > 0, total - rows.first(off), total)
        of_rollout = Siblings.of(groups.ids).compare(first, scale, ddof, eps, singleton)
        episode = rows.spread(of_rollout)
        if penalty:
            # Later steps are placed in the statistics of the rollouts, with a penalty of their own.
            divisor = np.ones(len(rows))
            if scale == "std":
                std = groups.std(first, ddof=ddof)
                divisor = groups.spread(np.where(std > 0, std + eps, 1.0))
            episode = episode + (score - rows.spread(first)) / rows.spread(divisor)

    state = step_state.codes
    if similarity < 1:
        state = _join_similar(group, step_state, similarity)
    step = np.zeros(len(paid))
    step[own] = Siblings.of(state[own], group[own]).compare(quality[own], scale, ddof, eps)
    return decisions.on_tokens(episode + weight * step)


def _join_similar(group: Array, states: StepTexts, threshold: float) -> Array:
    """[S] the state each step's is taken for: the first of its group that is alike enough, else its own.

    Only the distinct states of a group are compared: equal texts always join the same one.
    """
    from difflib import SequenceMatcher

    state, texts = states.codes, states.texts
    keys = group * len(texts) + state
    distinct, first, place = np.unique(keys, return_index=True, return_inverse=True)
    joined = np.empty(len(distinct), np.int64)
    leaders: list[int] = []
    before = -1
    for each in np.argsort(first, kind="stable").tolist():
        at = int(first[each])
        if group[at] != before:
            leaders, before = [], int(group[at])
        code = int(state[at])
        matcher = SequenceMatcher(None, texts[code])
        for leader in leaders:
            matcher.set_seq2(texts[leader])
            if matcher.real_quick_ratio() >= threshold and matcher.ratio() >= threshold:
                code = leader
                break
        else:
            leaders.append(code)
        joined[each] = code
    return joined[place]
