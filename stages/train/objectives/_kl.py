"""The penalty that keeps a policy near to a reference."""

from typing import TYPE_CHECKING, Literal

from ....formats.errors import UsageError
from ..kind import TokenBatch

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOG_RATIO = 20.0  # e^20 is far beyond any clip; keeps exp finite
KL_MAX = 10.0  # verl's bound, and VinePPO's

Estimator = Literal["k1", "k2", "k3", "abs", "k1+", "k3+"]


def kl_penalty(tokens: TokenBatch, estimator: Estimator, largest: float | None = KL_MAX) -> "Tensor":
    """[N] estimates of KL(policy || reference) from the sampled tokens, with d = reference_logprob - logprob.

        k1 = -d,   k2 = d²/2,   k3 = min(exp(d) - d - 1, largest),   abs = |d|
        k1+, k3+   the value of k1 or k3, the gradient of k2

    largest: bound of k3, beyond which it has no gradient; None leaves it at about e^20, where exp is cut off.

    Raises:
        UsageError: no reference; a bound of 0 or less.
    """
    import torch

    if tokens.reference_logprob is None:
        raise UsageError("kl_coef needs the policy to stay near to; add --reference MODEL")
    difference = tokens.reference_logprob - tokens.logprob
    half_square = difference.square() / 2
    if estimator == "k2":
        return half_square
    if estimator == "abs":
        return difference.abs()
    if estimator in ("k1", "k1+"):
        value = -difference
    else:
        # Both terms are cut off: with exp alone, a token far below the reference would be pushed further down.
        bounded = difference.clamp(max=MAX_LOG_RATIO)
        value = torch.exp(bounded) - bounded - 1
        value = value if largest is None else value.clamp(max=largest)
    return value if estimator in ("k1", "k3") else half_square - half_square.detach() + value.detach()
