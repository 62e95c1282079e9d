"""Small hand-written rollouts with probes, for docstring examples and tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ._examples import rollouts_of
from .kind import Credit


def probed_rollouts(
    rewards: Sequence[float],
    tokens: Sequence[Sequence[int]],
    outcomes: Mapping[tuple[int, int], Sequence[float]],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    probs: Sequence[Sequence[float]] | None = None,
    groups: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Rollouts, Rollouts]:
    """(rollouts, their probes). outcomes: rewards of the probes by (row, response tokens they begin with).

    steps: where each rollout's steps start, by default at every token. probs: probability of each token.
    """
    groups = groups if groups is not None else [0] * len(rewards)
    steps = steps if steps is not None else [list(range(len(row))) for row in tokens]
    ends = [[*start[1:], len(row)] if start else [] for start, row in zip(steps, tokens, strict=True)]
    own = rollouts_of(rewards, tokens=tokens, groups=groups, **kwargs).with_columns(
        {
            "step.start": Ragged.from_lists(steps, np.int32),
            "step.end": Ragged.from_lists(ends, np.int32),
            "purpose": ["train"] * len(rewards),
        }
    )
    if probs is not None:
        own = own.with_columns({"token.logprob": Ragged.from_lists([np.log(row) for row in probs], np.float64)})
    flat = [(row, fork, reward) for (row, fork), each in outcomes.items() for reward in each]
    bare = pa.table(
        {
            "rollout_id": [f"p{place}" for place in range(len(flat))],
            "group_id": [f"g{groups[row]}" for row, _, _ in flat],
            "parent_id": [f"r{row}" for row, _, _ in flat],
            "fork": pa.array([fork for _, fork, _ in flat], pa.int32()),
            "reward": pa.array([reward for _, _, reward in flat], pa.float64()),
            "purpose": ["probe"] * len(flat),
        }
    )
    whole = Ragged.from_lists([[*tokens[row][:fork], 9] for row, fork, _ in flat], np.int32)
    mask = whole.with_values(whole.segments.positions + 1 == whole.segments.spread(whole.segments.sizes))
    return own, Rollouts(bare).with_columns({"token.id": whole, "token.mask": mask})


def probed(
    rewards: Sequence[float],
    tokens: Sequence[Sequence[int]],
    outcomes: Mapping[tuple[int, int], Sequence[float]],
    **kwargs: Any,
) -> Credit:
    """The same as a method sees them."""
    return Credit(*probed_rollouts(rewards, tokens, outcomes, **kwargs))
