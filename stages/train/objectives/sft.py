"""Supervised fine-tuning: the likelihood of the response."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..kind import TokenBatch, objective

if TYPE_CHECKING:
    from torch import Tensor


@objective(needs=(), source="maximum likelihood")
def sft(tokens: TokenBatch) -> "tuple[Tensor, Mapping[str, Tensor]]":
    """Negative log-likelihood of every token the mask includes.

    Args:
        tokens: N trained tokens.

    Returns:
        loss [N] in nats, and no metrics.
    """
    return -tokens.logprob, {}
