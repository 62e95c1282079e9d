"""Credit per token in TRL's GRPOTrainer: one line beside the script that is there.

    from trl import GRPOConfig, GRPOTrainer
    from apportion.stages.interop.trl import with_credit

    trainer = with_credit(GRPOTrainer, "tempo")(model=…, reward_funcs=…, args=GRPOConfig(…), train_dataset=…)

Written for TRL 1.16, whose losses take advantages of shape (B, T) from subclasses; the tests run it with that release.
"""

from typing import Any, Literal, TypeVar

import numpy as np

from ...formats.errors import DataError, UsageError
from ..assign_credit import TokenCredit

Trainer = TypeVar("Trainer")
LOGPROBS = ("sampling_per_token_logps", "old_per_token_logps")  # the first that the trainer has


def with_credit(
    trainer: type[Trainer],
    method: str,
    *,
    preset: str | None = None,
    steps: Literal["mask"] | None = "mask",
    **options: Any,
) -> type[Trainer]:
    """A subclass of a GRPOTrainer whose advantages are a credit method's, one a token.

    The rewards are TRL's: its functions, weighted by reward_weights. Groups are the num_generations completions of a prompt, over
    all processes. Rows for which every reward function gave None take no part. Tokens that a tool wrote get 0.

    Args:
        trainer: GRPOTrainer, or a subclass of it.
        method: a credit method that needs no probes; see `apportion list methods`.
        preset: conventions of a library; `with_credit(GRPOTrainer, "grpo", preset="trl")` changes nothing.
        steps: for methods that need steps, "mask" makes a turn of each run of the model's tokens.
        options: of the method.

    Returns:
        The class. Its trainer logs credit/dead_groups, credit/singletons and credit/tokens (with a credit other than 0),
        as shares.

    Raises:
        UsageError: an unknown method, preset or option, one that needs a column the trainer does not have; when the trainer is
            made, use_liger_kernel, whose loss takes one advantage a completion.
    """
    credit = TokenCredit(method, preset=preset, **options)
    unknown = [
        path for path in credit.needs if path not in ("reward", "token.logprob") and not _is_made_here(path, steps)
    ]
    if unknown:
        raise UsageError(f"credit method {method} needs {unknown[0]!r}, which TRL's trainer does not have")

    class CreditTrainer(trainer):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            if getattr(self.args, "use_liger_kernel", False):  # type: ignore[attr-defined]
                raise UsageError("use_liger_kernel takes one advantage a completion, not one a token; leave it out")

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            self._rewards_per_function = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
            return self._rewards_per_function

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
            return output | {"advantages": _advantages(self, output, credit, steps)}

    CreditTrainer.__name__ = CreditTrainer.__qualname__ = f"Credit{trainer.__name__}"
    return CreditTrainer  # type: ignore[return-value]


def _is_made_here(path: str, steps: str | None) -> bool:
    return path.startswith("node.") or (steps is not None and path in ("step.start", "step.end"))


def _advantages(trainer: Any, output: Any, credit: TokenCredit, steps: str | None) -> Any:
    """[B, L] on this process's completions, computed over those of all."""
    import torch
    from accelerate.utils import gather_object

    ids, inside = output["completion_ids"], output["completion_mask"].bool()
    own = inside & output["tool_mask"].bool() if "tool_mask" in output else inside
    here: dict[str, list[Any]] = {"ids": _rows(ids, inside), "own": _rows(own, inside)}
    if "token.logprob" in credit.needs:
        name = next((each for each in LOGPROBS if each in output), None)
        if name is None:
            raise DataError(
                f"credit method {credit.method.name} needs log-probabilities, which this trainer did not keep; use vLLM, or "
                "steps_per_generation above gradient_accumulation_steps"
            )
        here["token.logprob"] = _rows(output[name], inside)
    everywhere = {path: gather_object(rows) for path, rows in here.items()}

    per_function = trainer._rewards_per_function
    weights = trainer.reward_weights.to(per_function.device)
    reward = (per_function * weights).nansum(1).double().cpu().numpy()
    mode = "train" if trainer.model.training else "eval"
    size = trainer.num_generations if mode == "train" else trainer.num_generations_eval
    found, info = credit.with_info(
        reward=reward,
        group=np.arange(len(reward)) // size,
        token_ids=everywhere.pop("ids"),
        mask=everywhere.pop("own"),
        steps=steps if "step.start" in credit.needs else None,
        skip=torch.isnan(per_function).all(1).cpu().numpy(),
        signals=everywhere,
    )
    metrics = trainer._metrics[mode]
    metrics["credit/dead_groups"].append(info.dead_groups / max(info.groups, 1))
    metrics["credit/singletons"].append(info.singletons / max(info.groups, 1))
    metrics["credit/tokens"].append(info.credited / max(info.tokens, 1))

    first = trainer.accelerator.process_index * len(ids)
    advantages = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    mine = [value for row in found[first : first + len(ids)] for value in row]
    advantages[inside] = torch.tensor(mine, dtype=torch.float32, device=ids.device)
    return advantages


def _rows(values: Any, inside: Any) -> list[Any]:
    """A list for each completion, without padding."""
    return [row[chosen].tolist() for row, chosen in zip(values.cpu(), inside.cpu(), strict=True)]
