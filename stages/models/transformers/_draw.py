"""Draw tokens from logits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine import Sampling


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token per row, by inverting the distribution function, and its log-probability under that distribution.

    At temperature 0 it is the most likely token, and the log-probability is the policy's at temperature 1.

    Args:
        logits: [B, V] float32.
        uniforms: [B] float64 in [0, 1), one per row.

    Returns:
        ids [B] int64 and logprobs [B] float32 (nats).
    """
    if sampling.temperature == 0:
        logprobs = torch.log_softmax(logits, -1)
        drawn = logits.argmax(-1, keepdim=True)
    else:
        logprobs = torch.log_softmax(_truncate(logits / sampling.temperature, sampling), -1)
        cumulative = torch.cumsum(logprobs.exp(), -1, dtype=torch.float64)
        total = cumulative[:, -1:]
        # Strictly below the total: rounding must not select a token of probability 0 at the end.
        target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        drawn = torch.searchsorted(cumulative, target, right=True)
    return drawn[:, 0], logprobs.gather(1, drawn)[:, 0]


def most_likely(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most likely tokens of every row, the most likely first, at temperature 1.

    Args:
        logits: [B, V] float32.

    Returns:
        ids [B, count] int64 and logprobs [B, count] float32 (nats); -1 and -inf beyond the vocabulary.
    """
    found = torch.log_softmax(logits, -1).topk(min(count, logits.shape[-1]), -1)
    missing = (0, count - found.indices.shape[-1])
    return (
        torch.nn.functional.pad(found.indices, missing, value=-1),
        torch.nn.functional.pad(found.values, missing, value=-torch.inf),
    )


def uniforms_of(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[count] uniform numbers of one row; a longer sequence begins with the same numbers."""
    return np.random.Generator(np.random.Philox(seed)).random(count)


def _truncate(logits: Tensor, sampling: Sampling) -> Tensor:
    """Set to -inf all but the top_k most likely, then all outside the smallest set that holds top_p of what is left."""
    if 0 < sampling.top_k < logits.shape[-1]:
        kept = logits.topk(sampling.top_k, -1)
        logits = torch.full_like(logits, -torch.inf).scatter(1, kept.indices, kept.values)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        before = torch.softmax(ordered, -1).cumsum(-1) - torch.softmax(ordered, -1)
        ordered = ordered.masked_fill(before >= max(sampling.top_p, 1e-9), -torch.inf)
        logits = torch.full_like(logits, -torch.inf).scatter(1, order, ordered)
    return logits
