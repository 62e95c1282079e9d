"""The trees of a batch, node by node: parents, depths, and who passes through."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.invariants import node_keys
from ...formats.segments import Array, Segments
from .batch import Credit


@dataclass(frozen=True, eq=False)
class Nodes:
    """N nodes of the trees of G groups, which are numbered first: node g < G is group g's root, the prompt itself.

    paths: the places [P] of each rollout's path. node: [P] the node at each place. start: [P] its first response token.
    parent: [N], -1 for roots. depth: [N], 0 for roots. leaf: [R] the node each rollout ends at.
    """

    paths: Segments
    node: Array
    start: Array
    end: Array
    parent: Array
    depth: Array
    leaf: Array

    @classmethod
    def of(cls, credit: Credit) -> "Nodes":
        """From the node ruler. DataError for a rollout without it."""
        ids = credit.rollouts.ragged("node.id")
        if ids.present is not None and not ids.present.all():
            row = int(np.flatnonzero(~ids.present)[0])
            raise DataError(
                f"row {row}, column 'node.id': missing, expected its path; run `apportion tree-build` again"
            )
        start, end = (credit.rollouts.ragged(f"node.{leaf}").values.astype(np.int64) for leaf in ("start", "end"))
        keys, rows = node_keys(credit.rollouts, ids)
        groups, paths = credit.groups, ids.segments
        distinct, first, node = np.unique(keys, return_index=True, return_inverse=True)
        node = node.reshape(-1) + len(groups)
        before = np.concatenate(([0], node[:-1])) if len(node) else node
        heads = paths.positions == 0
        before = np.where(heads, groups.ids[rows], before)
        parent = np.concatenate((np.full(len(groups), -1), before[first]))
        depth = np.concatenate((np.zeros(len(groups), np.int64), paths.positions[first] + 1))
        leaf = groups.ids.copy()
        filled = paths.sizes > 0
        leaf[filled] = node[paths.offsets[1:][filled] - 1]
        assert len(distinct) + len(groups) == len(parent)
        return cls(paths, node, start, end, parent, depth, leaf)

    def levels(self) -> list[Array]:
        """Nodes by depth, the deepest first; roots are left out."""
        order = np.argsort(-self.depth, kind="stable")
        runs = Segments.of_runs(self.depth[order])
        return [order[start:end] for start, end in zip(runs.starts, runs.offsets[1:], strict=True)][:-1]

    def below(self, per_rollout: Array) -> Array:
        """[N] sum over the rollouts that pass through each node of per_rollout [R]."""
        total = np.bincount(self.leaf, weights=per_rollout, minlength=len(self.parent))
        for level in self.levels():
            np.add.at(total, self.parent[level], total[level])
        return total

    def alike(self, per_rollout: Array) -> Array:
        """[N] bool, all rollouts that pass through the node have the same per_rollout [R]."""
        low, high = np.full(len(self.parent), np.inf), np.full(len(self.parent), -np.inf)
        np.minimum.at(low, self.leaf, per_rollout)
        np.maximum.at(high, self.leaf, per_rollout)
        for level in self.levels():
            np.minimum.at(low, self.parent[level], low[level])
            np.maximum.at(high, self.parent[level], high[level])
        return low >= high

    def samples(self, credit: Credit) -> Array:
        """[N] how often each node was drawn from its parent; 1 for roots.

        A rollout drew a node unless its `fork` lies behind the node's start: then it carries the node's tokens from the
        rollout that it left. So siblings that `tree-build` merged into one node count as often as they were drawn, and a
        prefix that many rollouts carry counts once. Of a node whose rollouts all carry it, the one that drew it is not
        among them; it counts once.
        """
        drawn = forks_of(credit)[self.paths.ids] <= self.start
        return np.maximum(np.bincount(self.node[drawn], minlength=len(self.parent)), 1)

    def drawn_share(self, credit: Credit) -> Array:
        """[T] of the rollouts that pass through a token's node, the share that drew the token, rather than carry it.

        Summed over those rollouts it is how often the token was drawn: 1 where nobody else has it.
        """
        own = np.clip(forks_of(credit)[self.paths.ids] - self.start, 0, self.end - self.start)
        width = int(own.max(initial=0)) + 1
        begins = np.sort(self.node * width + own)  # by node, the place in it from which on each rollout drew its tokens
        inside = Segments.of_sizes(self.end - self.start)
        first = inside.spread(self.node * width)
        offset = np.minimum(inside.positions, width - 1)
        drawn = np.searchsorted(begins, first + offset, "right") - np.searchsorted(begins, first, "left")
        visits = np.bincount(self.node, minlength=len(self.parent))
        out = np.zeros(len(credit.mask))
        place = inside.positions + inside.spread(credit.tokens.starts[self.paths.ids] + self.start)
        out[place] = np.maximum(drawn, 1) / inside.spread(visits[self.node])
        return out

    def on_tokens(self, credit: Credit, per_node: Array) -> Array:
        """[T] the value of each token's node; 0 for a token in none. per_node: [N]."""
        return self.places_on_tokens(credit, per_node[self.node])

    def places_on_tokens(self, credit: Credit, per_place: Array) -> Array:
        """The same with a value for each place of each path [P]."""
        inside = Segments.of_sizes(self.end - self.start)
        first = credit.tokens.starts[self.paths.ids] + self.start
        out = np.zeros(len(credit.mask))
        out[inside.positions + inside.spread(first)] = inside.spread(per_place)
        return out


def forks_of(credit: Credit) -> Array:
    """[R] int64 response tokens that each rollout carries from the one it left; 0 where it left none."""
    if "fork" not in credit.rollouts:
        return np.zeros(len(credit.rollouts), np.int64)
    column = credit.rollouts.arrow("fork").cast(pa.int64()).fill_null(0)
    return column.to_numpy(zero_copy_only=False)
