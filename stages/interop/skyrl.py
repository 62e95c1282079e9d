"""Credit per token in SkyRL: in its trainer, or, of methods that go by rewards alone, as one of its advantage estimators.

    class Experiment(BasePPOExp):
        def get_trainer(self, **parts):
            return with_credit(RayPPOTrainer, "tempo")(**parts)

Written for SkyRL 0.3, whose responses are aligned on the right; the tests run it with that release's trainer.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar

import numpy as np

from ...formats.errors import DataError, UsageError
from ..assign_credit import TokenCredit
from ._rows import SPANS, credit_for
from ._seam import credit_rows, paid_in_turns, repad, shares, unpad

Trainer = TypeVar("Trainer")
LOGPROBS = ("rollout_logprobs", "action_log_probs")  # the first that the batch has


def with_credit(
    trainer: type[Trainer],
    method: str,
    *,
    preset: str | None = None,
    steps: Literal["mask"] | None = "mask",
    **options: Any,
) -> type[Trainer]:
    """A subclass of a RayPPOTrainer whose advantages are a credit method's, one a token.

    Groups are the rollouts of a uid. With step_wise_trajectories, the rows up to one with is_last_step are one episode, which
    counts once in its group, and whose reward is that of its last row, as SkyRL has it; what each turn was paid is step.reward.
    Rows that pad the batch, and episodes whose reward is not a number, take no part. Tokens that the loss mask leaves out get 0.

    Args:
        trainer: RayPPOTrainer, or a subclass of it.
        method: a credit method that needs no probes; see `apportion list methods`.
        preset: conventions of a library.
        steps: for methods that need steps, "mask" makes a turn of each run of tokens in the loss mask.
        options: of the method.

    Returns:
        The class. Its trainer logs credit/dead_groups, credit/singletons and credit/tokens, shares. `returns`, from which a
        critic learns, stay those of trainer.algorithm.advantage_estimator.

    Raises:
        UsageError: an unknown method, preset or option, one that needs a column SkyRL does not have; when the trainer is made,
            values without a critic, or a method that compares rollouts token by token where each turn is a row.
    """
    has = ("reward", "token.logprob", "token.value", *((*SPANS, "step.reward") if steps else ()))
    credit = credit_for("SkyRL's trainer", method, preset, options, has=has)

    class CreditTrainer(trainer):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            _check(self, credit)

        def compute_advantages_and_returns(self, data: Any) -> Any:
            data = super().compute_advantages_and_returns(data)  # type: ignore[misc]
            data["advantages"] = _advantages(self, data, credit, steps)
            return data

    CreditTrainer.__name__ = CreditTrainer.__qualname__ = f"Credit{trainer.__name__}"
    return CreditTrainer  # type: ignore[return-value]


def register(method: str, *, name: str | None = None, preset: str | None = None, **options: Any) -> str:
    """Make an advantage estimator of a credit method that needs nothing but rewards and groups; call it before Ray starts.

    Args:
        method: a credit method.
        name: of the estimator; None: apportion_METHOD.
        preset: conventions of a library.
        options: of the method.

    Returns:
        The name, for trainer.algorithm.advantage_estimator.

    Raises:
        UsageError: an unknown method, preset or option, and a method that needs more.
    """
    credit = credit_for("an estimator of SkyRL", method, preset, options, has=("reward",))
    if credit.method.compares_rows:
        raise UsageError(f"credit method {method} compares tokens, which an estimator of SkyRL does not have")
    name = name or f"apportion_{method}"
    estimators = import_module("skyrl.backends.skyrl_train.utils.ppo_utils")
    estimators.AdvantageEstimatorRegistry.register(name, Estimator(credit))
    return name


@dataclass(frozen=True)
class Estimator:
    """What SkyRL calls for advantages and returns, [B, L] each, which are the same here."""

    credit: TokenCredit

    def __call__(self, token_level_rewards: Any, response_mask: Any, index: Any, **_: Any) -> tuple[Any, Any]:
        inside = response_mask.bool()
        reward = token_level_rewards.double().sum(1)
        found = self.credit(
            reward=reward, group=index, token_ids=inside.int(), mask=inside, attention_mask=inside, skip=reward.isnan()
        )  # fmt: skip
        advantages = found.to(token_level_rewards)
        return advantages, advantages.clone()


def _check(trainer: Any, credit: TokenCredit) -> None:
    name, generator = credit.method.name, trainer.cfg.generator
    if "token.value" in credit.needs and not trainer.has_critic:
        raise UsageError(f"credit method {name} needs 'token.value'; give a critic, trainer.critic.model.path")
    if credit.method.compares_rows and generator.step_wise_trajectories and not generator.merge_stepwise_output:
        raise UsageError(
            f"credit method {name} compares rollouts token by token, and step_wise_trajectories makes a row of each turn; turn it "
            "off, or merge_stepwise_output on"
        )


def _advantages(trainer: Any, data: Any, credit: TokenCredit, steps: str | None) -> Any:
    """[B, L] on the responses of a batch."""
    inside = data["response_mask"].bool()
    own = unpad(data["loss_mask"].bool(), inside)
    rows, longest = inside.shape
    real = rows - data.metadata.get("pad_size", 0)
    reward = data["rewards"].double().sum(1).cpu().numpy()
    episode, last = None, data.metadata.get("is_last_step")
    if last is not None:
        ends = np.flatnonzero(last)
        episode = np.searchsorted(ends, np.arange(rows))
        reward = reward[ends][episode]
    signals: dict[str, Any] = {}
    if "token.logprob" in credit.needs:
        signals["token.logprob"] = unpad(_logprobs(data, credit), inside)
    if "token.value" in credit.needs:
        signals["token.value"] = unpad(data["values"], inside)
    if "step.reward" in credit.needs:
        paid = unpad(data["rewards"].double(), inside)
        signals["step.reward"] = [paid_in_turns(*(each.numpy() for each in row)) for row in zip(paid, own, strict=True)]
    found, info = credit_rows(
        credit,
        unpad(data["sequences"][:, -longest:], inside),
        own,
        reward=reward,
        group=data.metadata["uids"],
        episode=episode,
        steps=steps if "step.start" in credit.needs else None,
        skip=np.isnan(reward) | (np.arange(rows) >= real),
        signals=signals,
    )
    advantages = repad(found, inside)
    counted = advantages[:real][inside[:real]]
    mean, size = counted.mean().item(), counted.abs().mean().item()
    trainer.all_metrics |= shares(info) | {"loss/avg_raw_advantages": mean, "loss/avg_raw_advantages_abs": size}
    data.metadata["metrics"] |= {"avg_advantages": mean, "avg_advantages_abs": size}
    return advantages


def _logprobs(data: Any, credit: TokenCredit) -> Any:
    found = next((data[name] for name in LOGPROBS if data.get(name) is not None), None)
    if found is None:
        raise DataError(
            f"credit method {credit.method.name} needs log-probabilities, which this batch lacks; set "
            "generator.sampling_params.logprobs"
        )
    return found
