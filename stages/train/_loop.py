"""The update loop: minibatches, micro-batches, gradient, step."""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...formats.errors import ApportionError
from ...formats.segments import Array
from ..progress import progress
from ._examples import Aggregation, Examples, MicroBatch, micro_batches
from ._objective import Objective, TokenBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOGIT_BUDGET = 1 << 28  # float32 logits a micro-batch may hold: 1 GiB


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to update; the defaults stand in the signature of `train`."""

    lr: float
    epochs: int
    minibatch: int
    micro_tokens: int
    accumulate: int
    aggregation: Aggregation
    longest: int
    warmup: int
    schedule: Literal["constant", "cosine", "linear"]
    max_grad_norm: float
    seed: int


def token_logprobs(model: Any, batch: MicroBatch, temperature: Array, autocast: Any) -> "Tensor":
    """[N] log-probability of the trained tokens at their rows' sampling temperature (1 where that was 0)."""
    import torch

    device = next(model.parameters()).device
    ids = torch.from_numpy(batch.ids).to(device)
    row = torch.from_numpy(batch.row).to(device)
    position = torch.from_numpy(batch.position).to(device)
    with autocast:
        logits = model(
            input_ids=ids,
            use_cache=False,
            logits_to_keep=batch.keep,
        ).logits
    first = ids.shape[1] - logits.shape[1]
    chosen = logits[row, position - 1 - first].float()
    heat = torch.from_numpy(np.where(temperature > 0, temperature, 1.0)[batch.row]).to(device, torch.float32)
    if bool((heat != 1).any()):
        chosen = chosen / heat[:, None]
    return torch.log_softmax(chosen, -1).gather(1, ids[row, position][:, None])[:, 0]


def micro_budget(model: Any, wanted: int) -> int:
    """Padded tokens per micro-batch: what was asked for, or as many as LOGIT_BUDGET allows for this vocabulary."""
    return wanted or max(256, min(16384, LOGIT_BUDGET // int(model.config.vocab_size)))


def autocast_for(model: Any, dtype: "torch.dtype") -> Any:
    """bfloat16 autocast where asked for; else nothing."""
    import torch

    device = next(model.parameters()).device
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()


def all_logprobs(model: Any, examples: Examples, micro_tokens: int, dtype: "torch.dtype") -> Array:
    """[T] log-probability of every response token under `model`, without gradient."""
    import torch

    out = np.zeros(len(examples.mask.values), np.float32)
    rows = np.arange(len(examples))
    autocast = autocast_for(model, dtype)
    model.eval()
    with torch.inference_mode():
        everything = examples.mask.values.astype(np.float64)
        for batch in micro_batches(examples, rows, everything, micro_budget(model, micro_tokens)):
            temperature = _temperature_of(examples, batch)
            out[batch.place] = token_logprobs(model, batch, temperature, autocast).cpu().numpy()
    return out


def _temperature_of(examples: Examples, batch: MicroBatch) -> Array:
    """[B] per row of the micro-batch, found through its tokens."""
    owner = np.searchsorted(examples.responses.offsets, batch.place, side="right") - 1
    temperature = np.ones(len(batch.ids))
    temperature[batch.row] = examples.temperature[owner]
    return temperature


def minibatches(size: int, wanted: int, epochs: int, seed: int) -> Iterator[Array]:
    """Row indices of each update: every epoch goes through all rows once, in a new order."""
    rng = np.random.default_rng(seed)
    wanted = min(wanted or size, size)
    for _ in range(epochs):
        order = rng.permutation(size)
        count = math.ceil(size / wanted)
        yield from (np.sort(part) for part in np.array_split(order, count))


def learning_rate(settings: Settings, update: int, updates: int, done_before: int) -> float:
    """Linear warm-up over `warmup` updates (counted over continued runs), then constant, linear or cosine to 0."""
    warm = min(1.0, (done_before + update + 1) / settings.warmup) if settings.warmup else 1.0
    left = 1 - update / max(updates, 1)
    decay = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}[settings.schedule]
    return settings.lr * warm * decay


def update_policy(
    model: Any,
    optimizer: "torch.optim.Optimizer",
    examples: Examples,
    objective: Objective,
    options: Mapping[str, Any],
    settings: Settings,
    dtype: "torch.dtype",
    done_before: int,
) -> Iterator[dict[str, float]]:
    """Yields one dictionary of metrics per optimizer update. ApportionError when the loss stops being finite."""
    import torch

    plan = list(minibatches(len(examples), settings.minibatch, settings.epochs, settings.seed))
    updates = math.ceil(len(plan) / settings.accumulate)
    budget = micro_budget(model, settings.micro_tokens)
    autocast = autocast_for(model, dtype)
    model.train()
    with progress(len(plan), "train") as advance:
        for update in range(updates):
            parts = plan[update * settings.accumulate : (update + 1) * settings.accumulate]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, update, updates, done_before)
            optimizer.zero_grad(set_to_none=True)
            sums: dict[str, float] = {}
            tokens, loss_sum = 0, 0.0
            for rows in parts:
                coefficient = examples.coefficients(rows, settings.aggregation, settings.longest) / len(parts)
                tokens += int((coefficient != 0).sum())
                if examples.advantage is not None and not options.get("kl_coef"):
                    coefficient = np.where(_on_rows(examples, rows, examples.advantage) != 0, coefficient, 0.0)
                for batch in micro_batches(examples, rows, coefficient, budget):
                    logprob = token_logprobs(model, batch, _temperature_of(examples, batch), autocast)
                    loss, metrics = objective.function(_token_batch(examples, batch, logprob), **options)
                    weight = torch.from_numpy(batch.coefficient).to(loss.device, torch.float32)
                    total = (loss * weight).sum()
                    total.backward()
                    loss_sum += total.item()
                    sums["trained_tokens"] = sums.get("trained_tokens", 0) + len(loss)
                    for name, values in metrics.items():
                        sums[name] = sums.get(name, 0.0) + values.sum().item()
                advance(1)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm or math.inf).item()
            if not (math.isfinite(loss_sum) and math.isfinite(norm)):
                raise ApportionError(
                    f"update {update}: loss {loss_sum}, gradient norm {norm}; lower --lr, or check the credit with inspect"
                )
            optimizer.step()
            trained = sums.pop("trained_tokens", 0)
            yield {
                "update": done_before + update,
                "loss": loss_sum,
                "grad_norm": norm,
                "lr": optimizer.param_groups[0]["lr"],
                "tokens": tokens,
                "trained_tokens": trained,
                **{name: value / max(trained, 1) for name, value in sums.items()},
            }


def _on_rows(examples: Examples, rows: Array, values: Array) -> Array:
    return examples.mask.with_values(values).take(rows).values


def _token_batch(examples: Examples, batch: MicroBatch, logprob: "Tensor") -> TokenBatch:
    import torch

    def constant(values: Array | None) -> "Tensor | None":
        return None if values is None else torch.from_numpy(values[batch.place]).to(logprob.device, torch.float32)

    return TokenBatch(
        logprob, constant(examples.old_logprob), constant(examples.reference_logprob), constant(examples.advantage)
    )


def with_reference(examples: Examples, model: Any, micro_tokens: int, dtype: "torch.dtype") -> Examples:
    """The examples with the log-probabilities a frozen reference gives their tokens."""
    return replace(examples, reference_logprob=all_logprobs(model, examples, micro_tokens, dtype))


def with_old(examples: Examples, model: Any, micro_tokens: int, dtype: "torch.dtype") -> Examples:
    """The examples with the log-probabilities of the policy as it is before the first update."""
    return replace(examples, old_logprob=all_logprobs(model, examples, micro_tokens, dtype))
