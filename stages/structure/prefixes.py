"""Which prefixes of a group's rollouts are the same."""

import numpy as np

from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from .prefix_tree import add_prefix_tree


def prefix_keys(rollouts: Rollouts, rows: Array, lengths: Array) -> Array:
    """[S] int, equal where the first `lengths` [S] tokens of two rollouts `rows` [S] of a group are equal. Exact."""
    tree = add_prefix_tree(rollouts)
    ids, ends = tree.ragged("node.id"), tree.ragged("node.end")
    # Which node holds the prefix's last token: the path's first node that ends at or after it.
    longest = int(rollouts.tokens.sizes.max(initial=0)) + 1
    flat = ids.segments.ids * longest + ends.values
    place = np.searchsorted(flat, rows * longest + lengths)
    node = np.where(lengths > 0, ids.values[np.minimum(place, max(len(flat) - 1, 0))] if len(flat) else -1, -1)
    width = int(ids.values.max(initial=0)) + 2
    keys = (rollouts.groups.ids[rows] * width + node + 1) * longest + lengths
    return np.unique(keys, return_inverse=True)[1].reshape(-1)
