"""HEPO: GRPO where the policy was least certain, nothing elsewhere."""

from typing import Annotated, Literal

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast, Between
from ...structure.baseline import Singleton, normalise
from ..kind import credit_method


@credit_method(
    needs=("reward", "token.entropy"),
    granularity="token",
    methodology="information-theoretic",
    source="the baseline HEPO in TEMPO's code (arXiv:2509.18314); cf. arXiv:2506.01939",
    evidence="code",
    scope="batch",
    presets={"tempo": {"rho": 0.2, "scale": "std", "ddof": 1, "eps": 1e-6, "singleton": "raw"}},
)
def hepo(
    reward: Array,
    entropy: Array,
    groups: Segments,
    tokens: Segments,
    mask: Array,
    *,
    rho: Annotated[float, Between(0, 1)] = 0.2,
    scale: Literal["std", "none"] = "std",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """GRPO's advantage on the policy tokens of highest entropy, over the whole file; 0 on all others.

        A_it = GRPO_i      token t of rollout i is among the k = ⌊rho · N⌋ policy tokens of highest entropy
        A_it = 0           elsewhere

    N are the policy tokens of the whole file, so the share may differ from rollout to rollout. Of tokens with the same
    entropy the earlier ones in the file come first.

    Args:
        reward: [R] reward units.
        entropy: [T] of the distribution that each token was drawn from, nat (`score --with entropy`).
        groups: rollouts [R] of each group.
        tokens: response tokens [T] of each rollout.
        mask: [T] the policy wrote it.
        rho: share of tokens that keep their advantage, 0 to 1.
        scale: divide by the group's std, or not at all, as in `grpo`.
        ddof: divisor n - ddof of the std.
        eps: added to the std.
        singleton: what a group of one gets: "zero", its "raw" reward, or an "error".

    Returns:
        [T] advantages: in standard deviations ("std") or reward units ("none"). A group of equal rewards gets
        exactly 0.

    Raises:
        DataError: a missing reward or entropy; a group of one with singleton="error". UsageError: rho outside 0 to 1.

    Departures: 1. In the released baseline a group of one keeps its raw reward, as under the preset tempo. Groups of equal
        rewards take part in the choice of tokens, as there.

    >>> reward, entropy = np.array([1.0, 0.0]), np.array([0.1, 2.0, 0.3, 0.2, 1.0])
    >>> groups, tokens = Segments.of_sizes(np.array([2])), Segments.of_sizes(np.array([3, 2]))
    >>> hepo(reward, entropy, groups, tokens, np.ones(5, bool), rho=0.4, scale="none").tolist()
    [0.0, 0.5, 0.0, 0.0, -0.5]
    """
    own = np.flatnonzero(mask)
    count = int(rho * len(own) + 1e-9)  # 0.29 · 100 is 28.999…
    chosen = own[_largest(entropy[own], count)]
    per_rollout = normalise(reward, groups, scale=scale, ddof=ddof, eps=eps, singleton=singleton)
    advantage = tokens.spread(per_rollout)
    out = np.zeros(len(mask))
    out[chosen] = advantage[chosen]
    return out


def _largest(values: Array, count: int) -> Array:
    """[count] places of the largest values; of equal ones the first. No sort: only where the cut lies is looked for."""
    if count == 0:
        return np.empty(0, np.int64)
    cut = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > cut)
    return np.concatenate([above, np.flatnonzero(values == cut)[: count - len(above)]])
