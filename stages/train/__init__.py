"""Rollouts with credit → a better policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..core.options import OUT, Chooses, Names, check_numbers
from ..core.ranges import AtLeast, Between, Range

if TYPE_CHECKING:
    from ._run import Trained


@check_numbers
def train(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    model: Annotated[str, "Policy to start from: builtin:tiny, a directory, or a Hub id."] = "builtin:tiny",
    objective: Annotated[str, "Objective; see `apportion list objectives`.", Chooses("objectives")] = "ppo",
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the objective, name=value; repeatable.", Names(("--set",))
    ] = None,
    credit: Annotated[str, "Credit column on the token ruler."] = "advantage",
    aggregation: Annotated[
        Literal[
            "token-mean",
            "seq-mean-token-mean",
            "seq-mean-token-sum",
            "seq-mean-token-sum-norm",
            "group-mean-token-mean",
        ],
        "How token losses become one number.",
    ] = "token-mean",
    norm_length: Annotated[
        int, "Constant of seq-mean-token-sum-norm, tokens; 0 is the file's longest response.", AtLeast(0)
    ] = 0,
    reference: Annotated[
        str | None, "Frozen policy that a KL penalty or a preference is measured to; of preferences, else --model."
    ] = None,
    old_logprobs: Annotated[
        Literal["recorded", "recompute"], "Sampling log-probabilities: as recorded, or by the starting policy."
    ] = "recorded",
    lr: Annotated[float, "Learning rate.", Range(0, 1_000_000, above=True)] = 1e-6,
    epochs: Annotated[int, "Passes over the rollouts.", AtLeast(1)] = 1,
    minibatch: Annotated[int, "Rollouts per minibatch; 0 is all of them.", AtLeast(0)] = 0,
    accumulate: Annotated[int, "Minibatches per optimizer update, which count as one.", AtLeast(1)] = 1,
    micro_tokens: Annotated[int, "Padded tokens per forward pass; 0 fits the vocabulary to memory.", AtLeast(0)] = 0,
    warmup: Annotated[int, "Updates of linear warm-up, counted over continued runs.", AtLeast(0)] = 0,
    schedule: Annotated[Literal["constant", "linear", "cosine"], "Decay of the learning rate to 0."] = "constant",
    beta1: Annotated[float, "AdamW's first-moment decay.", Range(0, 1, below=True)] = 0.9,
    beta2: Annotated[float, "AdamW's second-moment decay.", Range(0, 1, below=True)] = 0.999,
    weight_decay: Annotated[float, "AdamW's decoupled weight decay.", Between(0, 1_000_000)] = 0.0,
    max_grad_norm: Annotated[float, "Gradient norm is clipped to this; 0 is off.", AtLeast(0)] = 1.0,
    fresh_optimizer: Annotated[
        bool, "Start with an empty optimizer state even where the model has one of this objective."
    ] = False,
    allow_retokenized: Annotated[bool, "Train on a file whose token ids were made from text afterwards."] = False,
    on_nothing: Annotated[
        Literal["error", "skip"],
        "Where nothing can be learned (all credit 0, no pair, no row): an error, or the policy as it was.",
    ] = "error",
    seed: Annotated[int, "Seed of the order of minibatches and of blank weights.", AtLeast(0)] = 0,
    device: Annotated[str, "auto, cpu, cuda, cuda:1 …"] = "auto",
    dtype: Annotated[
        str, "Of the forward pass: auto (bfloat16 on CUDA), float32, bfloat16. Weights are float32."
    ] = "auto",
    out: Annotated[Path, "Checkpoint directory to write.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Trained":
    """Update a policy on rollouts with credit (ppo, opmd), on demonstrations (sft), or on preference pairs (dpo).

    Writes a Hugging Face checkpoint with the optimizer's state, metrics.jsonl and the history that led to it. The next
    training of that checkpoint goes on with the state; with another objective, whose gradients are of another size, it
    begins anew. Probes, evals and rows flagged `error` or `filtered` are never trained on.

    A loop meets rounds in which every group of rollouts is equally good, so that there is nothing to learn. With
    `--on-nothing skip` such a round ends with 0 updates, and the checkpoint is the policy it started from.
    """
    from ._run import Training

    training = Training(
        model=model, objective=objective, settings=settings, credit=credit, aggregation=aggregation,
        norm_length=norm_length, reference=reference, old_logprobs=old_logprobs, lr=lr, epochs=epochs,
        minibatch=minibatch, accumulate=accumulate, micro_tokens=micro_tokens, warmup=warmup, schedule=schedule,
        beta1=beta1, beta2=beta2, weight_decay=weight_decay, max_grad_norm=max_grad_norm,
        fresh_optimizer=fresh_optimizer, allow_retokenized=allow_retokenized, on_nothing=on_nothing, seed=seed,
        device=device, dtype=dtype,
    )  # fmt: skip
    return training.write(rollouts, out, force=force)
