"""SPO-tree: what each edge of the tree changed in the chance of success, every drawn child counted once."""

from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array
from ...core.ranges import AtLeast, Between
from ...structure.cuts import is_above
from ...structure.nodes import Nodes
from ..kind import credit_method


@credit_method(
    needs=("reward", "node.id", "node.start", "node.end", "token.logprob"),
    granularity="node",
    methodology="monte-carlo",
    source="arXiv:2505.23564 (SPO-tree)",
    evidence="code",
)
def spo_tree(
    reward: Array,
    nodes: Nodes,
    logprob: Array,
    mask: Array,
    *,
    scale: Literal["rloo", "grpo"] = "rloo",
    eps: Annotated[float, AtLeast(0)] = 1e-8,
    mask_above: Annotated[float | None, Between(0, 1)] = 0.9,
    shared: Literal["each", "split"] = "each",
) -> Array:
    """Value of a node minus that of its parent, on the node's unlikely tokens.

        V(n) = Σ_c m_c · V(c) / Σ_c m_c over n's children; a rollout that ends at n is a child with value R, m = 1
        A(n) =  V(n) - V(parent)                             scale = "rloo"
        A(n) = (V(n) - V(parent)) / (std_children + eps)     scale = "grpo": population std over the parent's children, m_c of each
        A_t  = A(n) on the tokens of n; 0 where p_t > mask_above

    m_c says how often the child was drawn: `tree-build` makes one node of siblings with the same tokens, where the paper
    has a child for each sample. A rollout drew a node unless it has the tokens from the rollout it left (`fork`, which the
    branching strategies write). So a child does not count by the rollouts below it, and where branches stop early V
    differs from the mean over rollouts. In a file of independent rollouts each drew all its nodes, and V is that mean.

    Args:
        reward: [R] reward units.
        nodes: of each group's tree (`tree-build`), and what rollouts carry from others.
        logprob: [T] of the token when it was sampled, nat.
        mask: [T] the policy wrote the token.
        scale: "rloo", or "grpo" to divide by the spread of the siblings.
        eps: added to the std.
        mask_above: tokens more probable than this get 0; None keeps all.
        shared: "each" rollout that passes through a node gets the node's whole credit; "split" shares it among them, so
            that in sum a token counts once for each time it was drawn, as in the paper, where every sample of an edge is
            one row of training data.

    Returns:
        [T] advantages: reward units ("rloo") or standard deviations ("grpo"); 0 where the mask is false. Where all
        rollouts below the parent have the same reward it is exactly 0: in a group of equal rewards, or of one.

    Raises:
        DataError: a missing reward, path or log-probability.

    Departures: 1. In the paper an edge is one training sample, at most 32 a question, old ones replayed; here its
        tokens stand in every rollout that passes through (see shared). 2. The released trainer also leaves probable
        tokens out of the loss's denominator and whitens the rest per update; here they have credit 0 and nothing is
        whitened. 3. The paper cuts edges at a number of tokens; here they are what the node ruler says.

    >>> from apportion.formats.segments import Segments
    >>> tokens, groups = Segments.of_sizes(np.array([2, 2, 1])), Segments.of_sizes(np.array([3]))
    >>> nodes = Nodes.of_tokens(np.array([5, 7, 5, 8, 6]), tokens, groups)
    >>> spo_tree(np.array([1.0, 0.0, 1.0]), nodes, np.full(5, -1.0), np.ones(5, bool)).round(4).tolist()
    [-0.1667, 0.5, -0.1667, -0.5, 0.3333]
    """
    samples = nodes.samples()
    sums = np.bincount(nodes.leaf, weights=reward, minlength=len(nodes.parent))
    children = np.bincount(nodes.leaf, minlength=len(nodes.parent)).astype(np.float64)
    np.add.at(children, nodes.parent[nodes.parent >= 0], samples[nodes.parent >= 0])
    for level in nodes.levels():
        np.add.at(sums, nodes.parent[level], samples[level] * sums[level] / children[level])
    value = sums / np.maximum(children, 1)

    alike = nodes.alike(reward)
    inner = np.flatnonzero(nodes.parent >= 0)
    parent = nodes.parent[inner]
    change = np.zeros(len(value))
    change[inner] = np.where(alike[parent], 0.0, value[inner] - value[parent])
    if scale == "grpo":
        variance = np.bincount(nodes.leaf, weights=(reward - value[nodes.leaf]) ** 2, minlength=len(value))
        np.add.at(variance, parent, samples[inner] * change[inner] ** 2)
        change[inner] = change[inner] / (np.sqrt(variance / np.maximum(children, 1))[parent] + eps)
    advantage = nodes.on_tokens(change)
    if shared == "split":
        advantage = advantage * nodes.drawn_share()
    if mask_above is not None:
        advantage = np.where(is_above(logprob, mask_above), 0.0, advantage)
    return np.where(mask, advantage, 0.0)
