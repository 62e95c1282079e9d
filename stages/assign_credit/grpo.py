"""GRPO: judge each rollout against the mean and spread of its group."""

from typing import Literal

from ...formats.segments import Array
from ._baseline import centred, settle_singletons
from ._method import Credit, Singleton, credit_method


@credit_method(
    granularity="rollout",
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
    credit: Credit,
    *,
    scale: Literal["std", "none"] = "std",
    ddof: int = 1,
    eps: float = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """Group-normalised reward of every rollout, the same on all its tokens.

        A_i = (R_i - mean_g) / (std_g + eps)          scale = "std"
        A_i =  R_i - mean_g                           scale = "none"

    The std is over the group, with divisor n - ddof; eps is added to it. With scale="none" this is the advantage of
    Dr.GRPO, whose other half is the loss aggregation (`train --aggregation seq-mean-token-sum-norm`).

    Args:
        credit: uses reward [R], reward units.
        scale: divide by the group's std, or not at all.
        ddof: 1 sample std (verl, TRL, OpenRLHF), 0 population std.
        eps: added to the std: 1e-6 verl (ours), 1e-4 TRL, 1e-9 OpenRLHF.
        singleton: what a group of one gets: "zero", its "raw" reward (verl), or an "error".

    Returns:
        [R] advantages: in standard deviations ("std") or reward units ("none"). A group of equal rewards gets exactly 0.

    Raises:
        DataError: a missing reward; a group of one with singleton="error".

    Departures: 1. the paper does not say which std; 1 is what all three large implementations compute.

    >>> import numpy as np
    >>> from apportion.stages.assign_credit._examples import credit_of
    >>> grpo(credit_of([1.0, 0.0, 0.0, 1.0, 0.5]), scale="none").tolist()
    [0.5, -0.5, -0.5, 0.5, 0.0]
    """
    groups, reward = credit.groups, credit.reward
    advantage = centred(reward, groups)
    if scale == "std":
        advantage = advantage / (groups.spread(groups.std(reward, ddof=ddof)) + eps)
    return settle_singletons(advantage, reward, groups, singleton)
