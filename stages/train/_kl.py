"""The penalty that keeps a policy near to a reference."""

from typing import TYPE_CHECKING, Literal

from ...formats.errors import UsageError
from ._objective import TokenBatch

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOG_RATIO = 20.0  # e^20 is far beyond any clip; keeps exp finite

Estimator = Literal["k1", "k2", "k3"]


def kl_penalty(tokens: TokenBatch, estimator: Estimator) -> "Tensor":
    """[N] estimates of KL(policy || reference) from the sampled tokens: k1 = -d, k2 = d²/2, k3 = exp(d) - d - 1, with
    d = reference_logprob - logprob. UsageError without a reference."""
    import torch

    if tokens.reference_logprob is None:
        raise UsageError("kl_coef needs the policy to stay near to; add --reference MODEL")
    difference = tokens.reference_logprob - tokens.logprob
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.exp(difference.clamp(max=MAX_LOG_RATIO)) - difference - 1
