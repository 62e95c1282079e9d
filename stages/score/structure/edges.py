"""Edges: what each edge of a team's communication graph did for its success."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ...core.ranges import AtLeast, Between
from ...structure.edges import AXIS, Drawn
from ..kind import scorer


@scorer(
    needs=("reward", *AXIS),
    granularity="edge",
    source="arXiv:2603.02701 (Graph-GRPO), steps 3 and 4",
    evidence="second-hand",
    makes=("edge.success", "edge.advantage"),
    system=("Graph-GRPO",),
)
def edges(
    rollouts: Rollouts,
    *,
    correct: float = 0.5,
    ddof: Annotated[int, Between(0, 1)] = 0,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
) -> Mapping[str, Ragged]:
    """Credit of every edge a group of teams drew: how often teams with it succeeded, against the group's other edges.

        S_ij = Σ_k R_k · 1[edge ij in graph k] / Σ_k 1[edge ij in graph k]       R_k: 1 if the reward is above `correct`
        A_ij = (S_ij - mean) / (std + eps)                                      over the edges the group drew at least once

    Args:
        correct: a team succeeded if its reward is above.
        ddof: 0 or 1; the std's divisor is n - ddof.
        eps: added to the std, 0 or more.

    Returns:
        {"edge.success": S_ij, "edge.advantage": A_ij}: the same in all rows of a group, whether the edge is in their graph
        or not. An edge never drawn has 0 for both; if all succeed equally often, A is 0.

    Raises:
        UsageError: an option out of range. DataError: a team without a reward; lists of unequal length.

    Departures: that the std is the population's, and what happens to edges never drawn, is known second-hand; ddof=1 is the
        other reading.
    """
    drawn = Drawn.of(rollouts, correct)
    success, advantage = drawn.credit(ddof, eps)
    return {
        "edge.success": drawn.leaf(success.astype(np.float32)),
        "edge.advantage": drawn.leaf(advantage.astype(np.float32)),
    }
