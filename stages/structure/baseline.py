"""Conventions every outcome baseline shares: dead groups, groups of one, and which std."""

from typing import Literal

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array, Segments
from .statistics import divide_by_spread, weighted_mean, weighted_std

Singleton = Literal["zero", "raw", "error"]


def settle_singletons(advantage: Array, reward: Array, groups: Segments, singleton: Singleton) -> Array:
    """What a group of one gets, which has no sibling to be compared with: 0, its raw reward, or a DataError.

    advantage, reward: [R]. Libraries disagree: verl's GRPO gives the raw reward, TRL gives 0. Ours is 0.
    """
    alone = groups.spread(groups.sizes == 1)
    if not alone.any():
        return advantage
    if singleton == "error":
        row = int(np.flatnonzero(alone)[0])
        raise DataError(f"row {row} is alone in its group; sample --n 2 or more, or --set singleton=zero")
    return np.where(alone, reward if singleton == "raw" else 0.0, advantage)


def centre(reward: Array, groups: Segments) -> Array:
    """[R] reward minus its group's mean; exactly 0 in a group whose rewards are all equal.

    The mean of equal numbers is off by an ulp (0.7 twelve times), which a small std + eps would blow up.
    """
    return np.where(groups.spread(groups.constant(reward)), 0.0, reward - groups.spread(groups.mean(reward)))


def normalise(
    reward: Array,
    groups: Segments,
    *,
    weights: Array | None = None,
    center: Literal["mean", "none"] = "mean",
    scale: Literal["std", "none"] = "std",
    ddof: int = 1,
    eps: float = 1e-6,
    singleton: Singleton = "zero",
) -> Array:
    """[R] reward minus the mean of its group, over the group's std + eps; exactly 0 in a group of equal rewards.

    weights: [R] how often each rollout counts in mean and std; once without it. For the other options see `grpo`.
    """
    if weights is None:
        weights = np.ones(len(reward), np.int64)
    advantage = reward
    if center == "mean":
        advantage = reward - groups.spread(weighted_mean(reward, weights, groups))
    if scale == "std":
        advantage = divide_by_spread(advantage, groups.spread(weighted_std(reward, weights, groups, ddof=ddof)), eps)
    if center == "mean" or scale == "std":
        # The mean of equal numbers may be off by an ulp (0.7 twelve times), which std + eps would blow up.
        advantage = np.where(groups.spread(groups.constant(reward)), 0.0, advantage)
    return settle_singletons(advantage, reward, groups, singleton)
