"""The trees of a batch, node by node: parents, depths, and who passes through."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..core.remedies import remedy
from .prefix_tree import prefix_paths


@dataclass(frozen=True, eq=False)
class Nodes:
    """N nodes of the trees of G groups, which are numbered first: node g < G is group g's root, the prompt itself.

    groups: rollouts [R] of each group. tokens: response tokens [T] of each rollout. paths: the places [P] of each rollout's
    path. node: [P] the node at each place. start, end: [P] its response tokens, [start, end). parent: [N], -1 for roots.
    depth: [N], 0 for roots. leaf: [R] the node each rollout ends at. fork: [R] response tokens that each rollout carries
    from the one it left; 0 where it left none.
    """

    groups: Segments
    tokens: Segments
    paths: Segments
    node: Array
    start: Array
    end: Array
    parent: Array
    depth: Array
    leaf: Array
    fork: Array

    @classmethod
    def of(cls, rollouts: Rollouts) -> "Nodes":
        """From the node ruler. DataError for a rollout without it."""
        ids = rollouts.ragged("node.id")
        if ids.present is not None and not ids.present.all():
            row = int(np.flatnonzero(~ids.present)[0])
            raise DataError(f"row {row}, column 'node.id': missing, expected its path; {remedy('node.id')}")
        start, end = (rollouts.ragged(f"node.{leaf}").values.astype(np.int64) for leaf in ("start", "end"))
        return cls.of_paths(
            ids.segments,
            ids.values,
            start,
            end,
            groups=rollouts.groups,
            tokens=rollouts.tokens,
            fork=forks_of(rollouts),
        )

    @classmethod
    def of_tokens(cls, ids: Array, tokens: Segments, groups: Segments, fork: Array | None = None) -> "Nodes":
        """Of the prefix tree of each group. ids: [T] token ids; tokens: [T] of each rollout; groups: rollouts [R] of each."""
        paths, node, start, end, _ = prefix_paths(ids, tokens, groups)
        return cls.of_paths(paths, node, start, end, groups=groups, tokens=tokens, fork=fork)

    @classmethod
    def of_paths(
        cls,
        paths: Segments,
        ids: Array,
        start: Array,
        end: Array,
        *,
        groups: Segments,
        tokens: Segments,
        fork: Array | None = None,
    ) -> "Nodes":
        """Of the places of each rollout's path. ids: [P] number of the node in its group's tree; start, end: [P]."""
        rows = paths.ids
        least = min(int(ids.min(initial=0)), 0)
        keys = groups.ids[rows] * (int(ids.max(initial=0)) - least + 1) + (ids - least)
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
        fork = np.zeros(len(paths), np.int64) if fork is None else fork
        return cls(groups, tokens, paths, node, start, end, parent, depth, leaf, fork)

    @property
    def tree(self) -> Array:
        """[N] the group whose tree a node is in."""
        tree = np.arange(len(self.parent))
        tree[self.node] = self.groups.ids[self.paths.ids]
        return tree

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

    def samples(self) -> Array:
        """[N] how often each node was drawn from its parent; 1 for roots.

        A rollout drew a node unless its `fork` lies behind the node's start: then it carries the node's tokens from the
        rollout that it left. So siblings that `tree-build` merged into one node count as often as they were drawn, and a
        prefix that many rollouts carry counts once. Of a node whose rollouts all carry it, the one that drew it is not
        among them; it counts once.
        """
        drawn = self.fork[self.paths.ids] <= self.start
        return np.maximum(np.bincount(self.node[drawn], minlength=len(self.parent)), 1)

    def drawn_share(self) -> Array:
        """[T] of the rollouts that pass through a token's node, the share that drew the token, rather than carry it.

        Summed over those rollouts it is how often the token was drawn: 1 where nobody else has it.
        """
        own = np.clip(self.fork[self.paths.ids] - self.start, 0, self.end - self.start)
        width = int(own.max(initial=0)) + 1
        begins = np.sort(self.node * width + own)  # by node, the place in it from which on each rollout drew its tokens
        inside = Segments.of_sizes(self.end - self.start)
        first = inside.spread(self.node * width)
        offset = np.minimum(inside.positions, width - 1)
        drawn = np.searchsorted(begins, first + offset, "right") - np.searchsorted(begins, first, "left")
        visits = np.bincount(self.node, minlength=len(self.parent))
        out = np.zeros(int(self.tokens.offsets[-1]))
        place = inside.positions + inside.spread(self.tokens.starts[self.paths.ids] + self.start)
        out[place] = np.maximum(drawn, 1) / inside.spread(visits[self.node])
        return out

    def on_tokens(self, per_node: Array) -> Array:
        """[T] the value of each token's node; 0 for a token in none. per_node: [N]."""
        return self.places_on_tokens(per_node[self.node])

    def places_on_tokens(self, per_place: Array) -> Array:
        """The same with a value for each place of each path [P]."""
        inside = Segments.of_sizes(self.end - self.start)
        first = self.tokens.starts[self.paths.ids] + self.start
        out = np.zeros(int(self.tokens.offsets[-1]))
        out[inside.positions + inside.spread(first)] = inside.spread(per_place)
        return out


def forks_of(rollouts: Rollouts) -> Array:
    """[R] int64 response tokens that each rollout carries from the one it left; 0 where it left none."""
    if "fork" not in rollouts:
        return np.zeros(len(rollouts), np.int64)
    return rollouts.arrow("fork").cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
