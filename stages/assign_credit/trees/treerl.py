"""TreeRL: how much better a node of the tree is than the prompt, and than its parent."""

from typing import Literal

import numpy as np

from ....formats.errors import UsageError
from ....formats.segments import Array
from ...structure.baseline import centre, settle_singletons
from ...structure.nodes import Nodes
from ..kind import Singleton, credit_method

NOTHING = 1e-8  # a difference of values that the released code takes for none


@credit_method(
    needs=("reward", "node.id", "node.start", "node.end"),
    granularity="node",
    methodology="monte-carlo",
    source="TreeRL (ACL 2025, arXiv:2506.11902)",
    evidence="second-hand",
    presets={
        "treerl": {"weigh": "value", "damp": "sqrt", "terms": "both", "fill_zeros": True, "singleton": "error"},
    },
)
def treerl(
    reward: Array,
    nodes: Nodes,
    mask: Array,
    truncated: Array | None = None,
    *,
    weigh: Literal["difference", "value"] = "difference",
    damp: Literal["sqrt", "count", "none"] = "sqrt",
    terms: Literal["both", "global", "local"] = "both",
    norm: Literal["none", "step", "token"] = "none",
    fill_zeros: bool = False,
    unfinished: float | None = None,
    singleton: Singleton = "zero",
) -> Array:
    """Global plus local advantage of each node, on the node's tokens, damped by the leaves below it.

        r_i  = R_i - mean of the group's other rollouts
        V(n) = mean r_i over the L(n) rollouts that pass through n;  V(root) = 0
        A(n) = [(V(n) - V(root)) + (V(n) - V(parent))] / √L(n)                            weigh = "difference"
        A(n) = W(n) + (W(n) - W(parent))  with  W(n) = V(n) / √L(n)                        weigh = "value"

    The first term is global, the second local. The root of L(n) damps what stands in many rollouts: every rollout that
    passes through a node trains its tokens.

    Args:
        reward: [R] reward units.
        nodes: of each group's tree (`tree-build`).
        mask: [T] the policy wrote the token.
        truncated: [R] bool, the response ended at the token limit, for `unfinished`; None: no response did.
        weigh: damp the "difference" (paper), or each "value" before the difference is taken (released code).
        damp: divide by the "sqrt" of L(n), by L(n) itself ("count"), or by 1 ("none").
        terms: "both", or the "global" or the "local" one alone.
        norm: for weigh="value", take from every V(n), the root's too, its mean over the tree before it is damped: a node
            counts L(n) times ("step"), or L(n) times for each of its tokens ("token"), of which the root has none.
        fill_zeros: a node whose local difference is 0 (below 1e-8) gets that of the node before it on the path, filled
            already; the first of a path keeps its own (released code).
        unfinished: r_i of a rollout cut by the token limit, -1 as an option of the released code; None compares it like
            any other. With weigh="value", V(root) is then the mean r_i, no longer 0.
        singleton: what a group of one gets as r_i: "zero", its "raw" reward, or an "error".

    Returns:
        [T] advantages, reward units; 0 where the mask is false. A group of equal rewards gets exactly 0 (with
        unfinished=None).

    Raises:
        DataError: a missing reward or path; a group of one with singleton="error". UsageError: a norm with
            weigh="difference", which it would not change.

    Departures: 1. the paper's form, known second-hand, is the default; what its code does, which was read, is the preset
        treerl. 2. The code keeps 16 of 30 leaves and damps by those kept; here all rollouts of the file count. 3. Equal
        responses are one leaf node here, and so are equal pieces of them. 4. The code can also mix in each leaf's own
        r_i, compare a node with all before it, or average children rather than leaves; its scripts do not, and these
        are not offered.

    >>> from apportion.formats.segments import Segments
    >>> two = Segments.of_sizes(np.array([2, 2]))
    >>> nodes = Nodes.of_tokens(np.array([5, 7, 5, 8]), two, Segments.of_sizes(np.array([2])))
    >>> treerl(np.array([1.0, 0.0]), nodes, np.ones(4, bool)).tolist()
    [0.0, 2.0, 0.0, -2.0]
    """
    if norm != "none" and weigh == "difference":
        raise UsageError(
            f"credit method treerl: norm={norm} takes the same from all values, which changes no difference; it needs "
            "weigh=value"
        )
    groups = nodes.groups
    size = groups.spread(groups.sizes)
    relative = settle_singletons(
        centre(reward, groups) * (size / np.maximum(size - 1, 1)), reward, groups, singleton
    )  # fmt: skip
    if unfinished is not None and truncated is not None:
        relative = np.where(truncated, unfinished, relative)
    leaves = np.maximum(nodes.below(np.ones(len(reward))), 1)
    value = nodes.below(relative) / leaves
    if weigh == "difference" or unfinished is None:
        value[: len(groups)] = 0.0  # of the root: a sum of what is left over, 0 but for rounding
    if norm != "none":
        value = value - _mean_over_tree(nodes, mask, value, leaves, norm)
    divisor = {"sqrt": np.sqrt(leaves), "count": leaves, "none": np.ones(len(leaves))}[damp]
    parent = np.maximum(nodes.parent, 0)
    if weigh == "value":
        value, divisor = value / divisor, np.ones(len(divisor))
    node = nodes.node
    change = (value - value[parent])[node]
    if fill_zeros:
        change = _fill(change, nodes)
    whole = {"both": value[node] + change, "global": value[node], "local": change}[terms]
    return np.where(mask, nodes.places_on_tokens(whole / divisor[node]), 0.0)


def _mean_over_tree(nodes: Nodes, mask: Array, value: Array, leaves: Array, norm: Literal["step", "token"]) -> Array:
    """[N] the mean value of the node's tree, each node counted once for every rollout below, or for each token they have
    in it. Nodes without a token of the policy's, but for the root, take no part."""
    written = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))
    first = nodes.tokens.starts[nodes.paths.ids]
    weight = np.zeros(len(value))
    weight[nodes.node] = written[first + nodes.end] - written[first + nodes.start]  # in every rollout the same
    if norm == "step":
        weight = (weight > 0).astype(np.float64)
        weight[: len(nodes.groups)] = 1.0
    tree = nodes.tree
    total = np.bincount(tree, weights=weight * leaves, minlength=len(nodes.groups))
    sums = np.bincount(tree, weights=weight * leaves * value, minlength=len(nodes.groups))
    return (sums / np.where(total > 0, total, 1.0))[tree]


def _fill(change: Array, nodes: Nodes) -> Array:
    """[P] each place's change, where that is 0 the last before it on its path that is not."""
    if not len(change):
        return change
    first = nodes.paths.spread(nodes.paths.starts)
    last = np.maximum.accumulate(np.where(np.abs(change) >= NOTHING, np.arange(len(change)), -1))
    return change[np.maximum(last, first)]
