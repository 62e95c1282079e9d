"""ReMax: judge each rollout against the policy's greedy answer to the same prompt."""

from typing import Literal

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array
from ..kind import credit_method


@credit_method(
    needs_with=lambda *, baseline, column, **_: (column,) if baseline == "column" else (),
    columns={"baselines": "column"},
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2310.10505, eq. 5",
    evidence="code",
)
def remax(
    reward: Array,
    greedy: Array,
    baselines: Array | None = None,
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
        reward: [R] reward units.
        greedy: [R] mean reward of the greedy rollouts of the same prompt, NaN where there are none; reward units.
        baselines: [R] what takes their place with baseline="column".
        baseline: from the "greedy" rollouts of the group, or from a "column" with a number for each rollout, as verl's
            reward_baselines are.
        column: the column that the baselines are in.

    Returns:
        [R] advantages, reward units; exactly 0 where the reward equals the greedy one, whatever the siblings' are.

    Raises:
        DataError: a missing reward; a group without a greedy rollout, or one without a reward; no such column.

    Departures: 1. The paper's and verl's KL penalty inside the reward is not offered; it can be in the loss.

    >>> remax(np.array([1.0, 0.25]), np.array([0.5, 0.5])).tolist()
    [0.5, -0.25]
    """
    if baseline == "column":
        assert baselines is not None
        return reward - baselines
    missing = np.flatnonzero(np.isnan(greedy))
    if len(missing):
        raise DataError(
            f"row {int(missing[0])}: its group has no greedy rollout (purpose probe, temperature 0), which remax needs; run "
            "`apportion sample --from IN --strategy vine --set k=1 --set max_states=1 --temperature 0 -o OUT` and score it"
        )
    return reward - greedy
