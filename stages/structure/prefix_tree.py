"""The prefix tree of a group: which token prefixes its rollouts share.

Compressed: a node is a maximal run of tokens that the same rollouts pass through. Built without a trie: sort the
group's responses, take the common-prefix length of neighbours, and split intervals of the sorted order level by level,
all groups of a batch at once.
"""

from itertools import pairwise

import numpy as np

from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments

BEGINNING = 128  # tokens by which responses are sorted before whole ones are looked at
STRETCH = 32  # tokens of neighbours compared at first


def add_prefix_tree(rollouts: Rollouts) -> Rollouts:
    """The rollouts with `node.id`, `node.start`, `node.end` and `node.visits`.

    Node ids count from 0 within a group, parents before children. A rollout's path covers its response; an empty
    response has an empty path. Two equal responses share all their nodes.
    """
    order = _sorted_order(rollouts)
    shared = _shared_with_previous(rollouts, order)
    nodes = _nodes(rollouts.tokens.sizes[order], shared, rollouts.groups)
    # By group; inside a group the levels stay in order, so parents come before children.
    node_start, node_end, low, high, group = nodes[:, np.argsort(nodes[4], kind="stable")]
    ids = Segments.of_runs(group).positions if len(group) else np.empty(0, np.int64)

    members = Segments.of_sizes(high - low)
    row = order[members.positions + members.spread(low)]
    place = np.lexsort((members.spread(node_start), row))
    path = Segments.of_sizes(np.bincount(row, minlength=len(rollouts)))

    def leaf(per_node: Array) -> Ragged:
        return Ragged(members.spread(per_node)[place].astype(np.int32), path.offsets)

    return rollouts.with_columns(
        {
            "node.id": leaf(ids),
            "node.start": leaf(node_start),
            "node.end": leaf(node_end),
            "node.visits": leaf(high - low),
        }
    )


def _sorted_order(rollouts: Rollouts) -> Array:
    """[R] rows, groups in place, responses in lexicographic order inside their group.

    Compares the responses as big-endian bytes: one memcmp a comparison instead of a loop over tokens. Their beginnings
    decide nearly always; a group in which two long beginnings are the same is sorted by whole responses.
    """
    tokens, ids = rollouts.tokens, rollouts.token_ids.values
    heads = Segments.of_sizes(np.minimum(tokens.sizes, BEGINNING))
    content = ids[heads.positions + heads.spread(tokens.starts)].astype(">i4").tobytes()
    keys = [content[start:end] for start, end in pairwise((heads.offsets * 4).tolist())]
    order: list[int] = []
    for start, end in pairwise(rollouts.groups.offsets.tolist()):
        members = sorted(range(start, end), key=keys.__getitem__)
        if any(keys[a] == keys[b] and len(keys[a]) == 4 * BEGINNING for a, b in pairwise(members)):
            whole = {row: rollouts.token_ids[row].astype(">i4").tobytes() for row in members}
            members.sort(key=whole.__getitem__)
        order += members
    return np.array(order, np.int64)


def _shared_with_previous(rollouts: Rollouts, order: Array) -> Array:
    """[R] length in tokens of the prefix each response shares with the one before it in `order`; 0 at a group's head.

    A stretch at a time, each twice as long as the one before, among those neighbours that were equal up to there.
    """
    lengths, starts = rollouts.tokens.sizes[order], rollouts.tokens.starts[order]
    limit = np.zeros(len(order), np.int64)
    limit[1:] = np.minimum(lengths[1:], lengths[:-1])
    limit[rollouts.groups.starts[rollouts.groups.sizes > 0]] = 0
    shared = limit.copy()
    values = rollouts.token_ids.values
    equal, done, width = np.flatnonzero(limit), 0, STRETCH
    while len(equal):
        pairs = Segments.of_sizes(np.minimum(limit[equal] - done, width))
        place = pairs.positions + done
        here = values[place + pairs.spread(starts[equal])]
        before = values[place + pairs.spread(starts[equal - 1])]
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
