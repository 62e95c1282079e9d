"""ROSE: credit of the segments between branchings, and less of it for right answers that took longer than needed."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.ancestry import Ancestry
from ...structure.nodes import Nodes
from ..kind import credit_method


@credit_method(
    needs=("reward", "node.id", "node.start", "node.end"),
    needs_with=lambda *, key, **_: ("parent_id", "fork") if key == "position" else (),
    granularity="segment",
    methodology="monte-carlo",
    source="arXiv:2601.05053, §4.3",
    evidence="code",
    presets={
        "rose-rl": {"alpha": 0.0, "key": "position", "shortest": "first", "correct_above": "nonzero"},
    },
    system=("ROSE",),
)
def rose(
    reward: Array,
    nodes: Nodes,
    mask: Array,
    ancestry: Ancestry | None = None,
    *,
    alpha: Annotated[float, AtLeast(0)] = 1.0,
    key: Literal["prefix", "position"] = "prefix",
    shortest: Literal["nearest", "first"] = "nearest",
    correct_above: Literal["nonzero"] | float = 1e-6,
) -> Array:
    """Change of the mean reward from one branching to the next, lowered behind where a shorter right answer left.

        V(k) = mean reward of the group's rollouts that have the branching k;   V of the prompt: of all of them;
               V of a rollout's end: its own reward
        A_t  = V(k') - V(k)                        for the tokens from branching k to the next one, k'
        A_t -= |A_t| · (1 - ((L_s - k_c) / (L - k_c))^alpha)    for t >= k_c, in right rollouts longer than L_s

    L is a rollout's length, L_s that of the shortest right one of its group, and k_c the last branching the two have in
    common. The second step lowers what is positive and makes what is negative more so. No spread is divided by.

    Args:
        reward: [R] reward units.
        nodes: of each group's tree (`tree-build`).
        mask: [T] the policy wrote the token.
        ancestry: which rollout each one left, and where, as a branching strategy writes it; for key="position".
        alpha: strength of the length calibration; 0 is none. The paper has 0.5 to 3.
        key: what a branching is. "prefix": a place where rollouts of the group part, and the rollouts that have it are
            those with the same tokens up to there. "position" is the released code: a number of tokens at which some
            rollout was forked. A rollout has its own, those of all the rollouts before it in its line, also where they lie
            behind its own; those of the rollouts that left it, and on as long as they lie in what was theirs; and what
            its parent has before its own. Two branchings with the same number count as one.
        shortest: of several shortest right answers, the measure of a rollout is the "nearest", which it shares most with,
            or the "first" in the file (released code).
        correct_above: a rollout with a larger reward is right; "nonzero": any whose reward is not 0 (released code).

    Returns:
        [T] advantages, reward units; 0 where the mask is false. In a group of equal rewards, or of one, V does not
        change: exactly 0.

    Raises:
        DataError: a missing reward or path; with key="position" no `parent_id` or `fork`, or a `parent_id` that leads
            back to its own rollout. UsageError: alpha below 0.

    Departures: 1. Lengths and places count the policy's own tokens. 2. A place is one where rollouts really part; the code
        goes by its number (key="position"). 3. Of several shortest right answers the code takes the first, and any reward
        that is not 0 is right there. 4. The released script has the calibration off. The preset rose-rl is the code in 2
        to 4.

    >>> sizes, group = Segments.of_sizes(np.array([3, 2])), Segments.of_sizes(np.array([2]))
    >>> nodes = Nodes.of_tokens(np.array([1, 5, 6, 1, 7]), sizes, group)
    >>> rose(np.array([1.0, 0.0]), nodes, np.ones(5, bool)).tolist()
    [0.0, 0.5, 0.5, 0.0, -0.5]
    >>> sizes, group = Segments.of_sizes(np.array([4, 2, 1])), Segments.of_sizes(np.array([3]))
    >>> nodes = Nodes.of_tokens(np.array([1, 5, 6, 7, 1, 5, 2]), sizes, group)
    >>> rose(np.array([1.0, 1.0, 0.0]), nodes, np.ones(7, bool)).round(3).tolist()
    [0.333, 0.333, 0.0, 0.0, 0.333, 0.333, -0.667]
    """
    groups, tokens = nodes.groups, nodes.tokens
    if key == "prefix":
        branchings = _branch_by_tree(nodes, reward)
    else:
        assert ancestry is not None
        branchings = _branch_by_fork(ancestry, reward, groups, tokens.sizes)
    cuts, value = branchings.rows, branchings.value
    last = cuts.positions == cuts.spread(cuts.sizes) - 1
    following = np.append(value[1:], 0.0)
    following[last] = reward[cuts.ids[last]]
    live = ~groups.spread(groups.constant(reward))[cuts.ids]
    change = np.where(live, following - value, 0.0)

    # Every token: how many of the policy's are before it, and the stretch it is in.
    own = tokens.cumsum(mask.astype(np.int64)).astype(np.int64) - mask
    stretch = Segments.of_sizes(np.diff(tokens.starts[cuts.ids] + branchings.start, append=len(own)))
    advantage = stretch.spread(change)
    if alpha > 0:
        length = tokens.sum(mask.astype(np.int64))
        right = np.abs(reward) > 1e-6 if correct_above == "nonzero" else reward > correct_above
        measure, common = _measure(nodes, branchings, own, length, right, shortest)
        rest, enough = np.maximum(length - common, 1), np.maximum(measure - common, 0)
        factor = np.where(measure < length, 1 - (enough / rest) ** alpha, 0.0)
        spread = tokens.spread
        advantage = advantage - np.where(own >= spread(common), np.abs(advantage) * spread(factor), 0.0)
    return np.where(mask, advantage, 0.0)


@dataclass(frozen=True, eq=False)
class Branchings:
    """P branchings along the rollouts, the prompt first. start: [P] the first response token behind each. value: [P] V.
    which: [P] equal where two rollouts have the same one. end: [R] the one that the rollout ends at, -1 for none."""

    rows: Segments
    start: Array
    value: Array
    which: Array
    end: Array


def _branch_by_tree(nodes: Nodes, reward: Array) -> Branchings:
    """The prompt, and the ends of nodes behind which fewer rollouts go the same way."""
    visits = nodes.below(np.ones(len(reward)))
    value = nodes.below(reward) / np.maximum(visits, 1)
    parts = np.zeros(len(nodes.node), bool)  # a chain of `tree-build --by step` has nodes where nobody parts
    parts[1:] = visits[nodes.node[1:]] != visits[nodes.node[:-1]]
    behind = np.flatnonzero(parts & (nodes.paths.positions > 0))  # places of a path that have another before them
    cuts = Segments.of_sizes(1 + np.bincount(nodes.paths.ids[behind], minlength=len(reward)))
    start = np.zeros(int(cuts.offsets[-1]), np.int64)
    node = nodes.groups.ids[cuts.ids]  # the roots come first
    filled = cuts.positions > 0
    start[filled], node[filled] = nodes.start[behind], nodes.node[behind - 1]
    return Branchings(cuts, start, value[node], node, nodes.leaf)


def _branch_by_fork(ancestry: Ancestry, reward: Array, groups: Segments, lengths: Array) -> Branchings:
    """The same by numbers of tokens, of the rollout, of those it left and of those that left it. lengths: [R] tokens."""
    found = [sorted(places) for places in _positions(ancestry)]
    rows = Segments.of_sizes(np.array([len(each) for each in found], np.int64))
    start = np.array([place for each in found for place in each], np.int64)
    keys = groups.ids[rows.ids] * (int(start.max(initial=0)) + 1) + start
    which = np.unique(keys, return_inverse=True)[1].reshape(-1)
    mean = np.bincount(which, weights=reward[rows.ids]) / np.maximum(np.bincount(which), 1)
    # A rollout that ends at a branching, or before it, counts for its value, and has no tokens behind it.
    inside = (start < rows.spread(lengths)) | (start == 0)
    ends = ~inside & (start == rows.spread(lengths))
    end = np.full(len(lengths), -1)
    end[rows.ids[ends]] = which[ends]
    cuts = Segments.of_sizes(rows.sum(inside))
    return Branchings(cuts, start[inside], mean[which[inside]], which[inside], end)


def _positions(ancestry: Ancestry) -> list[set[int]]:
    """[R] the numbers of tokens at which a rollout, one before it or one after it was forked, and 0.

    The steps and their order are the released code's.
    """
    parent, fork, left = (each.tolist() for each in (ancestry.parent, ancestry.fork, ancestry.is_branch))
    order = _parents_first(parent)
    # Its own place a rollout has even where the one it left is not in the file any more.
    positions = [{0, at} if own else {0} for at, own in zip(fork, left, strict=True)]
    for row in order:  # and those of all before it in its line, wherever they lie
        if parent[row] >= 0:
            positions[row] |= positions[parent[row]]
    for before, at in zip(parent, fork, strict=True):
        while before >= 0:  # those further up have it too, as long as it lies in what was theirs
            positions[before].add(at)
            before = parent[before] if at <= fork[before] else -1
    for row in order:
        if parent[row] >= 0:
            positions[row] |= {place for place in positions[parent[row]] if place < fork[row]}
    return positions


def _parents_first(parent: list[int]) -> list[int]:
    """The rows, each behind the one it left. DataError for rollouts that left one another. parent: -1 for none."""
    order: dict[int, None] = {}
    for first in range(len(parent)):
        chain: dict[int, None] = {}
        row = first
        while row >= 0 and row not in order:
            if row in chain:
                raise DataError(
                    f"row {row}, column 'parent_id': the rollouts it left lead back to it; or --set key=prefix"
                )
            chain[row] = None
            row = parent[row]
        order.update(dict.fromkeys(reversed(chain)))
    return list(order)


def _measure(
    nodes: Nodes, branchings: Branchings, own: Array, length: Array, right: Array, which: Literal["nearest", "first"]
) -> tuple[Array, Array]:
    """([R] length of the shortest right rollout of the group, [R] policy tokens before the last branching in common with
    it). A rollout that is not right is its own measure. own: [T] policy tokens before each. which: of several shortest."""
    groups, rows = nodes.groups, branchings.rows
    shortest = groups.spread(groups.min(np.where(right, length, np.iinfo(np.int64).max)))
    models = right & (length == shortest)
    if which == "first":
        models &= groups.cumsum(models) == 1
    shared = np.zeros(max(int(branchings.which.max(initial=-1)), int(branchings.end.max(initial=-1))) + 2, bool)
    shared[branchings.which[models[rows.ids]]] = True
    shared[branchings.end[models]] = True
    shared[-1] = False  # where -1 went
    before = np.append(own, 0)[np.minimum(nodes.tokens.starts[rows.ids] + branchings.start, len(own))]
    inside = branchings.start < nodes.tokens.sizes[rows.ids]
    common = rows.max(np.where(shared[branchings.which] & inside, before, 0))
    return np.where(right, shortest, length), np.where(right, common, 0)
