"""Findings about credit that is assigned already, of every credit column."""

import numpy as np

from .examination import Examination
from .kind import NOTHING, Measured, finding

FEWEST = 32  # rollouts below which shares of the whole say nothing


@finding(
    severity="warning",
    needs=("reward",),
    remedy="check the method's options and columns: `apportion inspect FILE`, `apportion log FILE`",
)
def no_credit(examined: Examination, *, above: float = 0.0) -> Measured:
    """Groups whose rewards differ and whose credit is 0 throughout.

    Measures their share of the live groups, of the worst column.

    Args:
        above: the measure from which it is a finding.
    """
    live = examined.groups.any(examined.live)
    if not live.any() or not examined.credits:
        return NOTHING
    worst = Measured(0.0)
    for path in examined.credits:
        given = examined.groups.any(examined.live & (examined[f"{path}|size"] > 0))
        told = examined.groups.any(examined.live & (examined[f"{path}|given"] == 1))
        silent = live & told & ~given
        share = float(silent.sum() / live.sum())
        if share > (worst.value or 0):
            worst = Measured(
                share, f"{path}: {silent.sum():,} of {live.sum():,} groups", examined.groups.spread(silent)
            )
    return worst


@finding(
    severity="warning",
    needs=("reward",),
    remedy="clip the credit (`assign-credit --clip`), or look at the rollout; a reward on another scale does this",
)
def one_rollout_dominates(examined: Examination, *, above: float = 0.25) -> Measured:
    """One rollout has much of all credit, so that the update is its own.

    Measures its share of the sum of absolute credit, of the worst column; of fewer than 32 rollouts with credit it
    is not measured.

    Args:
        above: the measure from which it is a finding.
    """
    worst = NOTHING
    for path in examined.credits:
        size = np.where(np.isfinite(examined[f"{path}|size"]), examined[f"{path}|size"], 0.0)
        total = float(size.sum())
        if total <= 0 or (size > 0).sum() < FEWEST:
            continue
        share = float(size.max() / total)
        if worst.value is None or share > worst.value:
            rows = size == size.max()
            worst = Measured(share, f"{path}: {share:.0%} of all credit", rows)
    return worst


@finding(
    severity="warning",
    needs=("reward",),
    remedy="look at these rollouts with `apportion inspect`; a sign or an option of the method may be wrong",
)
def credit_against_reward(examined: Examination, *, above: float = 0.5) -> Measured:
    """Rollouts that earned more than their group's mean have credit below 0, and the other way round.

    Measures their share of the rollouts with credit in live groups, of the worst column.

    Args:
        above: the measure from which it is a finding.
    """
    worst = NOTHING
    for path in examined.credits:
        total = examined[f"{path}|sum"]
        told = examined.live & (examined[f"{path}|size"] > 0) & (examined.centred != 0)
        if not told.any():
            continue
        against = told & (np.sign(total) == -np.sign(examined.centred))
        share = float(against.sum() / told.sum())
        if worst.value is None or share > worst.value:
            worst = Measured(share, f"{path}: {against.sum():,} of {told.sum():,} rollouts", against)
    return worst


@finding(
    severity="warning",
    needs=("reward",),
    remedy="assign credit anew; rows that failed, probes and evaluations have none on purpose",
)
def credit_missing(examined: Examination, *, above: float = 0.0) -> Measured:
    """Trained rollouts without credit in a column that others have.

    Measures their share, of the worst column.

    Args:
        above: the measure from which it is a finding.
    """
    worst = NOTHING
    trained = examined["trained"]
    for path in examined.credits:
        given = examined[f"{path}|given"] == 1
        if not (given & trained).any():
            continue
        missing = trained & ~given
        share = float(missing.sum() / trained.sum())
        if worst.value is None or share > worst.value:
            worst = Measured(share, f"{path}: {missing.sum():,} of {trained.sum():,} rollouts", missing)
    return worst
