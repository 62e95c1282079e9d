"""The step tree of a group: which steps its rollouts share.

A node is one step, reached by the same steps before it: all tokens up to its end are equal, and so are the ends of the
steps before. Unlike in the prefix tree a chain stays a chain, so that depth counts steps.
"""

import numpy as np

from ...formats.errors import DataError
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Segments
from ..core.remedies import remedy
from .prefixes import prefix_keys


def add_step_tree(rollouts: Rollouts) -> Rollouts:
    """The rollouts with `node.id`, `node.start`, `node.end` and `node.visits`, a node a step.

    Tokens in no step (an environment's) belong to the node of the next step, at the end to the last; a response
    without any step is one node. Node ids count from 0 within a group, parents before children. DataError for a rollout
    that was not cut into steps.
    """
    ends = rollouts.ragged("step.end")
    if ends.present is not None and not ends.present.all():
        row = int(np.flatnonzero(~ends.present)[0])
        raise DataError(f"row {row}, column 'step.end': missing, expected its steps; {remedy('step.end')}")
    lengths = rollouts.tokens.sizes
    paths = Segments.of_sizes(np.where(lengths > 0, np.maximum(ends.segments.sizes, 1), 0))
    rows, depth = paths.ids, paths.positions
    last = depth == paths.spread(paths.sizes) - 1
    stop = lengths[rows].astype(np.int64)  # of the last node; the others end with their step
    stop[~last] = ends.values[(ends.segments.starts[rows] + depth)[~last]]
    start = np.concatenate(([0], stop[:-1]))[: len(stop)]
    start[depth == 0] = 0

    keys = prefix_keys(rollouts, rows, stop)
    node = np.zeros(len(rows), np.int64)
    made, groups = 0, rollouts.groups.ids[rows]
    group_of: list[np.ndarray] = []
    for level in range(int(paths.sizes.max(initial=0))):
        places = np.flatnonzero(depth == level)
        parent = node[places - 1] if level else groups[places]
        pair = np.stack((groups[places], parent, keys[places]))
        distinct, which = np.unique(pair, axis=1, return_inverse=True)
        node[places] = made + which.reshape(-1)
        made += distinct.shape[1]
        group_of.append(distinct[0])
    # Numbered by group; inside of one the levels stay in order.
    group = np.concatenate(group_of) if group_of else np.empty(0, np.int64)
    order = np.argsort(group, kind="stable")
    ids = np.empty(made, np.int64)
    ids[order] = Segments.of_runs(group[order]).positions if made else order
    visits = np.bincount(node, minlength=made)

    def leaf(values: np.ndarray) -> Ragged:
        return Ragged(values.astype(np.int32), paths.offsets)

    return rollouts.with_columns(
        {
            "node.id": leaf(ids[node]),
            "node.start": leaf(start),
            "node.end": leaf(stop),
            "node.visits": leaf(visits[node]),
        }
    )
