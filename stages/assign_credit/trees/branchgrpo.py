"""BranchGRPO: compare the nodes of a tree with the others at their depth, and prune edges from the gradient."""

from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast, Between
from ...structure.nodes import Nodes
from ...structure.statistics import weighted_mean, weighted_std
from ...structure.turns import Siblings
from ..kind import credit_method


@credit_method(
    needs=("reward", "node.id", "node.start", "node.end"),
    needs_with=lambda *, fusion, **_: ("token.logprob",) if fusion == "weighted" else (),
    granularity="node",
    methodology="monte-carlo",
    source="arXiv:2509.06040",
    evidence="code",
    presets={
        "branchgrpo": {
            "fusion": "uniform",
            "ddof": 1,
            "threshold": 1e-6,
            "eps": 1e-8,
            "clip": 5.0,
            "width": "none",
            "shared": "split",
        }
    },
    system=("BranchGRPO",),
)
def branchgrpo(
    reward: Array,
    nodes: Nodes,
    mask: Array,
    logprob: Array | None = None,
    *,
    fusion: Literal["uniform", "weighted"] = "uniform",
    alpha: float = 1.0,
    ddof: Annotated[int, AtLeast(0)] = 1,
    threshold: Annotated[float, AtLeast(0)] = 1e-6,
    eps: Annotated[float, AtLeast(0)] = 1e-8,
    clip: Annotated[float | None, AtLeast(0)] = 5.0,
    prune_depths: Annotated[tuple[int, ...], AtLeast(0)] = (),
    slide_step: Annotated[int, AtLeast(0)] = 0,
    slide_every: Annotated[int, AtLeast(1)] = 30,
    slide_stop: Annotated[int | None, AtLeast(0)] = None,
    width: Literal["none", "branch", "extremes"] = "none",
    ratio: Annotated[float, Between(0, 1)] = 0.5,
    shared: Literal["each", "split"] = "each",
) -> Array:
    """Fused reward of a node, normalised among the nodes of its tree at the same depth, on the node's tokens.

        r(n) = mean reward of the rollouts that pass through n                                  fusion = "uniform"
        r(n) = Σ_c w_c · r(c),  w = softmax(alpha · logp_c) over n's children                   fusion = "weighted"
        A(n) = (r(n) - mean_d) / (std_d + eps)    over the nodes of n's tree at its depth d; 0 where std_d < threshold
        A(n) = 0                                  where n is alone at its depth, or pruned

    logp_c is the mean log-probability of the tokens of c. Among children and at a depth a node counts once for each time
    it was drawn: `tree-build` makes one node of siblings with the same tokens, where the paper has a node for each sample.
    A rollout drew a node unless it has the tokens from the rollout it left (`fork`, which the branching strategies write);
    in a file of independent rollouts each drew all its nodes.

    Depth counts the nodes on the path with tokens of the policy, the prompt is depth 0. Pruning comes last and changes no
    other node's A. For width pruning, a branch is what follows a path's last split; its first node, which the split made,
    is kept, and of the m nodes after it

        the max(1, ⌊ratio · m⌋) of highest A in each branch                     width = "branch" (mode 1)
        k = max(2, ⌊ratio · m⌋) in the whole tree: ⌊k/2⌋ of highest A and       width = "extremes" (mode 2)
            k - ⌊k/2⌋ of lowest

    where of equal A the earlier node comes first.

    Args:
        reward: [R] reward units.
        nodes: of each group's tree (`tree-build`), and what rollouts carry from others.
        mask: [T] the policy wrote the token.
        logprob: [T] of the token when it was sampled, nat, for fusion="weighted".
        fusion: how rewards go up the tree: "uniform" (code's default) or "weighted" by the probability of the edges.
        alpha: 1 over the temperature of that softmax.
        ddof: divisor n - ddof of the std.
        threshold: a depth whose std is less gives 0.
        eps: added to the std.
        clip: A is clipped to ± this; None does not.
        prune_depths: depths whose nodes get 0.
        slide_step: the training step s, for pruned depths that slide towards the prompt, by
            min(⌊s / slide_every⌋, max(0, min(prune_depths) - slide_stop)).
        slide_every: training steps from one shift to the next.
        slide_stop: depth the least pruned one slides to at most; None is that of the tree's last split.
        width: which nodes after the last split are pruned: "none", all but the best of each "branch", or all but the
            "extremes".
        ratio: share that is kept of them.
        shared: "each" rollout that passes through a node gets the node's whole credit; "split" shares it among them, so
            that in sum a token counts once for each time it was drawn, as in the paper, where a sample stands once in the
            loss.

    Returns:
        [T] advantages in standard deviations; 0 where the mask is false. A group of one, or of equal rewards, gets
        exactly 0.

    Raises:
        DataError: a missing reward or path; no token.logprob with fusion="weighted". UsageError: a ratio outside 0 to
            1, slide_every below 1.

    Departures: 1. The paper's trees are of diffusion steps, with all leaves at one depth; all about text is a guess: a
        finished leaf takes part at its own depth only, and for logp_c the code's mean over latent dimensions became one
        over tokens. 2. A rollout that ends where others go on is a child without tokens, of logp 0 (a guess). Equal
        responses are one node and several leaves. 3. A pruned edge leaves the paper's loss; here its credit is 0. 4. An
        edge is in the paper's loss once, here in each rollout that passes through (see shared). 5. There the last split
        is at one depth of the whole tree, here each path has its own (a guess; the same where leaves are at one depth).
        6. A compressed prefix tree (`tree-build`) has a depth per branching, not per step: nothing follows a last split
        there. For widths and depths in steps, build the tree by step. 7. The code's `use_group` is `grpo`.

    >>> tokens, groups = Segments.of_sizes(np.array([2, 2, 2, 2])), Segments.of_sizes(np.array([4]))
    >>> fork = np.array([0, 1, 0, 1])  # the second rollout left the first after one token, and the last the third
    >>> nodes = Nodes.of_tokens(np.array([1, 5, 1, 6, 2, 5, 2, 6]), tokens, groups, fork)
    >>> branchgrpo(np.array([1.0, 0.2, 0.5, 0.4]), nodes, np.ones(8, bool)).round(4).tolist()
    [0.7071, 1.3957, 0.7071, -0.9549, -0.7071, -0.0735, -0.7071, -0.3673]
    """
    written = _count_own_tokens(nodes, mask)
    own = np.bincount(nodes.node, weights=written, minlength=len(nodes.parent)) > 0
    depth = _along_paths(nodes, own)
    tree, samples = nodes.tree, nodes.samples()
    if fusion == "uniform":
        fused = nodes.below(reward) / np.maximum(nodes.below(np.ones(len(reward))), 1)
    else:
        assert logprob is not None
        fused = _weigh(nodes, reward, samples, alpha * _mean_logprob(nodes, np.where(mask, logprob, 0.0), written))
    advantage = np.zeros(len(own))
    advantage[own] = _compare(fused[own], samples[own], Siblings.of(depth[own], tree[own]), ddof, threshold, eps)

    one_leaf = nodes.alike(nodes.leaf.astype(np.float64))
    kept = own.copy()
    if prune_depths:
        last = np.zeros(len(nodes.groups), np.int64)
        np.maximum.at(last, tree[~one_leaf], depth[~one_leaf])
        stop = last if slide_stop is None else np.full_like(last, slide_stop)
        shift = np.minimum(slide_step // slide_every, np.maximum(0, min(prune_depths) - stop))
        kept &= ~np.isin(depth + shift[tree], prune_depths)
    if width != "none":
        after = np.flatnonzero(kept & one_leaf & (_along_paths(nodes, own & one_leaf) > 1))
        branch = np.empty(len(own), np.int64)
        branch[nodes.node] = nodes.leaf[nodes.paths.ids]
        among = (branch if width == "branch" else tree)[after]
        kept[_prune(after, among, advantage[after], depth[after], width, ratio)] = False
    advantage = np.where(kept, advantage, 0.0)
    if clip is not None:
        advantage = np.clip(advantage, -clip, clip)
    on_tokens = nodes.on_tokens(advantage)
    if shared == "split":
        on_tokens = on_tokens * nodes.drawn_share()
    return np.where(mask, on_tokens, 0.0)


def _count_own_tokens(nodes: Nodes, mask: Array) -> Array:
    """[P] how many tokens of each place of a path the policy wrote."""
    before = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))
    first = nodes.tokens.starts[nodes.paths.ids]
    return before[first + nodes.end] - before[first + nodes.start]


def _along_paths(nodes: Nodes, chosen: Array) -> Array:
    """[N] how many nodes from the prompt's child down to each are chosen [N]; 0 for the prompt."""
    count = np.zeros(len(chosen), np.int64)
    count[nodes.node] = nodes.paths.cumsum(chosen[nodes.node]).astype(np.int64)
    return count


def _mean_logprob(nodes: Nodes, own: Array, written: Array) -> Array:
    """[N] nat, mean over the policy's tokens of a node in all rollouts that pass through; 0 where there are none.

    own: [T] log-probability, 0 for tokens of an environment. written: [P] the policy's tokens at each place of a path.
    """
    inside = Segments.of_sizes(nodes.end - nodes.start)
    first = nodes.tokens.starts[nodes.paths.ids] + nodes.start
    of_places = inside.sum(own[inside.positions + inside.spread(first)])
    total = np.bincount(nodes.node, weights=of_places, minlength=len(nodes.parent))
    return total / np.maximum(np.bincount(nodes.node, weights=written, minlength=len(nodes.parent)), 1)


def _weigh(nodes: Nodes, reward: Array, samples: Array, score: Array) -> Array:
    """[N] r(n), the children weighed by softmax of score [N], samples [N] of each; a rollout that ends at n is a child of
    score 0."""
    count = len(nodes.parent)
    ended = np.bincount(nodes.leaf, minlength=count)
    inner = np.flatnonzero(nodes.parent >= 0)
    highest = np.where(ended > 0, 0.0, -np.inf)
    np.maximum.at(highest, nodes.parent[inner], score[inner])
    at_leaf = np.exp(np.where(ended > 0, -highest, -np.inf))
    weight = np.zeros(count)
    weight[inner] = samples[inner] * np.exp(score[inner] - highest[nodes.parent[inner]])
    sums = np.bincount(nodes.leaf, weights=reward, minlength=count) * at_leaf
    weights = ended * at_leaf
    np.add.at(weights, nodes.parent[inner], weight[inner])
    weights = np.where(weights > 0, weights, 1.0)
    for level in nodes.levels():
        np.add.at(sums, nodes.parent[level], weight[level] * sums[level] / weights[level])
    return sums / weights


def _compare(values: Array, samples: Array, siblings: Siblings, ddof: int, threshold: float, eps: float) -> Array:
    """[N] (value - mean) / (std + eps) in each set, samples [N] of each value; 0 in one of one, or with a std of 0 or below
    the threshold."""
    sets, ordered, weights = siblings.sets, values[siblings.order], samples[siblings.order]
    std = weighted_std(ordered, weights, sets, ddof=ddof)
    live = (std > 0) & (std >= threshold)
    centred = ordered - sets.spread(weighted_mean(ordered, weights, sets))
    out = np.empty(len(values))
    out[siblings.order] = np.where(sets.spread(live), centred / sets.spread(np.where(live, std + eps, 1.0)), 0.0)
    return out


def _prune(places: Array, among: Array, advantage: Array, depth: Array, width: str, ratio: float) -> Array:
    """Those of places [M] that are pruned. among: [M], each set is pruned by itself."""
    order = np.lexsort((places, depth, -np.round(advantage, 9), among))  # sums of other order differ in the last digits
    sets = Segments.of_runs(among[order])
    size, rank = sets.spread(sets.sizes), sets.positions
    count = np.floor(size * ratio + 1e-9).astype(np.int64)  # 0.29 · 100 is 28.999…
    if width == "branch":
        gone = rank >= np.maximum(count, 1)
    else:
        count = np.maximum(count, 2)
        gone = (rank >= count // 2) & (rank < size - (count - count // 2))
    return places[order[gone]]
