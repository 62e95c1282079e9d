"""`Segments`: consecutive stretches of a flat axis, and the handful of operations methods are written in.

The rollouts of groups, the steps of rollouts, the tokens of steps: each is an axis cut into consecutive stretches.
A method sees many whole groups at once as flat arrays and never loops over them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Segments:
    """K stretches of an axis of N places. offsets: [K+1] int64, non-decreasing, from 0 to N; a stretch may be empty."""

    offsets: Array

    @classmethod
    def of_sizes(cls, sizes: Array) -> "Segments":
        """Stretches of the given sizes [K], in order."""
        offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        return cls(offsets)

    @classmethod
    def of_runs(cls, keys: Array) -> "Segments":
        """One stretch per run of equal neighbours in keys [N]."""
        if len(keys) == 0:
            return cls(np.zeros(1, np.int64))
        starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        return cls(np.concatenate(([0], starts, [len(keys)])).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def sizes(self) -> Array:
        """[K] int64, places in each stretch."""
        return np.diff(self.offsets)

    @cached_property
    def starts(self) -> Array:
        """[K] int64, first place of each stretch."""
        return self.offsets[:-1]

    @cached_property
    def ids(self) -> Array:
        """[N] int64, which stretch a place belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def positions(self) -> Array:
        """[N] int64, 0-based position of a place inside its stretch."""
        return np.arange(self.offsets[-1]) - self.spread(self.starts)

    def spread(self, per_segment: Array) -> Array:
        """[K] -> [N]: every place gets the value of its stretch."""
        return np.repeat(per_segment, self.sizes)

    def _reduce(self, operation: np.ufunc, values: Array, empty: float) -> Array:
        out = np.full(len(self), empty, dtype=values.dtype)
        filled = self.sizes > 0
        if filled.any():
            out[filled] = operation.reduceat(values, self.starts[filled])
        return out

    def sum(self, values: Array) -> Array:
        """[N] -> [K], accumulated in float64 (int64 for integers and booleans); an empty stretch sums to 0."""
        wide = np.float64 if values.dtype.kind == "f" else np.int64
        return self._reduce(np.add, values.astype(wide, copy=False), 0)

    def mean(self, values: Array) -> Array:
        """[N] -> [K] float64; an empty stretch has mean 0."""
        return self.sum(values.astype(np.float64, copy=False)) / np.maximum(self.sizes, 1)

    def std(self, values: Array, *, ddof: int = 1) -> Array:
        """[N] -> [K] float64, divisor n - ddof (ddof=1: sample, 0: population); 0 where n <= ddof, and exactly 0
        where all values are equal."""
        centred = values - self.spread(self.mean(values))
        variance = self.sum(centred * centred) / np.maximum(self.sizes - ddof, 1)
        return np.where((self.sizes <= ddof) | self.constant(values), 0.0, np.sqrt(variance))

    def max(self, values: Array, *, empty: float = 0) -> Array:
        """[N] -> [K]."""
        return self._reduce(np.maximum, values, empty)

    def min(self, values: Array, *, empty: float = 0) -> Array:
        """[N] -> [K]."""
        return self._reduce(np.minimum, values, empty)

    def any(self, values: Array) -> Array:
        """[N] bool -> [K] bool; False for an empty stretch."""
        return self._reduce(np.logical_or, values.astype(bool, copy=False), False)

    def constant(self, values: Array) -> Array:
        """[N] -> [K] bool: all values of the stretch are equal (true for one or none)."""
        return self.max(values) == self.min(values)

    def first(self, values: Array, *, empty: float = 0) -> Array:
        """[N] -> [K], the value at each stretch's first place."""
        out = np.full(len(self), empty, dtype=values.dtype)
        filled = self.sizes > 0
        out[filled] = values[self.starts[filled]]
        return out

    def last(self, values: Array, *, empty: float = 0) -> Array:
        """[N] -> [K], the value at each stretch's last place."""
        out = np.full(len(self), empty, dtype=values.dtype)
        filled = self.sizes > 0
        out[filled] = values[self.offsets[1:][filled] - 1]
        return out

    def cumsum(self, values: Array) -> Array:
        """[N] -> [N] float64, running sum from the start of each stretch, the place itself included."""
        total = np.cumsum(values, dtype=np.float64)
        before = np.concatenate(([0.0], total))[self.starts]
        return total - self.spread(before)

    def joined(self, outer: "Segments") -> "Segments":
        """Stretches of the same axis, one per stretch of `outer`, whose axis is this one's stretches (K places)."""
        return Segments(self.offsets[outer.offsets])
