"""A batch of responses as a trainer holds it, padded on either side or ragged, as flat arrays and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array, Segments


@dataclass(frozen=True, eq=False)
class Responses:
    """B responses as one flat axis of T tokens.

    ids: [T] int32. own: [T] bool, the policy wrote it. tokens: the tokens [T] of each row. flatten: from the given shape to
    the axis, None for another shape. like_given: from the axis back, in the shape and kind that were given.
    """

    ids: Array
    own: Array
    tokens: Segments
    flatten: Callable[[Any], Array | None]
    like_given: Callable[[Array], Any]

    def per_token_or_none(self, given: Any) -> Array | None:
        """[T] float64 of what has the shape of the responses; None for what has another."""
        found = self.flatten(given)
        return None if found is None else found.astype(np.float64)

    def per_token(self, given: Any, what: str) -> Array:
        """The same. DataError for another shape."""
        found = self.per_token_or_none(given)
        if found is None:
            raise DataError(f"{what} of shape {_shape(given)}, expected that of token_ids")
        return found


def read_responses(token_ids: Any, mask: Any, attention_mask: Any, lengths: Any) -> Responses:
    """Of padded arrays [B, L], or of lists of B. Lists that all have one length are read as padded, as an array would be.
    DataError for shapes that do not fit, and for padding that cannot be told."""
    if is_ragged(token_ids) and len({len(row) for row in token_ids}) != 1:
        return _read_lists(token_ids, mask, attention_mask, lengths)
    ids, own = _as_rows(token_ids), _as_rows(mask)
    if ids is None or own is None or ids.ndim != 2 or own.shape != ids.shape:
        raise DataError(
            f"token_ids of shape {_shape(token_ids)} and mask of shape {_shape(mask)}: expected two of [B, L], or two lists"
        )
    shape, own = ids.shape, own.astype(bool)
    inside = _inside(shape, own, attention_mask, lengths)

    def flatten(given: Any) -> Array | None:
        values = _as_rows(given)
        return None if values is None or values.shape != shape else values[inside]

    def like_given(values: Array) -> Any:
        padded = np.zeros(shape, values.dtype)
        padded[inside] = values
        if isinstance(token_ids, list | tuple):
            return [_like(padded[row], model) for row, model in enumerate(token_ids)]
        return _like(padded, token_ids)

    return Responses(ids[inside].astype(np.int32), own[inside], Segments.of_sizes(inside.sum(1)), flatten, like_given)


def _read_lists(token_ids: Any, mask: Any, attention_mask: Any, lengths: Any) -> Responses:
    if attention_mask is not None or lengths is not None:
        raise DataError(
            "token_ids is a list of rows of different lengths, so without padding: leave attention_mask and lengths out"
        )
    ids = [as_array(row) for row in token_ids]
    tokens = Segments.of_sizes(np.array([len(row) for row in ids], np.int64))

    def flatten(given: Any) -> Array | None:
        if not is_ragged(given) or [len(row) for row in given] != tokens.sizes.tolist():
            return None
        rows = [as_array(row) for row in given]
        if any(row.ndim != 1 for row in rows):  # spans, as many as the row has tokens
            return None
        return np.concatenate(rows) if len(tokens) else np.empty(0)

    def like_given(values: Array) -> Any:
        pieces = np.split(values, tokens.offsets[1:-1]) if len(tokens) else []
        return [_like(piece, row) for piece, row in zip(pieces, token_ids, strict=True)]

    own = flatten(mask)
    if own is None:
        raise DataError(f"mask of shape {_shape(mask)}: expected a list for each row, as long as that of token_ids")
    flat = np.concatenate(ids) if ids else np.empty(0)
    return Responses(flat.astype(np.int32), own.astype(bool), tokens, flatten, like_given)


def _as_rows(values: Any) -> Array | None:
    """As one array; None for lists of different lengths."""
    if not is_ragged(values):
        return as_array(values)
    rows = [as_array(row) for row in values]
    return np.stack(rows) if rows and len({row.shape for row in rows}) == 1 else None


def _inside(shape: tuple[int, ...], own: Array, attention_mask: Any, lengths: Any) -> Array:
    """[B, L] bool, the place is one of the response."""
    rows, longest = shape
    if attention_mask is not None:
        found = _as_rows(attention_mask)
        if found is None or found.shape != shape:
            raise DataError(f"attention_mask of shape {_shape(attention_mask)}, expected {shape}")
        inside = found.astype(bool)
        holes = np.flatnonzero((np.diff(inside.astype(np.int8), axis=1, prepend=0) == 1).sum(1) > 1)
        if len(holes):
            raise DataError(f"attention_mask, row {int(holes[0])}: the response must be one run of tokens")
        _check_outside(own & ~inside, "attention_mask")
        return inside
    ends = np.where(own.any(1), longest - own[:, ::-1].argmax(1), 0) if lengths is None else as_array(lengths)
    if ends.shape != (rows,):
        raise DataError(f"lengths of shape {ends.shape}, expected ({rows},)")
    inside = np.arange(longest) < ends[:, None]
    _check_outside(own & ~inside, "the row's length; expected padding on the right, or an attention_mask")
    late = inside[:, :1].any(1) & ~own[:, :1].any(1)
    if late.any() and lengths is None:
        raise DataError(
            f"row {int(late.argmax())} begins with tokens that mask excludes: expected responses padded on the right, "
            "without their prompts; where the padding is on the left, or an environment's tokens come first, give attention_mask"
        )
    return inside


def _check_outside(outside: Array, what: str) -> None:
    wrong = np.flatnonzero(outside.any(1))
    if len(wrong):
        raise DataError(f"row {int(wrong[0])}: mask is true beyond {what}")


def is_ragged(values: Any) -> bool:
    """A list of rows of different lengths, or of arrays, rather than one array."""
    if not isinstance(values, list | tuple) or not values:
        return isinstance(values, list | tuple)
    return all(isinstance(row, list | tuple) or getattr(row, "ndim", 0) == 1 for row in values)


def as_array(values: Any) -> Array:
    """As a NumPy array, from wherever it is."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
        return values.numpy()
    return np.asarray(values)


def _shape(values: Any) -> Any:
    return [len(row) for row in values] if is_ragged(values) else as_array(values).shape


def _like(values: Array, model: Any) -> Any:
    """Of the kind of the model: a torch tensor where it is, a list for a list, else a NumPy array."""
    if hasattr(model, "detach"):
        import torch

        return torch.from_numpy(values).to(model.device)
    return values.tolist() if isinstance(model, list | tuple) else values
