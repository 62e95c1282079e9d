"""TreeRL: how much better a node of the tree is than the prompt, and than its parent."""

from typing import Literal

import numpy as np

from ...formats.segments import Array
from ._baseline import centred, settle_singletons
from ._method import Credit, Singleton, credit_method
from ._nodes import Nodes


@credit_method(
    needs=("reward", "node.id", "node.start", "node.end"),
    granularity="node",
    source="TreeRL (ACL 2025, arXiv:2506.11902)",
    evidence="second-hand",
)
def treerl(
    credit: Credit,
    *,
    weigh: Literal["difference", "value"] = "difference",
    fill_zeros: bool = False,
    unfinished: float | None = None,
    singleton: Singleton = "zero",
) -> Array:
    """Global plus local advantage of each node, on the node's tokens, damped by the leaves below it.

        r_i  = R_i - mean of the group's other rollouts
        V(n) = mean r_i over the L(n) rollouts that pass through n;  V(root) = 0
        A(n) = [(V(n) - V(root)) + (V(n) - V(parent))] / √L(n)                            weigh = "difference"
        A(n) = 2 · W(n) - W(parent)  with  W(n) = V(n) / √L(n),  W(root) = 0               weigh = "value"

    The root damps what stands in many rollouts: every rollout that passes through a node trains its tokens.

    Args:
        credit: uses reward [R], reward units, and the node ruler of `tree-build` or of a branching strategy.
        weigh: damp the "difference" (paper), or each "value" before the difference is taken (released code).
        fill_zeros: a node whose credit is exactly 0 gets that of the node before it on the path (released code).
        unfinished: r_i of a rollout cut by the token limit, -1 as an option of the released code; None compares it like
            any other.
        singleton: what a group of one gets as r_i: "zero", its "raw" reward, or an "error".

    Returns:
        [T] advantages, reward units; 0 where the mask is false. A group of equal rewards gets exactly 0 (with
        unfinished=None).

    Raises:
        DataError: a missing reward or path; a group of one with singleton="error".

    Departures: 1. the paper's form, known second-hand, is the default; what its code does, which was read, is
        weigh="value" and fill_zeros. 2. The code keeps 16 of 30 leaves and damps by those kept; here all rollouts of
        the file count. 3. Its means of all tokens or steps, taken off the rewards before (off by default there), are
        not offered. 4. Equal responses are one leaf node here.

    >>> from apportion.stages.assign_credit._examples import credit_of
    >>> treerl(credit_of([1.0, 0.0], tokens=[[5, 7], [5, 8]])).tolist()
    [0.0, 2.0, 0.0, -2.0]
    """
    groups, reward, nodes = credit.groups, credit.reward, Nodes.of(credit)
    size = groups.spread(groups.sizes)
    relative = settle_singletons(
        centred(reward, groups) * (size / np.maximum(size - 1, 1)), reward, groups, singleton
    )  # fmt: skip
    if unfinished is not None:
        relative = np.where(credit.rollouts.flagged("truncated"), unfinished, relative)
    leaves = np.maximum(nodes.below(np.ones(len(reward))), 1)
    value = nodes.below(relative) / leaves
    value[: len(groups)] = 0.0
    parent = np.maximum(nodes.parent, 0)
    if weigh == "difference":
        advantage = (2 * value - value[parent]) / np.sqrt(leaves)
    else:
        damped = value / np.sqrt(leaves)
        advantage = 2 * damped - damped[parent]
    per_place = advantage[nodes.node]
    if fill_zeros:
        per_place = _last_nonzero(per_place, nodes)
    return np.where(credit.mask, nodes.places_on_tokens(credit, per_place), 0.0)


def _last_nonzero(values: Array, nodes: Nodes) -> Array:
    """[P] each place's value, or the last before it on its path that is not 0."""
    if not len(values):
        return values
    last = np.maximum.accumulate(np.where(values != 0, np.arange(len(values)), -1))
    return np.where(last >= nodes.paths.spread(nodes.paths.starts), values[np.maximum(last, 0)], 0.0)
