"""ADORA: GRPO, weighed a prompt at a time by whether right answers take longer than wrong ones."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.baseline import Singleton, normalise
from ..kind import credit_method

MEMORY = ("problem.success", "problem.right_length", "problem.wrong_length")


@credit_method(
    needs_with=lambda *, statistics, **_: MEMORY if statistics == "memory" else (),
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
    reward: Array,
    groups: Segments,
    length: Array,
    truncated: Array | None = None,
    memory: Mapping[str, Array] | None = None,
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
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        length: [R] tokens that the policy wrote.
        truncated: [R] bool, the response ended at the token limit; None: no response did.
        memory: {NAME: [R]} of the columns problem.NAME that `score --with problems` writes, for statistics="memory".
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

    >>> reward, pair = np.array([1.0, 0.0]), Segments.of_sizes(np.array([2]))
    >>> adora(reward, pair, np.array([5, 1]), eps=0.0).round(3).tolist()
    [0.707, -0.707]
    >>> adora(reward, pair, np.array([1, 5]), eps=0.0).round(3).tolist()
    [0.071, -0.071]
    """
    if statistics == "memory":
        assert memory is not None
        success, right, wrong = (memory[path.removeprefix("problem.")][groups.starts] for path in MEMORY)
    else:
        cut = np.zeros(len(reward), bool) if truncated is None else truncated
        success, right, wrong = _compare_lengths(
            groups, reward > correct, length.astype(np.float64), cut if cap is None else length >= cap
        )
    longer = right > wrong
    if mode == "attenuate":
        full = np.where(np.isnan(wrong), all_right == "full", longer)
        full = np.where(np.isnan(right), all_wrong == "full", full)
        weight = np.where(full, 1.0, low)
    else:
        longer |= ~np.isnan(right) & np.isnan(wrong)
        weight = np.where(longer & (success <= tau), high, 1.0)
    return groups.spread(weight) * normalise(reward, groups, eps=eps, singleton=singleton)


def _compare_lengths(groups: Segments, right: Array, length: Array, cut: Array) -> tuple[Array, Array, Array]:
    """[G] share of right responses, longest right one, mean length of wrong ones not cut off; NaN where there is none."""
    counted = ~right & ~cut
    longest = groups.max(np.where(right, length, -np.inf), empty=-np.inf)
    count = groups.sum(counted)
    mean = groups.sum(np.where(counted, length, 0.0)) / np.maximum(count, 1)
    return groups.mean(right), np.where(np.isfinite(longest), longest, np.nan), np.where(count > 0, mean, np.nan)
