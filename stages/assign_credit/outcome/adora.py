"""ADORA: GRPO, weighed a prompt at a time by whether right answers take longer than wrong ones."""

from typing import Annotated, Literal

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...structure.baseline import Singleton, normalise
from ..kind import Credit, credit_method

MEMORY = ("problem.success", "problem.right_length", "problem.wrong_length")


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2602.10019 (ADORA; code: ShadeCloak/ADORA)",
    evidence="code",
    presets={
        "llm": {"correct": 1.01, "cap": 4054, "singleton": "raw"},
        "vl": {"cap": 4094, "eps": 1e-9, "all_right": "low", "all_wrong": "full"},
    },
    system=("ADORA",),
)
def adora(
    credit: Credit,
    *,
    mode: Literal["attenuate", "amplify"] = "attenuate",
    statistics: Literal["group", "memory"] = "group",
    low: Annotated[float, AtLeast(0)] = 0.1,
    high: Annotated[float, AtLeast(0)] = 2.0,
    tau: float = 0.5,
    correct: float = 0.5,
    cap: Annotated[int | None, AtLeast(1)] = None,
    all_right: Literal["full", "low"] = "full",
    all_wrong: Literal["full", "low"] = "low",
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """GRPO's advantage, times one weight for all rollouts of a prompt.

        A_i = w_g · (R_i - mean_g) / (std_g + eps)
        longer_g = longest right response > mean length of the wrong ones that were not cut off
        w_g = 1 if longer_g, else low                             mode = "attenuate" (vision-language setting, and the code)
        w_g = high if longer_g and success_g <= tau, else 1       mode = "amplify" (language setting)

    Prompts whose right answers need thought count more than those where short ones do. With statistics="memory" lengths
    and success are over the iterations that a memory keeps of the problem, not of this group alone: `remember`, then
    `score --with problems`.

    Args:
        credit: uses reward [R], the policy's tokens of each response, and the flag `truncated`.
        mode: which of the two weights.
        statistics: over the "group", or what the columns problem.* say ("memory").
        low: weight of the others with "attenuate".
        high: weight with "amplify".
        tau: success, the share of right responses, up to which it is given.
        correct: a response is right if its reward is above.
        cap: a wrong response counts as cut off from this many tokens on; None goes by the flag `truncated`. For
            statistics="group".
        all_right: with "attenuate", a prompt with right answers and no wrong one that was not cut off: weight 1 ("full")
            or `low`.
        all_wrong: the same for one without a right answer.
        eps: added to the std.
        singleton: what a group of one gets: "zero", its "raw" reward (the language code) or an "error", before the weight.

    Returns:
        [R] advantages, in standard deviations times the weight. It is not normalised again.

    Raises:
        UsageError: a weight below 0. DataError: a missing reward; statistics="memory" without the columns.

    Departures: 1. That "amplify" wants both conditions is a guess from second-hand accounts of the paper. 2. Lengths are
        in tokens the policy wrote. 3. The memory is ours: the code looks at the group of the moment.

    Bias: it rewards length where it helps, so verbosity is part of the design.

    >>> from apportion.stages.assign_credit._examples import credit_of
    >>> short, long = [1], [1] * 5
    >>> adora(credit_of([1.0, 0.0], tokens=[long, short]), eps=0.0).round(3).tolist()
    [0.707, -0.707]
    >>> adora(credit_of([1.0, 0.0], tokens=[short, long]), eps=0.0).round(3).tolist()
    [0.071, -0.071]
    """
    success, right, wrong = _of_memory(credit) if statistics == "memory" else _of_groups(credit, correct, cap)
    longer = right > wrong
    if mode == "attenuate":
        full = np.where(np.isnan(wrong), all_right == "full", longer)
        full = np.where(np.isnan(right), all_wrong == "full", full)
        weight = np.where(full, 1.0, low)
    else:
        longer |= ~np.isnan(right) & np.isnan(wrong)
        weight = np.where(longer & (success <= tau), high, 1.0)
    return credit.groups.spread(weight) * normalise(credit.reward, credit.groups, eps=eps, singleton=singleton)


def _of_groups(credit: Credit, correct: float, cap: int | None) -> tuple[Array, Array, Array]:
    """[G] share of right responses, longest right one, mean length of wrong ones not cut off; NaN where there is none."""
    groups, length = credit.groups, credit.tokens.sum(credit.mask).astype(np.float64)
    right = credit.reward > correct
    cut = credit.rollouts.flagged("truncated") if cap is None else length >= cap
    counted = ~right & ~cut
    longest = groups.max(np.where(right, length, -np.inf), empty=-np.inf)
    count = groups.sum(counted)
    mean = groups.sum(np.where(counted, length, 0.0)) / np.maximum(count, 1)
    return groups.mean(right), np.where(np.isfinite(longest), longest, np.nan), np.where(count > 0, mean, np.nan)


def _of_memory(credit: Credit) -> tuple[Array, Array, Array]:
    """The same, as `score --with problems` wrote them."""
    rows = credit.groups.starts
    for path in MEMORY:
        if path not in credit.rollouts:
            raise DataError(
                f"no column {path!r}; run `apportion remember IN -o MEMORY` and `apportion score IN --with problems "
                "--set memory=MEMORY -o OUT` first"
            )
    success, right, wrong = (credit.rollouts.numbers(path).astype(np.float64)[rows] for path in MEMORY)
    return success, right, wrong
