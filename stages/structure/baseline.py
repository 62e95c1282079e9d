"""Conventions every outcome baseline shares: dead groups, groups of one, and which std."""

from typing import Literal

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array, Segments

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


def centred(reward: Array, groups: Segments) -> Array:
    """[R] reward minus its group's mean; exactly 0 in a group whose rewards are all equal.

    The mean of equal numbers is off by an ulp (0.7 twelve times), which a small std + eps would blow up.
    """
    return np.where(groups.spread(groups.constant(reward)), 0.0, reward - groups.spread(groups.mean(reward)))
