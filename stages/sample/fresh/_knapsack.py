"""How many rollouts each prompt gets: the allocation of Knapsack RL."""

from collections.abc import Sequence
from math import inf, log
from typing import Literal

import numpy as np

from ....formats.errors import UsageError
from ....formats.segments import Array

Mode = Literal["paper", "released"]
Cost = Literal["probability", "expectation"]
Unknown = Literal["exclude", "as_zero"]
LATEST = 16  # an estimate uses at least this many outcomes, if there are as many
ENOUGH = 8  # with fewer outcomes there is no estimate


def success_rate(epochs: Sequence[Sequence[float]]) -> float | None:
    """A prompt's estimated probability of success (a reward above 0) from its rewards by epoch, the oldest first.

    The mean of the last epoch or, if it has fewer than 16 rewards, of the latest 16. None with fewer than 8 rewards.

    >>> success_rate([[0, 0, 1, 0, 0, 0, 0, 0], [1, 1]])
    0.3
    """
    outcomes: list[float] = []
    for epoch in reversed(epochs):
        outcomes += [float(reward > 0) for reward in reversed(epoch)]
        if len(outcomes) >= LATEST:
            break
    if len(epochs) and len(epochs[-1]) < LATEST:
        outcomes = outcomes[:LATEST]
    return float(np.mean(outcomes)) if len(outcomes) >= ENOUGH else None


def value(rollouts: Array, p: float) -> Array:
    """[N] value of that many rollouts of a prompt: the probability that they are not all equal, times p (1 - p)².

    >>> value(np.array([8]), 0.25).round(6).tolist()
    [0.126544]
    """
    return (1 - p**rollouts - (1 - p) ** rollouts) * p * (1 - p) ** 2


def rollouts_needed(p: float, confidence: float, cost: Cost = "probability") -> float:
    """Rollouts until a group is mixed, with this confidence or on average ("expectation"); infinite for p = 0 and 1.

    >>> round(rollouts_needed(0.1, 0.9), 4), round(rollouts_needed(0.1, 0.9, "expectation"), 4)
    (21.8543, 10.1111)
    """
    if not 0 < p < 1:
        return inf
    return log(1 - confidence) / log(max(p, 1 - p)) if cost == "probability" else 1 / (p * (1 - p)) - 1


def allocation(
    rates: Sequence[float | None],
    n: int,
    *,
    least: int = 2,
    most: int = 128,
    failing: int = 2,
    solved: int = 2,
    confidence: float = 0.9,
    cost: Cost = "probability",
    mode: Mode = "paper",
    unknown: Unknown = "exclude",
) -> list[int]:
    """Rollouts of every prompt; they add up to n times the number of prompts.

    Prompts with 0 < p < 1 start with `least`, those with p = 0 with `failing`, those with p = 1 with `solved`, unknown
    ones with n. The rest goes to prompts with 0 < p < 1 so that the sum of `value` is largest, up to `most` each. What
    they do not need (see `rollouts_needed`) goes to those with p = 0 (and unknown ones with unknown="as_zero") or, if there are
    none, to all others.

    Raises:
        UsageError: the starting numbers alone exceed the total.
    """
    counts = np.array([_begin(p, n, least, failing, solved) for p in rates], np.int64)
    left = n * len(rates) - int(counts.sum())
    if left < 0:
        raise UsageError(
            f"strategy budget: the starting numbers add up to {counts.sum()} rollouts, but there are only {n * len(rates)}; "
            "raise -n, or lower min_n, negative_n or positive_n"
        )
    open_ = [index for index, p in enumerate(rates) if p is not None and 0 < p < 1]
    hopeless = [index for index, p in enumerate(rates) if p == 0 or (p is None and unknown == "as_zero")]
    others = [index for index, p in enumerate(rates) if p is None or not 0 < p < 1]
    if not open_:
        if not hopeless:
            return [n] * len(rates)
        counts[hopeless] += _even(left, len(hopeless))
        return counts.tolist()
    wanted = sum(int(min(most, rollouts_needed(float(rates[index] or 0), confidence, cost))) for index in open_)
    spare = hopeless or others
    if wanted < left and spare:
        counts[spare] += _even(left - wanted, len(spare))
        left = wanted
    room = most - least
    inside = min(left, room * len(open_))
    counts[open_] += _best([float(rates[index] or 0) for index in open_], inside, least, room, mode)
    counts[open_] += _even(left - inside, len(open_))
    return counts.tolist()


def _begin(p: float | None, n: int, least: int, failing: int, solved: int) -> int:
    return n if p is None else failing if p == 0 else solved if p == 1 else least


def _even(total: int, count: int) -> Array:
    """[count] numbers that add up to total and differ by at most 1, the larger ones first."""
    return total // count + (np.arange(count) < total % count)


def _best(rates: Sequence[float], total: int, least: int, room: int, mode: Mode) -> Array:
    """[P] extra rollouts, 0 to room each, that add up to total and have the largest value. Of several solutions, it
    is the one that gives the last prompts least.

    Each further rollout of a prompt is worth less than the one before, so greedily taking the most valuable ones is
    exact. Prompts of equal rate have equal gains, which are computed once.
    """
    distinct, which = np.unique(np.array(rates), return_inverse=True)
    worth = np.stack([value(least + np.arange(room + 1), p) for p in distinct.tolist()])
    if mode == "released":  # the released code's table has 0 where nothing is added
        worth[:, 0] = 0.0
    gains = np.minimum.accumulate(np.diff(worth), axis=1)[which]  # rounding alone could make a later gain larger
    order = np.argsort(-gains, axis=None, kind="stable")[:total]
    return np.bincount(order // max(room, 1), minlength=len(rates))
