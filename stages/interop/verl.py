"""Credit per token in verl's v1 trainer: a module of your own that verl imports.

    from verl.trainer.ppo.v1 import PPOTrainerSync
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
    from apportion.stages.interop.verl import with_credit

    TRAINER_REGISTRY["sync"] = with_credit(PPOTrainerSync, "tempo")

Written for verl 0.9.1. `with_rollouts` writes rollout files from the trainer and `with_replay` takes credit from a file; for
methods that need rewards and groups alone, the estimator of verl_estimator.py needs no trainer of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ...formats.errors import UsageError
from ...formats.provenance import digest_of_file
from ...formats.segments import Array
from ..core.options import as_json
from ._rows import credit_for
from ._seam import shares
from ._verl_batch import FIELDS, SIGNALS, STEPS, Batch, credit_of, put_advantages
from ._verl_replay import CreditFiles
from ._verl_rollouts import write_batch

Trainer = TypeVar("Trainer")
Assign = Callable[[Batch, int], tuple[list[Array], dict[str, float]]]  # of a batch and the trainer's step


def with_credit(
    trainer: type[Trainer],
    method: str,
    *,
    preset: str | None = None,
    steps: Literal["mask"] | None = "mask",
    **options: Any,
) -> type[Trainer]:
    """A subclass of a v1 trainer of verl's whose advantages are a credit method's, one a token.

    verl computes its own advantages first, with algorithm.adv_estimator; these are replaced, and its returns stay. A group is a
    prompt, an episode is a run of the agent, and each of the outputs of that run is a part of it. The episode's reward is that
    of its last part. Rows that verl added to fill a batch, rows without a reward and rows whose mask is all false take no part.

    Args:
        trainer: PPOTrainerSync, PPOTrainerColocateAsync, PPOTrainerSeparateAsync, or a subclass.
        method: a credit method that needs no probes; see `apportion list methods`.
        preset: conventions of a library.
        steps: for methods that need steps, "mask" makes a turn of each run of the model's tokens.
        options: of the method.

    Returns:
        The class. Its trainer logs credit/dead_groups, credit/singletons and credit/tokens (with a credit other than 0), as
        shares. It writes rollout files as `with_rollouts` does.

    Raises:
        UsageError: an unknown method, preset or option, one that needs a column the trainer does not have, a class that is no v1
            trainer; when the trainer is made, a method that needs a critic's values without a critic.
    """
    has = ("reward", "rewards.", *SIGNALS, *(STEPS if steps is not None else ()))
    credit = credit_for("verl's trainer", method, preset, options, has=has)

    def assign(batch: Batch, _: int) -> tuple[list[Array], dict[str, float]]:
        found, info = credit_of(batch, credit, turns=steps is not None)
        return found, shares(info)

    told = {"method": method, "preset": preset, "settings": as_json(credit.options), "steps": steps}
    signals = [SIGNALS[path] for path in credit.needs if path in SIGNALS]
    return _with_advantages(trainer, assign, told, signals)


def with_replay(trainer: type[Trainer], credit: Path | str) -> type[Trainer]:
    """A subclass of a v1 trainer of verl's whose advantages come from credit that `apportion export --format flat` wrote.

    A row is looked up by its key {uid}_{session}_{index}, and in a batch that verl injected again (skip.rollout_tq) by the key it
    was sampled under. Rows that the file assigns nothing to (null) get 0, as do tokens outside of the mask.

    Args:
        trainer: as for `with_credit`.
        credit: the file, or a folder with a file {step}.parquet for each of the trainer's steps.

    Raises:
        UsageError: no such file. DataError: a file without keys and digests; in the loop, a row that the file lacks, or whose
            tokens are others than those the credit was computed on.
    """
    files = CreditFiles(Path(credit))

    def assign(batch: Batch, step: int) -> tuple[list[Array], dict[str, float]]:
        found = files.credit_of(batch, step)
        tokens = sum(int(row.sum()) for row in batch.trained)
        return found, {"credit/tokens": sum(int(np.count_nonzero(row)) for row in found) / max(tokens, 1)}

    return _with_advantages(trainer, assign, {"replay": digest_of_file(files.path)})


def with_rollouts(trainer: type[Trainer]) -> type[Trainer]:
    """A subclass of a v1 trainer of verl's that writes its rollouts, with the token ids that were sampled and verl's own
    advantages: {trainer.rollout_data_dir}/{step}.parquet beside verl's own {step}.jsonl.

    The files are those of `apportion sample`: `validate`, `inspect`, `assign-credit`, `diff` and the rest read them. verl's
    advantages are `token.advantage_verl`; those of `with_credit` or `with_replay` are `token.advantage`.

    Raises:
        UsageError: a class that is no v1 trainer.
    """
    if not hasattr(trainer, "_compute_advantage"):
        raise UsageError(
            f"{trainer.__name__} is no v1 trainer of verl's: expected PPOTrainerSync or one like it, of verl.trainer.ppo.v1"
        )
    if hasattr(trainer, "_credit_told"):
        return trainer

    class RolloutTrainer(trainer):  # type: ignore[misc, valid-type]
        _credit_told: Mapping[str, Any] = {}
        _own_advantages: tuple[int, dict[str, Array]] = (-1, {})
        """verl's, of the step of that number, by the rows' keys."""

        def _log_rollout_data(self, batch: Any, timing_raw: Any, rollout_data_dir: str) -> None:
            super()._log_rollout_data(batch, timing_raw, rollout_data_dir)  # type: ignore[misc]
            step, own = self._own_advantages
            rows = Batch.read(batch, (*FIELDS, *SIGNALS.values(), "raw_prompt"))
            theirs = own if step == self.global_steps else {}  # type: ignore[attr-defined]
            write_batch(Path(rollout_data_dir), rows, self, told=self._credit_told, own=theirs)

    return _named(RolloutTrainer, f"Rollout{trainer.__name__}")


def _with_advantages(
    trainer: type[Trainer], assign: Assign, told: Mapping[str, Any], signals: Sequence[str] = ()
) -> type[Trainer]:
    """told: how the credit came to be, for the history of the files. signals: verl's fields that it needs beside FIELDS."""
    if getattr(trainer, "_credit_told", None):
        raise UsageError(f"{trainer.__name__} has credit already; give it one method, or one file")

    class CreditTrainer(with_rollouts(trainer)):  # type: ignore[misc]
        _credit_told = told

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            if "values" in signals and not self.use_critic:  # type: ignore[attr-defined]
                raise UsageError(f"credit method {told['method']} needs a critic's values; set critic.enable=true")

        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            after = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
            rows = Batch.read(batch, (*FIELDS, *signals))
            if len(rows):
                step = self.global_steps  # type: ignore[attr-defined]
                if self._own_advantages[0] != step:
                    self._own_advantages = (step, {})
                self._own_advantages[1].update(zip(rows.names, rows.fields["advantages"], strict=True))
                advantages, figures = assign(rows, step)
                put_advantages(batch, rows, advantages)
                metrics.update(figures)
            return after

    return _named(CreditTrainer, f"Credit{trainer.__name__}")


def _named(made: Any, name: str) -> Any:
    made.__name__ = made.__qualname__ = name
    return made
