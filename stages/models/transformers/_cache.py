"""The keys and values of a batch whose rows come and go."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ....formats.errors import UsageError

States = list[tuple[Tensor, Tensor]]  # one row's keys and values [heads, tokens, head_dim] of every layer


class GrowingLayer(DynamicLayer):
    """A layer's keys and values [rows, heads, tokens, head_dim]: a window of buffers with room to grow at the end.

    The stock layer copies everything at every token; this one copies only when the buffer is full.
    """

    _buffers: tuple[Tensor, Tensor] | None = None
    _end = 0  # the window ends before this column of the buffers

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        window, added = self.get_seq_length(), key_states.shape[-2]
        end = self._reserve((key_states, value_states), key_states.shape[0], window, added)
        for buffer, states in zip(self._held, (key_states, value_states), strict=True):
            buffer[:, :, end : end + added] = states
        self._end = end + added
        self.show(window + added)
        return self.keys, self.values  # pyright: ignore[reportReturnType]

    def put(self, rows: Tensor | slice, states: tuple[Tensor, Tensor], count: int, window: int) -> None:
        """Give `count` rows the keys and values [heads, tokens, head_dim] at their end; they need `window` columns."""
        end = self._reserve(states, count, window, 0)
        for buffer, each in zip(self._held, states, strict=True):
            buffer[rows, :, end - each.shape[-2] : end] = each

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        if self._buffers is not None:
            window = self.get_seq_length()
            first = self._end - window
            self._buffers = tuple(buffer[:, :, first:][indices] for buffer in self._held)  # pyright: ignore
            self._end = window
            self.show(window)

    def show(self, window: int) -> None:
        """Let the model see the last `window` columns."""
        if self._buffers is not None:
            self.keys, self.values = (buffer[:, :, self._end - window : self._end] for buffer in self._held)

    @property
    def _held(self) -> tuple[Tensor, Tensor]:
        assert self._buffers is not None
        return self._buffers

    def _reserve(self, like: tuple[Tensor, Tensor], rows: int, window: int, room: int) -> int:
        """Allocate buffers for `rows` rows: `window` columns before the end, `room` after it. Returns the end."""
        if not self.is_initialized:
            self.lazy_initialization(*like)
        old = self._buffers
        if old and old[0].shape[0] >= rows and self._end >= window and old[0].shape[2] >= self._end + room:
            return self._end
        shown = self.get_seq_length()
        end = max(window, shown)
        grown: list[Tensor] = []
        for index, states in enumerate(like):
            heads, _, width = states.shape[-3:]
            # Zeros: the model multiplies hidden columns by 0, and 0 times uninitialised memory may be NaN.
            buffer = states.new_zeros(rows, heads, end + max(room, 32, end // 2), width)
            if old and shown:
                buffer[: old[index].shape[0], :, end - shown : end] = old[index][:, :, self._end - shown : self._end]
            grown.append(buffer)
        self._buffers, self._end = (grown[0], grown[1]), end
        self.show(shown)
        return end


class RowCache:
    """The cache of a batch, aligned on the right: all rows continue at one column, each at its own position.

    lengths: [rows] tokens of each row. Columns that no row needs any longer leave the computation at once, and leave
    the memory when the buffers are next copied.
    """

    def __init__(self, model: Any):
        self._model = model
        self._cache = empty_cache(model)
        self._given = {cache_argument(model): self._cache}
        self.lengths = np.zeros(0, np.int64)

    def put(self, rows: Sequence[Sequence[int]], states: Sequence[States], lengths: Sequence[int]) -> None:
        """Start the `rows` afresh: rows[i] with states[i], of lengths[i] tokens. Adds rows that do not exist yet."""
        self._narrow()  # adding rows makes new buffers, which should have no more columns than needed
        count = max(len(self.lengths), 1 + max(max(each) for each in rows))
        self.lengths = np.pad(self.lengths, (0, count - len(self.lengths)))
        for each, length in zip(rows, lengths, strict=True):
            self.lengths[list(each)] = length
        window = int(self.lengths.max())
        for each, state, length in zip(rows, states, lengths, strict=True):
            if length:
                index = _index_of(each, state[0][0].device)
                for layer, layer_states in zip(self._layers, state, strict=True):
                    layer.put(index, layer_states, count, window)

    def forget(self, rows: Any) -> None:
        """Mark rows as ended: no column is kept for them. They stay in the batch until they are reused or dropped."""
        self.lengths[rows] = 0

    def keep(self, rows: Any) -> None:
        """Drop all rows but these."""
        self.lengths = self.lengths[rows]
        self._narrow()
        self._cache.batch_select_indices(torch.as_tensor(rows, device=self._model.device))

    def states(self, row: int, tokens: int, padding: int) -> States:
        """The keys and values of a row's last tokens, which end `padding` columns before the window's end."""
        window = self._layers[0].get_seq_length()
        columns = slice(window - padding - tokens, window - padding)
        return [(layer.keys[row, :, columns], layer.values[row, :, columns]) for layer in self._layers]  # pyright: ignore

    def forward(self, ids: Tensor, positions_below: Any = None) -> Tensor:
        """[rows, V] float32 logits after the last of `ids` [rows, Q]; the cache holds the ids from now on.

        positions_below: [rows], for ids padded on the right: an exclusive bound on the positions.
        """
        window, added, device = self._narrow(), ids.shape[1], ids.device
        positions = self.lengths[:, None] + np.arange(added)
        if positions_below is not None:
            positions = np.minimum(positions, positions_below[:, None] - 1)
        mask = None
        if (self.lengths < window).any():
            first = torch.from_numpy(window - self.lengths).to(device)
            mask = torch.arange(window + added, device=device) >= first[:, None]  # [rows, window + Q]
        output = self._model(
            input_ids=ids, attention_mask=mask, position_ids=torch.from_numpy(positions).to(device),
            use_cache=True, logits_to_keep=1, **self._given,
        )  # fmt: skip
        self.lengths = self.lengths + added
        return output.logits[:, -1].float()

    def _narrow(self) -> int:
        """Let the model see no more columns than the longest row needs. Returns their number."""
        window = int(self.lengths.max(initial=0))
        if self._layers[0].get_seq_length() != window:
            for layer in self._layers:
                layer.show(window)
        return window

    @property
    def _layers(self) -> list[GrowingLayer]:
        return self._cache.layers  # pyright: ignore[reportReturnType]


def _index_of(rows: Sequence[int], device: torch.device) -> Tensor | slice:
    """An index of the rows; a slice if they are adjacent, which is many times as fast."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, device=device)


def cache_argument(model: Any) -> str:
    """Name of the forward pass's cache argument: `cache` since transformers 5.24, `past_key_values` before it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def empty_cache(model: Any) -> DynamicCache:
    """A cache of growing layers. UsageError for a model that keeps anything but keys and values."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UsageError(
                f"engine 'transformers': cannot batch the state of the model's {type(layer).__name__} layers; "
                "use --engine vllm"
            )
    # Sliding layers too: the mask hides what is outside their window.
    cache.layers = [GrowingLayer() for _ in cache.layers]  # pyright: ignore[reportAttributeAccessIssue]
    return cache
