"""The clipped policy gradient."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from ...core.ranges import Above, AtLeast
from ..kind import TokenBatch, objective
from ._kl import KL_MAX, MAX_LOG_RATIO, Estimator, kl_penalty

if TYPE_CHECKING:
    from torch import Tensor


@objective(
    needs=("token.advantage", "token.logprob"),
    source="arXiv:1707.06347, eq. 7; clip-higher arXiv:2503.14476; dual clip arXiv:1912.09729",
    evidence="code",
)
def ppo(
    tokens: TokenBatch,
    *,
    clip_low: Annotated[float, AtLeast(0)] = 0.2,
    clip_high: Annotated[float, AtLeast(0)] = 0.2,
    dual_clip: Annotated[float | None, Above(1)] = None,
    kl_coef: Annotated[float, AtLeast(0)] = 0.0,
    kl_estimator: Estimator = "k3",
    kl_max: Annotated[float | None, Above(0)] = KL_MAX,
) -> "tuple[Tensor, Mapping[str, Tensor]]":
    """PPO's clipped surrogate per token, with an optional KL penalty to a reference policy.

        ratio = exp(logprob - old_logprob)
        loss  = -min(ratio · A, clip(ratio, 1 - clip_low, 1 + clip_high) · A)
        loss  =  min(loss, -dual_clip · A)  where A < 0        with dual_clip

    The KL penalty adds kl_coef times an estimate of KL(policy || reference) from the sampled token, with
    d = reference_logprob - logprob:

        k1 = -d,   k2 = d²/2,   k3 = min(exp(d) - d - 1, kl_max),   abs = |d|

    On average k1 and k3 have the value of the KL, but not its gradient: that of k1 is 0, that of k3 is of KL(reference ||
    policy). k2 has its gradient, not its value; k1+ and k3+ have the value of k1 and k3 and the gradient of k2.

    Args:
        tokens: N trained tokens with old_logprob and advantage.
        clip_low: how far below 1 the ratio may pull.
        clip_high: how far above 1; DAPO uses 0.28.
        dual_clip: bound on the loss of a negative advantage, > 1 (3.0 in TEMPO's scripts); None is off.
        kl_coef: weight of the KL penalty; needs --reference.
        kl_estimator: k1, k2, k3 (as in GRPO), abs, k1+ or k3+ (names as in verl).
        kl_max: bound of k3 a token, above 0 (verl's); a token at the bound is no longer pulled back. k3 grows like exp(d), so that
            without one a single token which the policy has all but given up outweighs the rest of the batch. null is
            none (TRL), but for d cut off at 20.

    Returns:
        loss [N], and metrics [N]: ratio, clipped (share of tokens the clip binds on), kl_old (k3 to the sampling policy).

    Raises:
        UsageError: clip_low, clip_high or kl_coef below 0, kl_max or dual_clip out of range; kl_coef without a reference.
    """
    import torch

    assert tokens.old_logprob is not None and tokens.advantage is not None
    log_ratio = (tokens.logprob - tokens.old_logprob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio, advantage = log_ratio.exp(), tokens.advantage
    plain = -advantage * ratio
    clipped = -advantage * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(plain, clipped)
    if dual_clip is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -dual_clip * advantage), loss)
    metrics = {
        "ratio": ratio.detach(),
        "clipped": (clipped > plain).detach().float(),
        "kl_old": (torch.exp(-log_ratio) - 1 + log_ratio).detach(),
    }
    if kl_coef:
        penalty = kl_penalty(tokens, kl_estimator, kl_max)
        loss = loss + kl_coef * penalty
        metrics["kl_reference"] = penalty.detach()
    return loss, metrics
