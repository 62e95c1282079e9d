"""Direct preference optimisation: the chosen half of a pair is made more likely than the rejected one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from ...core.ranges import Above, AtLeast
from ..kind import PairBatch, objective

if TYPE_CHECKING:
    from torch import Tensor


@objective(
    needs=("pair_id", "pair_role"),
    of="pairs",
    source="arXiv:2305.18290, eq. 7; with nll_coef arXiv:2410.06638 (RISE)",
    evidence="code",
    system=("RISE",),
)
def dpo(
    pairs: PairBatch, *, beta: Annotated[float, Above(0)] = 0.1, nll_coef: Annotated[float, AtLeast(0)] = 0.0
) -> "tuple[Tensor, Mapping[str, Tensor]]":
    """Preference pairs, by how much more likely than under the reference the chosen half is than the rejected one.

        reward = beta · (log p(response) - log p_reference(response))    summed over the tokens that the mask includes
        loss   = -log sigmoid(reward of the chosen half - reward of the rejected one)
                 - nll_coef · log p(chosen half) / its tokens

    A pair is two rows with one `pair_id`, of `pair_role` "chosen" and "rejected". The reference is --reference, or the
    policy as it is before the first update.

    Args:
        pairs: P pairs.
        beta: how strongly the policy is held to the reference (0.4 in RISE's scripts).
        nll_coef: weight of the likelihood of the chosen half; RISE adds one and does not say how large.

    Returns:
        loss [P] in nats, and metrics [P]: accuracy (the chosen half has the larger reward), margin, chosen_reward and
        rejected_reward.

    Raises:
        UsageError: beta not above 0; nll_coef below 0.
    """
    import torch

    chosen = beta * (pairs.chosen - pairs.reference_chosen)
    rejected = beta * (pairs.rejected - pairs.reference_rejected)
    margin = chosen - rejected
    loss = -torch.nn.functional.logsigmoid(margin) - nll_coef * pairs.chosen / pairs.chosen_tokens
    return loss, {
        "accuracy": (margin > 0).detach().float(),
        "margin": margin.detach(),
        "chosen_reward": chosen.detach(),
        "rejected_reward": rejected.detach(),
    }
