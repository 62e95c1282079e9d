"""GRPO: judge each rollout against the mean and spread of its group."""

from typing import Annotated, Literal

from ....formats.errors import UsageError
from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast
from ...structure.baseline import Singleton, normalise
from ..kind import credit_method


@credit_method(
    granularity="rollout",
    methodology="monte-carlo",
    source="arXiv:2402.03300, §4.1.2",
    evidence="code",
    presets={
        "verl": {"eps": 1e-6, "singleton": "raw"},
        "trl": {"eps": 1e-4},
        "openrlhf": {"eps": 1e-9},
        "skyrl": {"eps": 1e-6, "singleton": "raw"},
        "rllm": {"ddof": 0, "eps": 1e-6, "singleton": "raw"},
        "open-instruct": {"scale": "none"},
        "prime-rl": {"scale": "none"},
        "torchtune": {"eps": 1e-4},
    },
)
def grpo(
    reward: Array,
    groups: Segments,
    tokens: Segments | None = None,
    mask: Array | None = None,
    *,
    center: Literal["mean", "none"] = "mean",
    scale: Literal["std", "none"] = "std",
    unit: Literal["rollout", "token"] = "rollout",
    ddof: Annotated[int, AtLeast(0)] = 1,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """Group-normalised reward of every rollout, the same on all its tokens.

        A_i = (R_i - mean_g) / (std_g + eps)          scale = "std"
        A_i =  R_i - mean_g                           scale = "none"

    The std is over the group, with divisor n - ddof; eps is added to it. With scale="none" this is `dr_grpo`. For the std
    of the whole batch (TRL's scale_rewards="batch") see `lite_ppo`.

    Args:
        reward: [R] reward units.
        groups: rollouts [R] of each group.
        tokens, mask: response tokens [T] of each rollout, and which of them the policy wrote; for unit="token".
        center: take off the group's "mean", or "none", which leaves the raw reward (with scale="none" plain REINFORCE).
        scale: divide by the group's std, or not at all.
        unit: mean and std count each "rollout" once, or as often as it has policy "token"s.
        ddof: 1 sample std (verl, TRL, OpenRLHF), 0 population std.
        eps: added to the std: 1e-6 verl (ours), 1e-4 TRL, 1e-9 OpenRLHF.
        singleton: what a group of one gets: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [R] advantages: in standard deviations ("std") or reward units ("none"). A group of equal rewards gets exactly 0,
        unless neither center nor scale is on.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. the paper does not say which std; 1 is what all three large implementations compute.

    >>> from apportion.formats.segments import Segments
    >>> import numpy as np
    >>> grpo(np.array([1.0, 0.0, 0.0, 1.0, 0.5]), Segments.of_sizes([5]), scale="none").tolist()
    [0.5, -0.5, -0.5, 0.5, 0.0]
    """
    lengths = None
    if unit == "token":
        if tokens is None or mask is None:
            raise UsageError("grpo with unit=token counts tokens; give it tokens and mask")
        lengths = tokens.sum(mask)
    return normalise(
        reward, groups, weights=lengths, center=center, scale=scale, ddof=ddof, eps=eps, singleton=singleton
    )
