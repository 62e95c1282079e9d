"""Which steps of a group began in the same state.

States are no tree over tokens: two rollouts may come to one by different ways, while siblings of a node share their
tokens. So states stand on the step ruler, as a number that is equal where the states are.
"""

import numpy as np

from ...formats.rollouts import Rollouts
from ...formats.segments import Segments
from .steps import encode_texts


def add_state_groups(rollouts: Rollouts) -> Rollouts:
    """The rollouts with `step.state_id`, a number for each distinct `step.state` of a group, in the order they are met,
    and `step.state_visits`, how many of the group's steps began in it. DataError for a step without a state.
    """
    coded, _ = encode_texts(rollouts, "step.state")
    states, rows = coded.values, coded.segments
    group = rollouts.groups.ids[rows.ids]
    pairs = group * (int(states.max(initial=0)) + 1) + states
    _, first, which, visits = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    order = np.lexsort((first, group[first]))
    ids = np.empty(len(first), np.int64)
    ids[order] = Segments.of_runs(group[first][order]).positions if len(first) else order
    return rollouts.with_columns(
        {
            "step.state_id": coded.with_values(ids[which].astype(np.int32)),
            "step.state_visits": coded.with_values(visits[which].astype(np.int32)),
        }
    )
