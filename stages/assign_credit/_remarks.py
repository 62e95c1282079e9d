"""What several methods say of a batch."""

from typing import Any

import numpy as np

from ..structure.turns import Rewards
from .kind import Credit


def remark_on_length(credit: Credit, *, rewards: Rewards = "both", **_: Any) -> str | None:
    """What to tell where the number of turns decides over the sum of a judge's rewards, with rewards="both".

    A rollout of c turns has the sum Σ r = r̄ · c + Σ (r - r̄), with r̄ the mean over all turns. It is told of where, within
    groups, the std of the first part is half that of the second at least.
    """
    if rewards != "both" or credit.step_reward is None:
        return None
    decisions, reward = credit.decisions, credit.step_reward
    judged = decisions.own & np.isfinite(reward)
    if not judged.any():
        return None
    mean = float(reward[judged].mean())
    length = mean * decisions.rows.sum(judged)
    rest = decisions.rows.sum(np.where(judged, reward - mean, 0.0))
    of_length, of_rest = (
        float(np.square(part - credit.groups.spread(credit.groups.mean(part))).sum()) for part in (length, rest)
    )
    if of_length <= 1e-12 * mean * mean or of_length < of_rest / 4:
        return None
    return (
        f"step.reward averages {mean:.3g} a turn and rollouts of a prompt differ in their number of turns, so longer ones get "
        f"{'more' if mean > 0 else 'less'} credit whatever they are worth; take the mean off step.reward first"
    )
