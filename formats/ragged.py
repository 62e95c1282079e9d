"""`Ragged`: lists of different lengths as one flat value array plus offsets, taken from Arrow without copying."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError
from .segments import Array, Segments

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Ragged:
    """R lists. values: [N], the lists one after another. offsets: [R+1] int64 from 0 to N.

    present: [R] bool, or None when every list is there. A missing (null) list has length 0: not assigned is not 0.
    """

    values: Array
    offsets: Array
    present: Array | None = None

    @classmethod
    def from_arrow(cls, column: pa.Array | pa.ChunkedArray) -> "Ragged":
        """Lists of numbers or booleans. Numbers are a view of Arrow's memory (read-only), booleans are unpacked.

        DataError for a null inside a list: a place on a ruler has a value, or the whole list is missing.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        flat = column.flatten()
        if flat.null_count:
            raise DataError(f"{flat.null_count} missing (null) values inside lists")
        values = flat.to_numpy(zero_copy_only=False)
        if column.null_count:
            sizes = pc.fill_null(column.value_lengths(), 0).to_numpy(zero_copy_only=False)
            return cls(values, Segments.of_sizes(sizes).offsets, column.is_valid().to_numpy(zero_copy_only=False))
        offsets = column.offsets.to_numpy().astype(np.int64)
        return cls(values, offsets - offsets[0])

    def to_arrow(self) -> pa.Array:
        """A list array over the same values (large_list past 2^31 - 1 of them); missing lists become null."""
        large = self.offsets[-1] > np.iinfo(np.int32).max
        offsets = self.offsets.astype(np.int64 if large else np.int32)
        kind = pa.LargeListArray if large else pa.ListArray
        mask = None if self.present is None else pa.array(~self.present)
        return kind.from_arrays(pa.array(offsets), pa.array(self.values), mask=mask)

    @classmethod
    def from_lists(cls, lists: Any, dtype: Any) -> "Ragged":
        """From any sequence of sequences."""
        sizes = np.fromiter((len(row) for row in lists), np.int64, len(lists))
        parts = [np.asarray(row, dtype) for row in lists]
        values = np.concatenate(parts) if parts else np.empty(0, dtype)
        return cls(values.astype(dtype, copy=False), Segments.of_sizes(sizes).offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Array:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def segments(self) -> Segments:
        """The lists as stretches of the flat axis."""
        return Segments(self.offsets)

    def with_values(self, values: Array) -> "Ragged":
        """The same lists with other values [N]."""
        if len(values) != len(self.values):
            raise ValueError(f"{len(values)} values for {len(self.values)} places")
        return Ragged(values, self.offsets, self.present)

    def take(self, rows: Array) -> "Ragged":
        """The given rows [M] int, in that order, gathered without a Python loop."""
        sizes = self.segments.sizes[rows]
        out = Segments.of_sizes(sizes)
        places = out.positions + out.spread(self.offsets[rows])
        return Ragged(self.values[places], out.offsets, None if self.present is None else self.present[rows])

    def to_torch(self, device: "torch.device | str" = "cpu") -> "tuple[torch.Tensor, torch.Tensor]":
        """(values [N], offsets [R+1] int64) on any device. On the CPU the tensors share memory where Arrow's allows
        writing, else they are copied."""
        import torch

        values = self.values if self.values.flags.writeable else self.values.copy()
        return torch.from_numpy(values).to(device), torch.from_numpy(self.offsets).to(device)

    @classmethod
    def from_torch(cls, values: "torch.Tensor", offsets: "torch.Tensor") -> "Ragged":
        """From any device."""
        return cls(values.detach().cpu().numpy(), offsets.detach().cpu().numpy().astype(np.int64, copy=False))
