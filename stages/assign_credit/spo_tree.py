"""SPO-tree: what each edge of the tree changed in the chance of success, children counted equally."""

from typing import Literal

import numpy as np

from ...formats.segments import Array
from ._method import Credit, credit_method
from ._nodes import Nodes
from ._values import token_signal


@credit_method(
    needs=("reward", "node.id", "node.start", "node.end", "token.logprob"),
    granularity="node",
    source="arXiv:2505.23564 (SPO-tree)",
    evidence="code",
)
def spo_tree(
    credit: Credit,
    *,
    scale: Literal["rloo", "grpo"] = "rloo",
    eps: float = 1e-8,
    mask_above: float | None = 0.9,
    shared: Literal["each", "split"] = "each",
) -> Array:
    """Value of a node minus that of its parent, on the node's unlikely tokens.

        V(n) = mean over n's children of V(child); a rollout that ends at n is a child with value R
        A(n) =  V(n) - V(parent)                             scale = "rloo"
        A(n) = (V(n) - V(parent)) / (std_children + eps)     scale = "grpo": population std over the parent's children
        A_t  = A(n) on the tokens of n; 0 where p_t > mask_above

    Children count equally, however many rollouts are below each; where branches stop early this differs from the mean
    over rollouts.

    Args:
        credit: uses reward [R], reward units, the node ruler of `tree-build` or of a branching strategy, and
            token.logprob [T], nat.
        scale: "rloo", or "grpo" to divide by the spread of the siblings.
        eps: added to the std.
        mask_above: tokens more probable than this get 0; None keeps all.
        shared: "each" rollout that passes through a node gets the node's whole credit; "split" divides it by their
            number, so that an edge weighs as much in the loss as one sample of it, which is what the paper trains on.

    Returns:
        [T] advantages: reward units ("rloo") or standard deviations ("grpo"); 0 where the mask is false. Where all
        rollouts below the parent have the same reward it is exactly 0: in a group of equal rewards, or of one.

    Raises:
        DataError: a missing reward, path or log-probability.

    Departures: 1. In the paper an edge is one training sample, at most 32 a question, old ones replayed; here its
        tokens stand in every rollout that passes through (see shared). 2. The released trainer also leaves probable
        tokens out of the loss's denominator and whitens the rest per update; here they have credit 0 and nothing is
        whitened. 3. The paper cuts edges at a number of tokens; here they are what the node ruler says.

    >>> from apportion.formats.ragged import Ragged
    >>> from apportion.stages.assign_credit._examples import credit_of
    >>> import numpy as np
    >>> credit = credit_of([1.0, 0.0, 1.0], tokens=[[5, 7], [5, 8], [6]])
    >>> logprob = Ragged.from_lists([[-1, -1], [-1, -1], [-1]], np.float32)
    >>> spo_tree(Credit(credit.rollouts.with_columns({"token.logprob": logprob}))).tolist()
    [-0.25, 0.5, -0.25, -0.5, 0.25]
    """
    nodes, reward = Nodes.of(credit), credit.reward
    sums = np.bincount(nodes.leaf, weights=reward, minlength=len(nodes.parent))
    children = np.bincount(nodes.leaf, minlength=len(nodes.parent)).astype(np.float64)
    np.add.at(children, nodes.parent[nodes.parent >= 0], 1.0)
    for level in nodes.levels():
        np.add.at(sums, nodes.parent[level], sums[level] / children[level])
    value = sums / np.maximum(children, 1)

    alike = nodes.alike(reward)
    inner = np.flatnonzero(nodes.parent >= 0)
    parent = nodes.parent[inner]
    change = np.zeros(len(value))
    change[inner] = np.where(alike[parent], 0.0, value[inner] - value[parent])
    if scale == "grpo":
        variance = np.bincount(nodes.leaf, weights=(reward - value[nodes.leaf]) ** 2, minlength=len(value))
        np.add.at(variance, parent, change[inner] ** 2)
        change[inner] = change[inner] / (np.sqrt(variance / np.maximum(children, 1))[parent] + eps)
    if shared == "split":
        change = change / np.maximum(nodes.below(np.ones(len(reward))), 1)
    advantage = nodes.on_tokens(credit, change)
    if mask_above is not None:
        advantage = np.where(np.exp(token_signal(credit, "token.logprob")) > mask_above, 0.0, advantage)
    return np.where(credit.mask, advantage, 0.0)
