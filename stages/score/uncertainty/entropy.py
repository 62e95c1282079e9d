"""Entropy: how uncertain a model was before each token, computed again with the response given."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from ....formats.errors import DataError
from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...models.recorded import RECORDED
from ..kind import scorer

if TYPE_CHECKING:
    import torch

    from ...models.examples import Examples


@scorer(
    needs=("prompt_ids", "token.id", "token.mask"),
    granularity="token",
    source="ours",
    makes=("token.entropy", "token.logprob", "logprob_kind"),
)
def entropy(
    rollouts: Rollouts,
    *,
    model: str = RECORDED,
    micro_tokens: Annotated[int, AtLeast(0)] = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> Mapping[str, Any]:
    """Entropy of the next-token distribution before every token the policy wrote.

        H_t = -Σ_v p(v | prompt, response up to t) · ln p(v | …)

    At the row's sampling temperature (1 where that was 0), without top-p and top-k. Where the file has no
    `token.logprob` that is written too, of the same distribution; one that is there stays, since it is what the
    sampler used.

    Args:
        model: whose distribution; "recorded" is the model that sampled the file.
        micro_tokens: padded tokens computed at the same time; 0 chooses by the size of the vocabulary.
        device: auto, cpu, cuda, cuda:1 …
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16.

    Returns:
        {"token.entropy": nat, 0 where the mask is false; "token.logprob": nat, where there was none}.

    Raises:
        DataError: a rollout is longer than what the model reads.
    """
    from ...models.examples import to_examples
    from ...models.policy import load_policy

    policy = load_policy(model, device=device, dtype=dtype)
    examples = to_examples(rollouts, credit=None, old_logprobs=False)
    _check_context(policy.model.config.get_text_config(), rollouts, examples, model)
    values, logprobs = _signals(policy.model, examples, micro_tokens)
    columns: dict[str, Any] = {"token.entropy": rollouts.token_ids.with_values(values)}
    if "token.logprob" not in rollouts:
        columns["token.logprob"] = rollouts.token_ids.with_values(logprobs)
        columns["logprob_kind"] = ["policy"] * len(rollouts)
    return columns


def _check_context(config: Any, rollouts: Rollouts, examples: "Examples", model: str) -> None:
    """A model says nothing sensible of what is beyond its context, and the logits of it fill the memory."""
    context = getattr(config, "max_position_embeddings", None) or math.inf
    long = np.flatnonzero(examples.sequences.segments.sizes > context)
    if len(long):
        name, size = rollouts.arrow("rollout_id")[long[0]].as_py(), examples.sequences.segments.sizes[long[0]]
        raise DataError(
            f"rollout {name!r} has {size:,} tokens with its prompt, and {model} reads {context:,}; "
            "name another model with --set model=MODEL"
        )


def _signals(model: "torch.nn.Module", examples: "Examples", micro_tokens: int) -> tuple[Array, Array]:
    """([T] entropy, [T] log-probability), float32, 0 where the mask is false."""
    import torch

    from ...models.examples import micro_batches, micro_budget

    values, logprobs = (np.zeros(len(examples.mask.values), np.float32) for _ in range(2))
    heat = np.where(examples.temperature > 0, examples.temperature, 1.0)[examples.responses.ids]
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        everything = examples.mask.values.astype(np.float64)
        budget = micro_budget(model, micro_tokens)
        for batch in micro_batches(examples, np.arange(len(examples)), everything, budget):
            ids = torch.from_numpy(batch.ids).to(device)
            row, position = (torch.from_numpy(each).to(device) for each in (batch.row, batch.position))
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=batch.keep).logits
            chosen = logits[row, position - 1 - (ids.shape[1] - logits.shape[1])].float()
            chosen = chosen / torch.from_numpy(heat[batch.place]).to(device, torch.float32)[:, None]
            logp = torch.log_softmax(chosen, -1)
            logprobs[batch.place] = logp.gather(1, ids[row, position][:, None])[:, 0].cpu().numpy()
            values[batch.place] = torch.special.entr(logp.exp()).sum(-1).cpu().numpy()
    return values, logprobs
