"""Potential difference: a step earns what it changes, so that the steps of a rollout add up to its outcome."""

from typing import Annotated, Any, Literal

import numpy as np

from ....formats.segments import Array
from ...core.ranges import Between
from ...structure.turns import Decisions, reward_columns, step_rewards
from ..kind import credit_method


def _needs_with(*, potential: str, **options: Any) -> tuple[str, ...]:
    return (potential, *reward_columns(**options))


@credit_method(
    needs=("reward", "step.start", "step.end"),
    needs_with=_needs_with,
    columns={"potentials": "potential"},
    granularity="step",
    methodology="temporal-difference",
    source="Ng, Harada, Russell 1999 (potential-based shaping); prime-rl#3282 for the smear",
    evidence="paper",
)
def potential_difference(
    reward: Array,
    potentials: Array,
    decisions: Decisions,
    step_reward: Array | None = None,
    *,
    potential: str = "step.value",
    measured: Literal["before", "after"] = "before",
    rewards: Literal["outcome", "steps", "both", "none"] = "outcome",
    gamma: Annotated[float, Between(0, 1)] = 1.0,
    initial: float = 0.0,
    smear: Annotated[float, Between(0, 1)] = 0.0,
) -> Array:
    """Change of a potential over each step, plus the step's reward.

        A_t = r_t + gamma · φ_{t+1} - φ_t

    φ_t is the potential of the state before step t. After the last step it is 0 where a reward is paid, so with gamma =
    1 Σ_t A_t = Σ_t r_t - φ_0: the steps add up to the outcome, less what was expected at the start. With rewards="none"
    and measured="after" the last potential stays, and Σ_t A_t = φ_last - initial.

    Args:
        reward: [R] reward units.
        potentials: [S] φ of each step, reward units. `step.value`, the expected reward of the state, is made by
            `score --with values` from probes, or brought along; so is any judge's score of states.
        decisions: the S steps (`score --with steps`).
        step_reward: [S] reward units, for rewards "steps" and "both".
        potential: the column that the potentials are in, on the step ruler.
        measured: each number belongs to the state "before" its step, or "after" it.
        rewards: the rollout's reward on its last step ("outcome"), `step.reward`, "both" added, or "none".
        gamma: discount per step.
        initial: potential of the start with measured="after", and of steps before the first that was measured.
        smear: 0 credits the step itself; above 0 and up to 1, the change at step t is shared with the steps before it
            with weights smear^distance that sum to 1, as the change may have been set up earlier.

    Returns:
        [T] advantages, reward units, the same on all tokens of a step; 0 where the mask is false or in no step.

    Raises:
        DataError: rollouts without steps; no such column; a missing reward.

    Departures: 1. What an environment's step changes goes to the policy's step before it. 2. A step whose potential is
        not a number was not measured: it keeps the one before, and the next measured step gets the whole change (as in
        prime-rl).

    Bias: none that the potential adds, if gamma is the task's own: the differences cancel along a rollout, whatever φ
        is. A wrong φ moves credit between steps. There is no group baseline: φ_0 is one.

    >>> potential_difference(np.array([1.0]), np.array([0.5, 0.25]), Decisions.of_sizes([[2, 1]])).tolist()
    [-0.25, -0.25, 0.75]
    """
    rows = decisions.rows
    value = _carry(potentials, rows.spread(rows.starts), initial)
    paid = np.zeros(len(value)) if rewards == "none" else step_rewards(decisions.steps, reward, step_reward, rewards)
    heads, tails = rows.positions == 0, rows.positions == rows.spread(rows.sizes) - 1
    if measured == "before":
        before, after = value, np.append(value[1:], 0.0)
        after[tails] = 0.0 if rewards != "none" else value[tails]
    else:
        before, after = np.concatenate(([initial], value[:-1]))[: len(value)], value.copy()
        before[heads] = initial
        after[tails] = np.where(rewards != "none", 0.0, value[tails])
    change = decisions.hand_back(paid + decisions.discounts(gamma) * after - before)
    if smear > 0:
        change = decisions.returns(change / _weights(decisions.index, smear), smear)
    return decisions.on_tokens(change)


def _carry(values: Array, heads: Array, initial: float) -> Array:
    """[S] each value that is not a number replaced by the last one before it in its rollout. heads: [S] first step."""
    seen = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(len(values)), -1))
    return np.where(seen >= heads, values[seen], initial)


def _weights(positions: Array, smear: float) -> Array:
    """[S] Σ_{d=0..position} smear^d."""
    return positions + 1.0 if smear == 1 else (1 - smear ** (positions + 1.0)) / (1 - smear)
