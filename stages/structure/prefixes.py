"""Which prefixes of a group's rollouts are the same."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from .prefix_tree import Paths, prefix_paths


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The prefixes of R responses in G groups.

    ids: [T] token ids. tokens: response tokens [T] of each rollout. groups: rollouts [R] of each group.
    """

    ids: Array
    tokens: Segments
    groups: Segments

    @cached_property
    def tree(self) -> Paths:
        """The prefix tree of each group."""
        return prefix_paths(self.ids, self.tokens, self.groups)

    def keys(self, rows: Array, lengths: Array) -> Array:
        """[S] int, equal where the first `lengths` [S] tokens of two rollouts `rows` [S] of a group are equal. Exact.

        >>> pair, both = Segments.of_sizes(np.array([2, 2])), Segments.of_sizes(np.array([2]))
        >>> prefixes = Prefixes(np.array([5, 7, 5, 8]), pair, both)
        >>> prefixes.keys(np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2])).tolist()
        [0, 0, 1, 2]
        """
        paths, node, _, end, _ = self.tree
        # Which node holds the prefix's last token: the path's first node that ends at or after it.
        longest = int(self.tokens.sizes.max(initial=0)) + 1
        flat = paths.ids * longest + end
        place = np.searchsorted(flat, rows * longest + lengths)
        last = np.where(lengths > 0, node[np.minimum(place, max(len(flat) - 1, 0))] if len(flat) else -1, -1)
        width = int(node.max(initial=0)) + 2
        keys = (self.groups.ids[rows] * width + last + 1) * longest + lengths
        return np.unique(keys, return_inverse=True)[1].reshape(-1)


def prefix_keys(rollouts: Rollouts, rows: Array, lengths: Array) -> Array:
    """The `keys` of the rollouts' prefixes."""
    return Prefixes(rollouts.token_ids.values, rollouts.tokens, rollouts.groups).keys(rows, lengths)
