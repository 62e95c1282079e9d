"""ReMax: judge each rollout against the policy's greedy answer to the same prompt."""

from typing import Literal

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array
from ..kind import Credit, credit_method


@credit_method(granularity="rollout", methodology="monte-carlo", source="arXiv:2310.10505, eq. 5", evidence="code")
def remax(
    credit: Credit,
    *,
    baseline: Literal["greedy", "column"] = "greedy",
    column: str = "reward_baseline",
) -> Array:
    """Reward minus that of the greedy rollout of the same prompt, the same on all tokens.

        A_i = R_i - R_greedy

    The greedy rollout takes no part in the sampling, so the baseline is unbiased and needs no siblings: a group may have
    one rollout. It is a row of the group with purpose probe and temperature 0 that begins at the prompt (no parent_id, or
    fork 0), as `sample --from IN --strategy vine --set k=1 --set max_states=1 --temperature 0` makes it of rollouts with
    steps; where there are several, their mean reward counts.

    Args:
        credit: uses reward [R] and the greedy rollouts' rewards, reward units.
        baseline: from the "greedy" rollouts of the group, or from a "column" with a number for each rollout, as verl's
            reward_baselines are.
        column: that column's name.

    Returns:
        [R] advantages, reward units; exactly 0 where the reward equals the greedy one, whatever the siblings' are.

    Raises:
        DataError: a missing reward; a group without a greedy rollout, or one without a reward; no such column.

    Departures: 1. The paper's and verl's KL penalty inside the reward is not offered; it can be in the loss.

    >>> from apportion.stages.assign_credit._examples import rollouts_of
    >>> import numpy as np
    >>> rollouts = rollouts_of([1.0, 0.25]).with_columns({"reward_baseline": np.array([0.5, 0.5])})
    >>> remax(Credit(rollouts), baseline="column").tolist()
    [0.5, -0.25]
    """
    if baseline == "column":
        if column not in credit.rollouts:
            raise DataError(f"no column {column!r}, which remax needs; add it, or --set baseline=greedy")
        values = credit.rollouts.numbers(column).astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(f"row {row}, column {column!r}: {values[row]}, expected a finite number")
        return credit.reward - values
    return credit.reward - credit.groups.spread(_greedy(credit))


def _greedy(credit: Credit) -> Array:
    """[G] mean reward of each group's greedy rollouts."""
    groups, probes = credit.groups, credit.probe_rollouts
    names = [credit.rollouts.arrow("group_id")[int(start)].as_py() for start in groups.starts]
    found = np.full(len(groups), np.nan)
    if probes is not None and len(probes) and "temperature" in probes and "reward" in probes:
        greedy = probes.numbers("temperature").astype(np.float64) == 0
        if "parent_id" in probes:
            whole = np.array([parent is None for parent in probes.strings("parent_id")])
            if "fork" in probes:
                whole |= np.array([fork == 0 for fork in probes.arrow("fork").to_pylist()])
            greedy &= whole
        number = {name: place for place, name in enumerate(names)}
        group = np.array([number.get(name, -1) for name in probes.strings("group_id")])
        chosen = np.flatnonzero(greedy & (group >= 0))
        reward = probes.numbers("reward").astype(np.float64)[chosen]
        if not np.isfinite(reward).all():
            name = probes.strings("rollout_id")[int(chosen[np.flatnonzero(~np.isfinite(reward))[0]])]
            raise DataError(f"greedy rollout {name!r}: no finite reward; score the file again")
        counts = np.bincount(group[chosen], minlength=len(groups))
        found = np.bincount(group[chosen], weights=reward, minlength=len(groups)) / np.where(counts, counts, np.nan)
    missing = np.flatnonzero(np.isnan(found))
    if len(missing):
        raise DataError(
            f"group {names[int(missing[0])]!r}: no greedy rollout (purpose probe, temperature 0), which remax needs; run "
            "`apportion sample --from IN --strategy vine --set k=1 --set max_states=1 --temperature 0 -o OUT` and score it"
        )
    return found
