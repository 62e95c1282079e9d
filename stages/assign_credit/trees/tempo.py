"""TEMPO: the group's reward, corrected where the rollout leaves its siblings (prefix-tree temporal difference)."""

from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...structure.baseline import centre, settle_singletons
from ...structure.nodes import Nodes
from ..kind import Singleton, credit_method


@credit_method(
    needs=("reward", "node.id", "node.start", "node.end"),
    granularity="token",
    methodology="temporal-difference",
    source="arXiv:2509.18314",
    evidence="code",
    presets={"tempo": {"scale": "std", "ddof": 1, "eps": 1e-6, "multi_turn": "stop", "singleton": "error"}},
    system=("TEMPO",),
)
def tempo(
    reward: Array,
    nodes: Nodes,
    mask: Array,
    *,
    scale: Literal["std", "none"] = "std",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    multi_turn: Literal["stop", "skip"] = "stop",
    singleton: Singleton = "zero",
) -> Array:
    """GRPO's centred reward plus the one-step change of the prefix value, per token.

        V(s)  = mean reward of the group's rollouts that pass through the prefix s;  V(root) = mean_g
        A_it  = (R_i - mean_g + V(s_{t+1}) - V(s_t)) / (std_g + eps)          scale = "std"
        A_it  =  R_i - mean_g + V(s_{t+1}) - V(s_t)                           scale = "none"

    The prefix value changes only at the first token of a tree node, the token at which a rollout diverges from a
    sibling; elsewhere this is GRPO. Over a rollout the changes sum to V(whole response) - mean_g.

    Args:
        reward: [R] reward units.
        nodes: of each group's prefix tree (`tree-build`, by token).
        mask: [T] the policy wrote the token.
        scale: "std", or "none" for the Dr.GRPO style.
        ddof: divisor n - ddof of the std; 1 as in the released code.
        eps: added to the std.
        multi_turn: "stop" ends the prefix comparison at the first token an environment wrote, later tokens get the
            GRPO value (released code); "skip" goes on over environment tokens, which get 0 themselves (ours, a guess).
        singleton: what a group of one gets: "zero", its "raw" reward, or an "error".

    Returns:
        [T] advantages: in standard deviations ("std") or reward units ("none"); 0 where the mask is false. A group of
        equal rewards gets exactly 0.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. a group of one is NaN in the released code, here 0, and an error under the preset tempo. 2. The released
        code compares padded ids, where a pad id equal to a live id makes false matches; here a rollout takes part only
        while it lasts.

    >>> from apportion.formats.segments import Segments
    >>> two = Segments.of_sizes(np.array([2, 2]))
    >>> nodes = Nodes.of_tokens(np.array([5, 7, 5, 8]), two, Segments.of_sizes(np.array([2])))
    >>> tempo(np.array([1.0, 0.0]), nodes, np.ones(4, bool), scale="none").tolist()
    [0.5, 1.0, -0.5, -1.0]
    """
    groups, tokens, paths = nodes.groups, nodes.tokens, nodes.paths
    base = settle_singletons(centre(reward, groups), reward, groups, singleton)
    advantage = tokens.spread(base)

    rows = paths.ids
    value = np.bincount(nodes.node, weights=reward[rows]) / np.maximum(np.bincount(nodes.node), 1)
    value = value[nodes.node]
    previous = np.concatenate(([0.0], value[:-1]))
    heads = paths.starts[paths.sizes > 0]
    previous[heads] = groups.spread(groups.mean(reward))[rows[heads]]
    change = np.where(groups.spread(groups.constant(reward))[rows], 0.0, value - previous)

    starts = nodes.start
    places = tokens.starts[rows] + starts
    if multi_turn == "stop":
        written = np.where(mask, np.iinfo(np.int64).max, tokens.positions)
        change = np.where(starts < tokens.min(written)[rows], change, 0.0)
    filled = tokens.sizes[rows] > starts
    np.add.at(advantage, places[filled], change[filled])

    if scale == "std":
        divisor = groups.spread(groups.std(reward, ddof=ddof)) + eps
        if singleton == "raw":
            divisor = np.where(groups.spread(groups.sizes == 1), 1.0, divisor)
        advantage = advantage / tokens.spread(divisor)
    return np.where(mask, advantage, 0.0)
