"""SLATE: judge a step against the other steps that were sampled from the same prefix."""

from typing import Annotated

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...structure.prefixes import Prefixes
from ...structure.steps import Steps, StepTexts
from ...structure.turns import Decisions, Siblings
from ..kind import credit_method

ANSWER = "answer"  # the step.kind of a step that answers


@credit_method(
    needs=("step.start", "step.end", "step.reward"),
    needs_with=lambda *, bonus, **_: ("step.kind",) if bonus else (),
    granularity="step",
    methodology="model-based",
    source="arXiv:2602.23440, eq. 7",
    evidence="code",
    system=("SLATE",),
)
def slate(
    step_reward: Array,
    decisions: Decisions,
    prefixes: Prefixes,
    step_kind: StepTexts | None = None,
    fork: Array | None = None,
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
        step_reward: [S] reward units.
        decisions: the S steps (`score --with steps`).
        prefixes: which beginnings of the group's responses are the same.
        step_kind: of each step; needed unless bonus=0.
        fork: [R] response tokens that each rollout carries from the one it left; None: none left another.
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

    >>> decisions = Decisions.of_sizes([[1], [1], [1]])
    >>> prefixes = Prefixes(np.array([4, 5, 6]), decisions.tokens, decisions.groups)
    >>> slate(np.array([2.0, 1.0, 0.0]), decisions, prefixes, bonus=0).round(3).tolist()
    [1.0, 0.0, -1.0]
    """
    steps, rows = decisions.steps, decisions.rows
    left = np.zeros(len(steps.start), np.int64) if fork is None else rows.spread(fork)
    carried = steps.end <= left
    begin = np.where(carried, steps.start, np.maximum(steps.start, left))
    keys = prefixes.keys(np.tile(rows.ids, 2), np.concatenate((begin, steps.end)))
    prefix, end = keys[: len(begin)], keys[len(begin) :]
    used = np.flatnonzero(decisions.own)
    used = used[_count_once(carried[used], prefix[used], end[used])]

    reward = step_reward
    wrong = used[~np.isfinite(reward[used])]
    if len(wrong):
        raise DataError(f"row {int(rows.ids[wrong[0]])}, column 'step.reward': expected finite numbers; judge again")
    if bonus:
        assert step_kind is not None
        rest = np.maximum(budget - decisions.index - first, 0)
        reward = reward + np.where(step_kind.are(ANSWER), bonus * rest / budget, 0.0)
    advantage = np.zeros(len(begin))
    advantage[used] = Siblings.of(prefix[used]).compare(reward[used], "std", ddof, eps)
    if divide_by_steps:
        longest = decisions.groups.max(rows.sum(decisions.own))
        advantage = advantage / np.maximum(longest, 1)[decisions.group]
    advantage[carried] = 0.0
    return decisions.on_tokens(advantage, Steps(rows, begin, steps.end))


def _count_once(carried: Array, start: Array, end: Array) -> Array:
    """[S] bool, the steps that are candidates: those sampled in their row, and of one that no row sampled the first.

    carried: [S] bool, it came from the parent. start, end: [S], keys of the tokens up to both ends of the step.
    """
    order = np.lexsort((carried, end, start))
    again = np.zeros(len(order), bool)
    again[1:] = (np.diff(start[order]) == 0) & (np.diff(end[order]) == 0)
    counted = ~carried
    counted[order[~again]] = True  # sampled ones come first
    return counted
