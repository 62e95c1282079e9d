"""A credit method on the padded tensors of a trainer, without a file."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError, UsageError
from ...formats.invariants import lacking
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..structure.prefix_tree import add_prefix_tree
from ._apply import on_tokens
from .kind import METHODS, Credit

Tensor = TypeVar("Tensor")  # a torch tensor on any device, or a numpy array


def credit_tokens(
    method: str,
    *,
    reward: Any,
    group: Sequence[Any] | Any,
    token_ids: Tensor,
    mask: Any,
    lengths: Any = None,
    signals: Mapping[str, Any] | None = None,
    preset: str | None = None,
    **options: Any,
) -> Tensor:
    """Credit of every token of a batch of padded responses, as `assign-credit` gives it on a file of them.

    For a trainer that has its rollouts in memory: the numbers are computed on the CPU in float64, in NumPy, wherever the
    tensors are, and come back where `token_ids` is. The prefix tree is built where the method needs one.

    Args:
        method: a registered credit method.
        reward: [B], reward units.
        group: [B] what rollouts of one prompt have in common: numbers or names, in any order.
        token_ids: [B, L] responses, padded on the right, without their prompts.
        mask: [B, L] true where the policy wrote the token; false on an environment's and on padding.
        lengths: [B] response tokens of each row, an environment's included; None ends a row with its last policy token. Needed
            where a row begins with an environment's tokens, which are not told from padding on the left otherwise.
        signals: more columns by their path: `token.logprob` [B, L], `rewards.format` [B] …
        preset: conventions of a library.
        options: of the method.

    Returns:
        [B, L] float32 of the kind of `token_ids`; 0 on padding and where the mask is false.

    Raises:
        UsageError: an unknown method, preset or option, or a method that needs steps or probes. DataError: shapes that
            do not fit, rows padded on the left, a missing signal, what the method refuses.

    >>> ids = np.array([[5, 7, 0], [5, 8, 9]])
    >>> credit_tokens("rloo", reward=[1.0, 0.0], group=["a", "a"], token_ids=ids, mask=ids > 0).tolist()
    [[1.0, 1.0, 0.0], [-1.0, -1.0, -1.0]]
    """
    chosen = METHODS[method]
    settings = METHODS.settle(method, options, preset)
    ids, own = _array(token_ids), _array(mask).astype(bool)
    if ids.ndim != 2 or own.shape != ids.shape:
        raise DataError(f"token_ids of shape {ids.shape} and mask of shape {own.shape}: expected two of [B, L]")
    rows, longest = ids.shape
    ends = np.where(own.any(1), longest - own[:, ::-1].argmax(1), 0) if lengths is None else _array(lengths)
    inside = np.arange(longest) < ends[:, None]
    _check_padding(own, inside, given=lengths is not None)

    names = _array(group) if not isinstance(group, Sequence) else np.array(list(group))
    if len(names) != rows:
        raise DataError(f"group: {len(names)} values for {rows} rollouts")
    groups = np.unique(names, return_inverse=True)[1].reshape(-1)
    order = np.argsort(groups, kind="stable")
    columns = {"reward": reward, **(signals or {})}
    made = _rollouts(ids, own, inside, groups, order, columns)
    if any(path.startswith("node.") for path in chosen.needs):
        made = add_prefix_tree(made)
    for path in lacking(made.paths, chosen.needs_for(settings)):
        kind = UsageError if path.partition(".")[0] in ("step", "purpose", "parent_id", "fork") else DataError
        raise kind(f"credit method {method!r} needs {path!r}, which is not among the signals")
    values = on_tokens(chosen, made, chosen.assign(Credit(made), **settings))

    ordered, padded = np.zeros(ids.shape, np.float32), np.zeros(ids.shape, np.float32)
    ordered[inside[order]] = values
    padded[order] = ordered
    return _like(padded, token_ids)


def _check_padding(own: Array, inside: Array, *, given: bool) -> None:
    """DataError for rows that look as if they were padded on the left, where a tree of common beginnings would be wrong.

    given: whether the caller said how long rows are.
    """
    outside = (own & ~inside).any(1)
    if outside.any():
        raise DataError(
            f"row {int(outside.argmax())}: mask is true beyond the row's length; expected padding on the right"
        )
    late = inside[:, :1].any(1) & ~own[:, :1].any(1)
    if late.any() and not given:
        raise DataError(
            f"row {int(late.argmax())} begins with tokens that mask excludes: expected responses padded on the right, "
            "without their prompts; where an environment's tokens come first, give lengths"
        )


def _rollouts(
    ids: Array, own: Array, inside: Array, groups: Array, order: Array, columns: Mapping[str, Any]
) -> Rollouts:
    """The batch as a file would hold it, groups together."""
    lists = Segments.of_sizes(inside[order].sum(1))
    held: dict[str, Any] = {
        "rollout_id": [f"r{row}" for row in order.tolist()],
        "group_id": [f"g{group}" for group in groups[order].tolist()],
    }
    on_token: dict[str, Ragged] = {
        "token.id": Ragged(ids[order][inside[order]].astype(np.int32), lists.offsets),
        "token.mask": Ragged(own[order][inside[order]], lists.offsets),
    }
    for path, given in columns.items():
        values = _array(given)
        if path.startswith("token."):
            if values.shape != ids.shape:
                raise DataError(f"signal {path!r} of shape {values.shape}, expected {ids.shape}")
            on_token[path] = Ragged(values[order][inside[order]], lists.offsets)
        else:
            if values.shape != (len(ids),):
                raise DataError(f"signal {path!r} of shape {values.shape}, expected ({len(ids)},)")
            held[path] = values[order].astype(np.float64)
    return Rollouts(pa.table(held)).with_columns(on_token)


def _array(values: Any) -> Array:
    """As a NumPy array, from wherever it is."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
        return values.numpy()
    return np.asarray(values)


def _like(values: Array, model: Any) -> Any:
    if not hasattr(model, "detach"):
        return values
    import torch

    return torch.from_numpy(values).to(model.device)
