"""Findings about rewards: what they pay for, and whether they can be trusted."""

import numpy as np

from ...formats.segments import Array
from .examination import Examination
from .kind import NOTHING, Measured, finding, share

FEWEST = 20  # rollouts below which a correlation is not measured


@finding(
    severity="warning",
    needs=("reward",),
    remedy="score them (`apportion score FILE --with verify -o OUT`), or flag them with `apportion filter`",
)
def missing_rewards(examined: Examination, *, above: float = 0.0) -> Measured:
    """Trained rollouts without a reward: methods refuse them or leave them out.

    Measures their share.

    Args:
        above: the measure from which it is a finding.
    """
    trained = examined["trained"]
    return share(trained & ~np.isfinite(examined["reward"]), trained, "rollouts")


@finding(severity="warning", remedy="look at the column `error`, and sample the prompts again")
def failed_rollouts(examined: Examination, *, above: float = 0.05) -> Measured:
    """Rollouts whose engine or environment failed.

    Measures their share; they have no part in credit.

    Args:
        above: the measure from which it is a finding.
    """
    failed = examined["failed"]
    return Measured(float(failed.mean()), f"{failed.sum():,} of {len(failed):,} rollouts", failed)


@finding(severity="warning", remedy="raise --max-tokens, or reward short responses")
def truncated_rollouts(examined: Examination, *, above: float = 0.2) -> Measured:
    """Responses cut by the token limit: their reward is of an answer that was never given.

    Measures their share.

    DAPO (arXiv:2503.14476, §3.4) shapes their reward; others leave them out (`filter`).

    Args:
        above: the measure from which it is a finding.
    """
    return share(examined["truncated"] & examined["trained"], examined["trained"], "rollouts")


@finding(
    severity="warning",
    needs=("reward",),
    remedy="give cut responses a reward of their own: `score --with verify --set truncated=0`",
)
def truncation_rewarded(examined: Examination, *, above: float = 0.0) -> Measured:
    """Cut responses earn more than finished ones of their group: the policy learns to go on.

    Measures the mean difference of their rewards, in groups with both; of fewer than 10 cut responses it is not
    measured.

    Args:
        above: the measure from which it is a finding.
    """
    cut = examined["truncated"] & examined.counted
    both = examined.groups.spread(examined.groups.any(cut) & examined.groups.any(examined.counted & ~cut))
    cut &= both
    if cut.sum() < 10:
        return NOTHING
    mean = examined.group_mean(examined["reward"], examined.counted & ~examined["truncated"])
    gain = float((examined["reward"] - mean)[cut].mean())
    return Measured(gain, f"{cut.sum():,} cut responses earn {gain:+.3f} beyond the finished ones of their groups", cut)


@finding(
    severity="note",
    needs=("reward", "text"),
    remedy="look at the longest and the shortest responses (`apportion inspect FILE --where 'length > …'`), and take the length out of "
    "the reward; `dr_grpo` and the aggregation of `train` decide how much a token of a long response counts",
)
def length_bias(examined: Examination, *, above: float = 0.5) -> Measured:
    """Within a group, reward goes with length: the policy can earn by writing more, or less.

    Measures the absolute correlation of reward and length, both beyond their group's mean.

    Right answers may well be shorter than wrong ones: look before you act. Dr. GRPO (arXiv:2503.20783, §3) is about
    the bias that the loss adds.

    Args:
        above: the measure from which it is a finding.
    """
    rows = examined.live
    found = correlation(examined.centre(examined["length"], rows), examined.centred, rows)
    if found is None:
        return NOTHING
    way = "longer" if found > 0 else "shorter"
    return Measured(abs(found), f"{way} responses earn more (correlation {found:+.2f}, {rows.sum():,} rollouts)")


@finding(
    severity="warning",
    needs=("reward", "text"),
    remedy="make the reward a function of the response alone, or of a judge at temperature 0; train on the mean of several judgements",
)
def unsteady_reward(examined: Examination, *, above: float = 0.0) -> Measured:
    """The same response to the same prompt has different rewards: the reward is noise in part.

    Measures the share of repeated responses whose rewards differ.

    Args:
        above: the measure from which it is a finding.
    """
    rows = np.flatnonzero(examined.counted)
    order = rows[np.lexsort((examined["text"][rows], examined["group"][rows]))]
    if len(order) < 2:
        return NOTHING
    same = (examined["group"][order[1:]] == examined["group"][order[:-1]]) & (
        examined["text"][order[1:]] == examined["text"][order[:-1]]
    )
    if not same.any():
        return NOTHING
    differ = same & (examined["reward"][order[1:]] != examined["reward"][order[:-1]])
    shown = np.zeros(len(examined), bool)
    shown[order[1:][differ]] = shown[order[:-1][differ]] = True
    return Measured(float(differ.sum() / same.sum()), f"{differ.sum():,} of {same.sum():,} repetitions", shown)


@finding(
    severity="note",
    remedy="look at both rewards side by side, weigh them (`gdpo`), or drop the one that is gamed",
    needs=("reward",),
)
def rewards_against(examined: Examination, *, above: float = 0.3) -> Measured:
    """Two rewards, `rewards.NAME`, pull in opposite directions: one may be earned at the other's cost.

    Measures the strongest negative correlation, as a positive number.

    Args:
        above: the measure from which it is a finding.
    """
    worst, says = 0.0, ""
    names = examined.several_rewards
    for place, one in enumerate(names):
        for other in names[:place]:
            rows = examined["trained"] & np.isfinite(examined[one]) & np.isfinite(examined[other])
            found = correlation(examined.centre(examined[one], rows), examined.centre(examined[other], rows), rows)
            if found is not None and -found > worst:
                worst, says = -found, f"{other} and {one}: correlation {found:+.2f}"
    return Measured(worst, says) if len(names) > 1 else NOTHING


def correlation(one: Array, other: Array, rows: Array) -> float | None:
    """Pearson's, of what is beyond the groups' means; None of fewer than 20 rollouts, and where one of the two never varies."""
    if rows.sum() < FEWEST:
        return None
    x, y = one[rows], other[rows]
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale > 0 else None
