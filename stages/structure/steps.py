"""Steps of rollouts as flat arrays, and credit of steps on their tokens."""

from dataclasses import dataclass

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array, Segments
from .batch import Credit


@dataclass(frozen=True, eq=False)
class Steps:
    """S steps of R rollouts. rows: steps [S] of each rollout; start, end: [S] response tokens, [start, end)."""

    rows: Segments
    start: Array
    end: Array


def steps_of(credit: Credit) -> Steps:
    """The step ruler. DataError for a rollout without steps, since nothing could be said of its tokens."""
    starts, ends = credit.rollouts.ragged("step.start"), credit.rollouts.ragged("step.end")
    if starts.present is not None:
        row = int(np.flatnonzero(~starts.present)[0])
        raise DataError(f"row {row}, column 'step.start': missing, expected the rollout's steps; split it again")
    return Steps(starts.segments, starts.values.astype(np.int64), ends.values.astype(np.int64))


def on_tokens(credit: Credit, steps: Steps, values: Array) -> Array:
    """[T] the value of each token's step; 0 for a token in none. values: [S]."""
    total = int(credit.tokens.offsets[-1])
    first = credit.tokens.starts[steps.rows.ids]
    begin, end = first + steps.start, first + steps.end
    # Between the steps, 0: one repeat over gap, step, gap, step … gap.
    sizes = np.empty(2 * len(begin) + 1, np.int64)
    sizes[0::2] = np.append(begin, total) - np.concatenate(([0], end))
    sizes[1::2] = end - begin
    if (sizes < 0).any():
        raise DataError("the steps are not in order, or overlap; `apportion validate` says where")
    spaced = np.zeros(len(sizes), values.dtype)
    spaced[1::2] = values
    return np.repeat(spaced, sizes)
