"""Small hand-written groups for docstring examples and tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from .kind import Credit


def rollouts_of(
    rewards: Sequence[float],
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    mask: Sequence[Sequence[bool]] | None = None,
    groups: Sequence[int] | None = None,
    left: Sequence[tuple[int, int] | None] | None = None,
) -> Rollouts:
    """Rollouts with the given rewards; by default one token each, all in one group.

    left: the row that each rollout left, and at which response token; None for one that began at the prompt.
    """
    tokens = tokens if tokens is not None else [[7]] * len(rewards)
    mask = mask if mask is not None else [[True] * len(row) for row in tokens]
    groups = groups if groups is not None else [0] * len(rewards)
    bare = Rollouts(
        pa.table(
            {
                "rollout_id": [f"r{row}" for row in range(len(rewards))],
                "group_id": [f"g{group}" for group in groups],
                "reward": pa.array(rewards, pa.float64()),
            }
        )
    )
    columns: dict[str, Any] = {
        "token.id": Ragged.from_lists(tokens, np.int32), "token.mask": Ragged.from_lists(mask, bool)
    }  # fmt: skip
    if left is not None:
        columns["parent_id"] = pa.array([each and f"r{each[0]}" for each in left], pa.string())
        columns["fork"] = pa.array([each and each[1] for each in left], pa.int32())
    return bare.with_columns(columns)


def credit_of(rewards: Sequence[float], **kwargs: Any) -> Credit:
    """The same as a method sees them, with their prefix tree."""
    from ..structure.prefix_tree import add_prefix_tree

    return Credit(add_prefix_tree(rollouts_of(rewards, **kwargs)))
