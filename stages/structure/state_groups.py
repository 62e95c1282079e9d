"""Which steps of a group began in the same state.

States are no tree over tokens: two rollouts may come to one by different ways, while siblings of a node share their
tokens. So states stand on the step ruler, as a number that is equal where the states are.
"""

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Segments


def add_state_groups(rollouts: Rollouts) -> Rollouts:
    """The rollouts with `step.state_id`, a number for each distinct `step.state` of a group, in the order they are met,
    and `step.state_visits`, how many of the group's steps began in it. DataError for a step without a state.
    """
    coded, _ = states_of(rollouts)
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


def states_of(rollouts: Rollouts) -> tuple[Ragged, list[str]]:
    """`step.state` as codes, int64, and the texts they stand for. DataError for a step without a state."""
    lists = rollouts.arrow("step.state")
    present = ~np.asarray(lists.is_null())
    rows = Segments.of_sizes(np.where(present, np.asarray(lists.value_lengths().fill_null(0)), 0).astype(np.int64))
    flat = lists.flatten()
    if flat.null_count:
        row = int(rows.ids[np.flatnonzero(np.asarray(flat.is_null()))[0]])
        raise DataError(
            f"row {row}, column 'step.state': a step without a state; run `apportion score IN --with states`"
        )
    encoded = flat.cast(pa.string()).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Ragged(codes, rows.offsets, None if present.all() else present), encoded.dictionary.to_pylist()
