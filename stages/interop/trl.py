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
from ._rows import SPANS, credit_for
from ._seam import credit_rows, repad, shares, unpad

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
    has = ("reward", "token.logprob", *(SPANS if steps is not None else ()))
    credit = credit_for("TRL's trainer", method, preset, options, has=has)

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


def _advantages(trainer: Any, output: Any, credit: TokenCredit, steps: str | None) -> Any:
    """[B, L] on this process's completions, computed over those of all."""
    import torch
    from accelerate.utils import gather_object

    ids, inside = output["completion_ids"], output["completion_mask"].bool()
    own = inside & output["tool_mask"].bool() if "tool_mask" in output else inside
    here: dict[str, list[Any]] = {"ids": unpad(ids, inside), "own": unpad(own, inside)}
    if "token.logprob" in credit.needs:
        name = next((each for each in LOGPROBS if each in output), None)
        if name is None:
            raise DataError(
                f"credit method {credit.method.name} needs log-probabilities, which this trainer did not keep; use vLLM, or "
                "steps_per_generation above gradient_accumulation_steps"
            )
        here["token.logprob"] = unpad(output[name], inside)
    everywhere = {path: gather_object(rows) for path, rows in here.items()}

    per_function = trainer._rewards_per_function
    weights = trainer.reward_weights.to(per_function.device)
    reward = (per_function * weights).nansum(1).double().cpu().numpy()
    mode = "train" if trainer.model.training else "eval"
    size = trainer.num_generations if mode == "train" else trainer.num_generations_eval
    found, info = credit_rows(
        credit,
        everywhere.pop("ids"),
        everywhere.pop("own"),
        reward=reward,
        group=np.arange(len(reward)) // size,
        steps=steps if "step.start" in credit.needs else None,
        skip=torch.isnan(per_function).all(1).cpu().numpy(),
        signals=everywhere,
    )
    for name, share in shares(info).items():
        trainer._metrics[mode][name].append(share)
    first = trainer.accelerator.process_index * len(ids)
    return repad(found[first : first + len(ids)], inside)
