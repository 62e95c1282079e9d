"""SLATE: judge a step against the other steps that were sampled from the same prefix."""

from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....formats.errors import DataError
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...structure.nodes import forks_of
from ...structure.prefixes import prefix_keys
from ...structure.steps import Steps, steps_of
from ...structure.turns import Decisions, Siblings, on_own_tokens, step_column
from ..kind import Credit, credit_method

ANSWER = "answer"  # the step.kind of a step that answers


@credit_method(
    needs=("step.start", "step.end", "step.reward"),
    granularity="step",
    methodology="model-based",
    source="arXiv:2602.23440, eq. 7",
    evidence="code",
    system=("SLATE",),
)
def slate(
    credit: Credit,
    *,
    bonus: float = 0.1,
    budget: Annotated[int, AtLeast(1)] = 4,
    first: int = 0,
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    divide_by_steps: bool = False,
) -> Array:
    """A step's reward, normalised among the candidates: the group's steps that begin after the same tokens.

        r   = step.reward + bonus · (budget - t) / budget      the bonus for a step whose kind is "answer" only
        A_t = (r - mean) / (std + eps)                         over the k candidates; 0 for k = 1
        A_t = A_t / T                                          divide_by_steps: T steps in the group's longest rollout

    A step is what a judge gave one reward for: a thought with its query, or with its answer. Candidates share all
    tokens from the prompt to the step, so that this works on rows that a strategy sampled a step at a time and on
    whole rollouts of one group alike. In a row with a `fork` the tokens before it are its parent's: they are a prefix
    here, no candidate of this row, and have no credit in it. So a step that many rows carry on counts once. Where the
    row that sampled it is not in the file, one of the rows that carry it counts in its place.

    Args:
        credit: uses the step ruler (`score --with steps`) with `step.reward`, reward units, and unless bonus=0
            `step.kind`; `fork` where the file has it.
        bonus: λ, what an answer at once is worth more than one after the whole budget, reward units.
        budget: B, steps.
        first: index t of a rollout's first step: 0 (code) or 1 (README).
        ddof: divisor n - ddof of the std.
        eps: added to the std.
        divide_by_steps: weigh every question alike, however many steps it took (released code), instead of every step.

    Returns:
        [T] advantages in standard deviations, each on the tokens of its step; 0 where the mask is false, in no step,
        before the fork, and among candidates of equal reward.

    Raises:
        DataError: rollouts without steps, a step without a finite reward; no `step.kind` with a bonus. UsageError: a
            budget below 1.

    Departures: 1. The released trainer never reads the candidates it stores; this is the paper's formula, with the
        index of the code. 2. A single candidate is NaN in its module, here 0; so is an answer forced after the budget.
        3. The bonus is never negative: a step past the budget has none. 4. Equal candidates, each sampled, count each,
        as there. 5. eq. 7's mean over tokens and over k belongs to the objective.

    >>> from apportion.stages.assign_credit._step_examples import stepped
    >>> slate(stepped([0.0] * 3, [[1], [1], [1]], reward=[[2.0], [1.0], [0.0]]), bonus=0).round(3).tolist()
    [1.0, 0.0, -1.0]
    """
    steps = steps_of(credit)
    fork = forks_of(credit)[steps.rows.ids]
    decisions = Decisions.of(credit, steps)
    carried = steps.end <= fork
    begin = np.where(carried, steps.start, np.maximum(steps.start, fork))
    keys = prefix_keys(credit.rollouts, np.tile(steps.rows.ids, 2), np.concatenate((begin, steps.end)))
    prefix, end = keys[: len(begin)], keys[len(begin) :]
    used = np.flatnonzero(decisions.own)
    used = used[_counted(carried[used], prefix[used], end[used])]

    reward = step_column(credit, steps, "step.reward", "run a scorer that judges steps first")
    wrong = used[~np.isfinite(reward[used])]
    if len(wrong):
        raise DataError(
            f"row {int(steps.rows.ids[wrong[0]])}, column 'step.reward': expected finite numbers; judge again"
        )
    if bonus:
        left = np.maximum(budget - decisions.index - first, 0)
        reward = reward + np.where(_answers(credit, steps), bonus * left / budget, 0.0)
    advantage = np.zeros(len(begin))
    advantage[used] = Siblings.of(prefix[used]).compared(reward[used], "std", ddof, eps)
    if divide_by_steps:
        longest = credit.groups.max(steps.rows.sum(decisions.own))
        advantage = advantage / np.maximum(longest, 1)[credit.groups.ids[steps.rows.ids]]
    advantage[carried] = 0.0
    return on_own_tokens(credit, Steps(steps.rows, begin, steps.end), advantage)


def _counted(carried: Array, start: Array, end: Array) -> Array:
    """[S] bool, the steps that are candidates: those sampled in their row, and of one that no row sampled the first.

    carried: [S] bool, it came from the parent. start, end: [S], keys of the tokens up to both ends of the step.
    """
    order = np.lexsort((carried, end, start))
    again = np.zeros(len(order), bool)
    again[1:] = (np.diff(start[order]) == 0) & (np.diff(end[order]) == 0)
    counted = ~carried
    counted[order[~again]] = True  # sampled ones come first
    return counted


def _answers(credit: Credit, steps: Steps) -> Array:
    """[S] bool, the step answers."""
    if "step.kind" not in credit.rollouts:
        raise DataError("no column 'step.kind', which says what steps answer; judge the steps, or --set bonus=0")
    kinds = credit.rollouts.arrow("step.kind")
    flat = kinds.flatten()
    if len(flat) != len(steps.start):
        raise DataError(f"column 'step.kind': {len(flat)} values for {len(steps.start)} steps")
    same = pc.call_function("equal", [flat.cast(pa.string()), pa.scalar(ANSWER)]).fill_null(False)
    return same.to_numpy(zero_copy_only=False)
