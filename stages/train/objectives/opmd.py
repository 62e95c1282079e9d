"""The policy gradient without a ratio: online policy mirror descent."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from ...core.ranges import Above, AtLeast
from ..kind import TokenBatch, objective
from ._kl import KL_MAX, Estimator, kl_penalty

if TYPE_CHECKING:
    from torch import Tensor


@objective(
    needs=("token.advantage",), source="arXiv:2601.03715 (R3L); with tau=0 REINFORCE", evidence="code", system=("R3L",)
)
def opmd(
    tokens: TokenBatch,
    *,
    tau: Annotated[float, AtLeast(0)] = 1.0,
    kl_coef: Annotated[float, AtLeast(0)] = 0.0,
    kl_estimator: Estimator = "k2",
    kl_max: Annotated[float | None, Above(0)] = KL_MAX,
) -> "tuple[Tensor, Mapping[str, Tensor]]":
    """Log-probability times credit, whatever policy sampled: no ratio, no clip.

        loss = -A · logprob / (1 + tau)

    Rows that another policy, or the policy behind another prompt, has written are trained like its own, so several
    updates on one file go further than its credit reaches. R3L takes the mean over the tokens of a rollout, then over
    rollouts: --aggregation seq-mean-token-mean.

    Args:
        tokens: N trained tokens with advantage.
        tau: strength of the regularisation that this is derived from, 0 or more; scales the loss.
        kl_coef: weight of a KL penalty as in `ppo`; needs --reference. The paper has none, its released code has.
        kl_estimator: k1, k2, k3, abs, k1+ or k3+, as in `ppo`.
        kl_max: bound of k3 a token, as in `ppo`.

    Returns:
        loss [N], and metrics [N]: kl_reference with the penalty.

    Raises:
        UsageError: tau or kl_coef below 0; kl_coef without a reference.
    """
    assert tokens.advantage is not None
    loss = -tokens.advantage * tokens.logprob / (1 + tau)
    if not kl_coef:
        return loss, {}
    penalty = kl_penalty(tokens, kl_estimator, kl_max)
    return loss + kl_coef * penalty, {"kl_reference": penalty.detach()}
