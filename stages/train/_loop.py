"""The update loop: minibatches, micro-batches, gradient, step."""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...formats.errors import ApportionError
from ...formats.segments import Array
from ..core.progress import progress
from ..core.results import check_result
from ..models.examples import Examples, MicroBatch, micro_batches, micro_budget
from .kind import Objective, PairBatch, TokenBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Aggregation = Literal[
    "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "group-mean-token-mean"
]
Schedule = Literal["constant", "linear", "cosine"]


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
    schedule: Schedule
    max_grad_norm: float
    seed: int


def token_logprobs(model: Any, examples: Examples, batch: MicroBatch, autocast: Any) -> "Tensor":
    """[N] log-probability of the trained tokens at their rows' temperature (1 where that was 0)."""
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
    temperature = examples.temperature[batch.rows]
    heat = torch.from_numpy(np.where(temperature > 0, temperature, 1.0)[batch.row]).to(device, torch.float32)
    if bool((heat != 1).any()):
        chosen = chosen / heat[:, None]
    return torch.log_softmax(chosen, -1).gather(1, ids[row, position][:, None])[:, 0]


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
            out[batch.place] = token_logprobs(model, examples, batch, autocast).cpu().numpy()
    return out


def coefficients(examples: Examples, rows: Array, aggregation: Aggregation, longest: int) -> Array:
    """[T of rows] what each response token's loss is multiplied with, so that the sum over the rows of an update, of all the
    minibatches in it, is the loss.

    token-mean: 1/N over the N trained tokens of these rows. seq-mean-token-mean: 1/(R·T_i). seq-mean-token-sum: 1/R.
    seq-mean-token-sum-norm: 1/(R·longest), the Dr.GRPO form. group-mean-token-mean: every prompt weighs the same.
    """
    mask = examples.mask.take(rows)
    counts = mask.segments.sum(mask.values).astype(np.float64)
    if aggregation == "token-mean":
        per_row = np.full(len(rows), 1 / max(counts.sum(), 1))
    elif aggregation == "seq-mean-token-mean":
        per_row = 1 / (len(rows) * np.maximum(counts, 1))
    elif aggregation == "seq-mean-token-sum":
        per_row = np.full(len(rows), 1 / len(rows))
    elif aggregation == "seq-mean-token-sum-norm":
        per_row = np.full(len(rows), 1 / (len(rows) * max(longest, 1)))
    else:
        groups, member = np.unique(examples.group[rows], return_inverse=True)
        in_group = np.bincount(member, weights=counts)
        per_row = 1 / (len(groups) * np.maximum(in_group, 1))[member]
    return mask.segments.spread(per_row * examples.weight[rows]) * mask.values


def minibatches(size: int, wanted: int, epochs: int, seed: int, *, together: int = 1) -> Iterator[Array]:
    """Row indices of each update: every epoch goes through all rows once, in a new order.

    together: rows of a unit, which stand side by side; no minibatch has a part of one.
    """
    rng = np.random.default_rng(seed)
    units = size // together
    wanted = min(max(1, wanted // together) if wanted else units, units)
    for _ in range(epochs):
        order = rng.permutation(units)
        for part in np.array_split(order, math.ceil(units / wanted)):
            yield (np.sort(part)[:, None] * together + np.arange(together)).ravel()


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

    together = 2 if objective.of == "pairs" else 1
    plan = list(minibatches(len(examples), settings.minibatch, settings.epochs, settings.seed, together=together))
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
            tokens, trained, measured, loss_sum = 0, 0, 0, 0.0
            in_update = np.concatenate(parts)
            shares = coefficients(examples, in_update, settings.aggregation, settings.longest)
            ends = np.cumsum([examples.responses.sizes[rows].sum() for rows in parts])
            for rows, coefficient in zip(parts, np.split(shares, ends[:-1]), strict=True):
                tokens += int((coefficient != 0).sum())
                if examples.advantage is not None and not options.get("kl_coef"):
                    coefficient = np.where(_on_rows(examples, rows, examples.advantage) != 0, coefficient, 0.0)
                for batch in micro_batches(examples, rows, coefficient, budget, together=together):
                    logprob = token_logprobs(model, examples, batch, autocast)
                    if objective.of == "pairs":
                        share = examples.weight[batch.rows[::2]] * together / len(in_update)
                        given = objective.function(_pair_batch(examples, batch, logprob), **options)
                    else:
                        share = batch.coefficient
                        given = objective.function(_token_batch(examples, batch, logprob), **options)
                    loss, metrics = _loss_and_metrics(given, objective.name, len(share))
                    total = (loss * torch.from_numpy(share).to(loss.device, torch.float32)).sum()
                    total.backward()
                    loss_sum += total.item()
                    trained += len(batch.place)
                    measured += len(loss)
                    for name, values in metrics.items():
                        sums[name] = sums.get(name, 0.0) + values.sum().item()
                advance(1)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm or math.inf).item()
            if not (math.isfinite(loss_sum) and math.isfinite(norm)):
                raise ApportionError(
                    f"update {update}: loss {loss_sum}, gradient norm {norm}; lower --lr, or check the credit with inspect"
                )
            optimizer.step()
            yield {
                "update": done_before + update,
                "loss": loss_sum,
                "grad_norm": norm,
                "lr": optimizer.param_groups[0]["lr"],
                "tokens": tokens,
                "trained_tokens": trained,
                **{name: value / max(measured, 1) for name, value in sums.items()},
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


def _pair_batch(examples: Examples, batch: MicroBatch, logprob: "Tensor") -> PairBatch:
    """Sums over the tokens of each row; rows alternate between chosen and rejected."""
    import torch

    assert examples.reference_logprob is not None, "the objective is told what the frozen reference says"
    row = torch.from_numpy(batch.row).to(logprob.device)

    def of_rows(values: "Tensor") -> "Tensor":
        return values.new_zeros(len(batch.rows)).index_add(0, row, values)

    own = of_rows(logprob)
    reference = of_rows(torch.from_numpy(examples.reference_logprob[batch.place]).to(logprob))
    return PairBatch(own[::2], own[1::2], reference[::2], reference[1::2], of_rows(torch.ones_like(logprob))[::2])


def with_reference(examples: Examples, model: Any, micro_tokens: int, dtype: "torch.dtype") -> Examples:
    """The examples with the log-probabilities a frozen reference gives their tokens."""
    return replace(examples, reference_logprob=all_logprobs(model, examples, micro_tokens, dtype))


def with_old(examples: Examples, model: Any, micro_tokens: int, dtype: "torch.dtype") -> Examples:
    """The examples with the log-probabilities of the policy as it is before the first update."""
    return replace(examples, old_logprob=all_logprobs(model, examples, micro_tokens, dtype))


def _loss_and_metrics(given: Any, objective: str, size: int) -> tuple["Tensor", Mapping[str, "Tensor"]]:
    """What an objective gave. PluginError unless it is a loss of that many items that a gradient flows through, and metrics."""
    from torch import Tensor

    pair = isinstance(given, tuple) and len(given) == 2
    loss, metrics = given if pair else (None, None)
    fits = isinstance(loss, Tensor) and tuple(loss.shape) == (size,) and isinstance(metrics, Mapping)
    who = f"objective {objective}"
    check_result(fits, who, f"a loss of {size} numbers, and metrics by name", loss if pair else given)
    assert loss is not None and metrics is not None
    check_result(loss.requires_grad, who, "a loss that depends on logprob", loss)
    for name, values in metrics.items():
        check_result(isinstance(values, Tensor), f"{who}: metric {name!r}", "a tensor", values)
    return loss, metrics
