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

    def discounted(self, values: Array, discount: "Array | float") -> Array:
        """[N] -> [N] float64, y_t = values_t + discount_t · y_{t+1}, from every place to the end of its stretch.

        >>> Segments(np.array([0, 3, 4])).discounted(np.array([1.0, 2.0, 4.0, 8.0]), 0.5).tolist()
        [3.0, 4.0, 4.0, 8.0]
        """
        factors = np.empty(len(values))
        factors[:] = discount
        factors[self.offsets[1:][self.sizes > 0] - 1] = 0.0
        return recurrence(values, factors)


_BLOCK, _CHUNK = 64, 1 << 17  # 2^17 places of float64 with their factors stay in a core's cache


def recurrence(values: Array, factors: Array) -> Array:
    """[N] float64, y_t = values_t + factors_t · y_{t+1}; after the last place comes 0. factors: [N], 0 cuts.

    The axis is folded into blocks that run side by side; what enters a block from the next is the same recurrence among
    the blocks' heads. So about 2 N steps of arithmetic in N / 2048 calls, and no division.

    >>> recurrence(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, 9.0])).tolist()
    [2.0, 2.0, 3.0]
    """
    out = np.empty(len(values))
    carry = 0.0
    for end in range(len(values), 0, -_CHUNK):
        part = slice(max(end - _CHUNK, 0), end)
        out[part] = _fold(values[part], factors[part], carry)
        carry = float(out[part.start])
    return out


def _fold(values: Array, factors: Array, carry: float) -> Array:
    count = len(values)
    if count <= _BLOCK:
        out = np.empty(count)
        for place, (value, factor) in enumerate(zip(values[::-1].tolist(), factors[::-1].tolist(), strict=True)):
            carry = value + factor * carry
            out[count - 1 - place] = carry
        return out
    blocks = -(-count // _BLOCK)
    inside, passed = np.zeros((2, blocks * _BLOCK))
    inside[:count], passed[:count], passed[count:] = values, factors, 1.0
    inside = np.ascontiguousarray(inside.reshape(blocks, _BLOCK).T)
    passed = np.ascontiguousarray(passed.reshape(blocks, _BLOCK).T)
    for place in range(_BLOCK - 2, -1, -1):
        inside[place] += passed[place] * inside[place + 1]
        passed[place] *= passed[place + 1]
    entering = np.append(_fold(inside[0], passed[0], carry)[1:], carry)
    inside += passed * entering
    return inside.T.reshape(-1)[:count]
