"""Small hand-written rollouts with steps, for docstring examples and tests."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ...formats.ragged import Ragged
from ._examples import rollouts_of
from .kind import Credit


def stepped(
    rewards: Sequence[float],
    sizes: Sequence[Sequence[int]],
    *,
    mask: Sequence[Sequence[bool]] | None = None,
    groups: Sequence[int] | None = None,
    states: Sequence[Sequence[str]] | None = None,
    **columns: Sequence[Sequence[float]],
) -> Credit:
    """Rollouts whose steps have the given sizes in tokens; `columns`: leaves of the step ruler, a number a step."""
    tokens = [list(range(sum(row))) for row in sizes]
    ends = [np.cumsum(row, dtype=np.int64).tolist() for row in sizes]
    starts = [[0, *row[:-1]] if row else [] for row in ends]
    rulers = {"step.start": Ragged.from_lists(starts, np.int32), "step.end": Ragged.from_lists(ends, np.int32)}
    for name, lists in columns.items():
        rulers[f"step.{name}"] = Ragged.from_lists(lists, np.float64)
    batch = rollouts_of(rewards, tokens=tokens, mask=mask, groups=groups).with_columns(rulers)
    if states is not None:
        batch = batch.with_columns({"step.state": pa.array(states, pa.list_(pa.string()))})
    return Credit(batch)
