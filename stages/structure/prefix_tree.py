"""The prefix tree of a group: which token prefixes its rollouts share.

Compressed: a node is a maximal run of tokens that the same rollouts pass through. Built without a trie: sort the
group's responses, take the common-prefix length of neighbours, and split intervals of the sorted order level by level,
all groups of a batch at once.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments

BEGINNING = 128  # tokens by which responses are sorted before whole ones are looked at
STRETCH = 32  # tokens of neighbours compared at first


class Paths(NamedTuple):
    """The nodes that each rollout passes through, from the prompt on: P places in all.

    paths: the places [P] of each rollout. node: [P] number of the node in its group's tree. start, end: [P] its response
    tokens, [start, end). visits: [P] rollouts that pass through the node.
    """

    paths: Segments
    node: Array
    start: Array
    end: Array
    visits: Array


def prefix_paths(ids: Array, tokens: Segments, groups: Segments) -> Paths:
    """The prefix tree of each group, as the paths of its rollouts.

    ids: [T] token ids. tokens: response tokens [T] of each rollout. groups: rollouts [R] of each group. Nodes count from 0
    within a group, parents before children. A path covers the response; an empty response has an empty path. Two equal
    responses share all their nodes.

    >>> pair, both = Segments.of_sizes(np.array([2, 2])), Segments.of_sizes(np.array([2]))
    >>> prefix_paths(np.array([5, 7, 5, 8]), pair, both).node.tolist()
    [0, 1, 0, 2]
    """
    order = _sort(ids, tokens, groups)
    shared = _count_shared(ids, tokens, groups, order)
    nodes = _nodes(tokens.sizes[order], shared, groups)
    # By group; inside a group the levels stay in order, so parents come before children.
    node_start, node_end, low, high, group = nodes[:, np.argsort(nodes[4], kind="stable")]
    number = Segments.of_runs(group).positions if len(group) else np.empty(0, np.int64)

    members = Segments.of_sizes(high - low)
    row = order[members.positions + members.spread(low)]
    place = np.lexsort((members.spread(node_start), row))
    paths = Segments.of_sizes(np.bincount(row, minlength=len(tokens)))
    return Paths(paths, *(members.spread(each)[place] for each in (number, node_start, node_end, high - low)))


def add_prefix_tree(rollouts: Rollouts) -> Rollouts:
    """The rollouts with their prefix tree: `node.id`, `node.start`, `node.end` and `node.visits`."""
    paths, *leaves = prefix_paths(rollouts.token_ids.values, rollouts.tokens, rollouts.groups)
    names = ("node.id", "node.start", "node.end", "node.visits")
    return rollouts.with_columns(
        {name: Ragged(leaf.astype(np.int32), paths.offsets) for name, leaf in zip(names, leaves, strict=True)}
    )


def _sort(ids: Array, tokens: Segments, groups: Segments) -> Array:
    """[R] rows, groups in place, responses in lexicographic order inside their group.

    Compares the responses as big-endian bytes: one memcmp a comparison instead of a loop over tokens. Their beginnings
    decide nearly always; a group in which two long beginnings are the same is sorted by whole responses.
    """
    heads = Segments.of_sizes(np.minimum(tokens.sizes, BEGINNING))
    content = ids[heads.positions + heads.spread(tokens.starts)].astype(">i4").tobytes()
    keys = [content[start:end] for start, end in pairwise((heads.offsets * 4).tolist())]
    order: list[int] = []
    for start, end in pairwise(groups.offsets.tolist()):
        members = sorted(range(start, end), key=keys.__getitem__)
        if any(keys[a] == keys[b] and len(keys[a]) == 4 * BEGINNING for a, b in pairwise(members)):
            begins = tokens.offsets
            whole = {row: ids[begins[row] : begins[row + 1]].astype(">i4").tobytes() for row in members}
            members.sort(key=whole.__getitem__)
        order += members
    return np.array(order, np.int64)


def _count_shared(ids: Array, tokens: Segments, groups: Segments, order: Array) -> Array:
    """[R] length in tokens of the prefix each response shares with the one before it in `order`; 0 at a group's head.

    A stretch at a time, each twice as long as the one before, among those neighbours that were equal up to there.
    """
    lengths, starts = tokens.sizes[order], tokens.starts[order]
    limit = np.zeros(len(order), np.int64)
    limit[1:] = np.minimum(lengths[1:], lengths[:-1])
    limit[groups.starts[groups.sizes > 0]] = 0
    shared = limit.copy()
    equal, done, width = np.flatnonzero(limit), 0, STRETCH
    while len(equal):
        pairs = Segments.of_sizes(np.minimum(limit[equal] - done, width))
        place = pairs.positions + done
        here = ids[place + pairs.spread(starts[equal])]
        before = ids[place + pairs.spread(starts[equal - 1])]
        differs = np.flatnonzero(here != before)
        owner = np.searchsorted(pairs.offsets, differs, side="right") - 1
        firsts = np.flatnonzero(np.diff(owner, prepend=-1))
        shared[equal[owner[firsts]]] = place[differs[firsts]]
        goes_on = limit[equal] > done + width
        goes_on[owner[firsts]] = False
        equal, done, width = equal[goes_on], done + width, 2 * width
    return shared


def _nodes(lengths: Array, shared: Array, groups: Segments) -> Array:
    """[5, N] nodes as rows start, end, low, high, group: tokens [start, end), shared by the sorted rollouts [low, high).

    An interval of the sorted order that shares its first `start` tokens shares them up to the least common prefix of
    its neighbours; there it splits. One pass of the loop handles a whole level of all trees.
    """
    low, high = groups.starts, groups.offsets[1:]
    start, group = np.zeros(len(groups), np.int64), np.arange(len(groups))
    levels: list[Array] = [np.empty((5, 0), np.int64)]
    while len(low):
        inside = Segments.of_sizes(high - low)
        place = inside.positions + inside.spread(low)
        common = np.where(inside.positions == 0, lengths[place], shared[place])
        end = inside.min(common)
        levels.append(np.stack([start, end, low, high, group])[:, end > start])
        # A new interval begins at the head and wherever neighbours share no more than `end`; what ends here is done.
        heads = np.flatnonzero((inside.positions == 0) | (shared[place] <= inside.spread(end)))
        tails = np.append(heads[1:], len(place))
        parent = inside.ids[heads]
        goes_on = (lengths[place[heads]] > end[parent]) & (high - low > 1)[parent]
        heads, tails, parent = heads[goes_on], tails[goes_on], parent[goes_on]
        low, high, start, group = place[heads], place[tails - 1] + 1, end[parent], group[parent]
    return np.concatenate(levels, axis=1)
