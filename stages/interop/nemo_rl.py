"""Credit per token in NeMo-RL's GRPO: an advantage estimator in the place of its own.

    from apportion.stages.interop.nemo_rl import install

    install("tempo")            # in your copy of examples/run_grpo.py, before its other imports of nemo_rl

Read in the source of NVIDIA-NeMo/RL, not run: nemo_rl/algorithms/grpo.py at ddbdb1e, advantage_estimator.py at 00925dd,
single_controller_utils/advantage_stage.py at 122b734, and pull request 3882 (August 2026).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...formats.errors import DataError, UsageError
from ._rows import SPANS, Rows, as_numpy, credit_for


def install(method: str, *, preset: str | None = None, **options: Any) -> None:
    """Puts a `Credit` where GRPO makes its estimator, with the run's num_generations_per_prompt. UsageError as there."""
    Credit(method, preset=preset, **options)  # a wrong option ends the script here
    from nemo_rl.algorithms import grpo  # type: ignore[import-not-found]

    def create(master_config: Any) -> Credit:
        settings = master_config["grpo"] if isinstance(master_config, Mapping) else master_config.grpo
        size = (
            settings["num_generations_per_prompt"]
            if isinstance(settings, Mapping)
            else settings.num_generations_per_prompt
        )
        return Credit(method, group_size=size, preset=preset, **options)

    grpo._create_advantage_estimator = create


class Credit:
    """What NeMo-RL calls an advantage estimator."""

    def __init__(self, method: str, *, group_size: int | None = None, preset: str | None = None, **options: Any):
        """A method that needs no probes, with its options.

        group_size: num_generations_per_prompt. Rows of a group are neighbours; that two prompts are equal makes them no group.
        Without it, `prompt_ids` must be the groups' numbers, one a row, as releases with pull request 3882 hand over.
        UsageError for an unknown method, preset or option, or for one that needs what NeMo-RL does not hand over.
        """
        self.credit = credit_for("NeMo-RL", method, preset, options, has=("reward", *SPANS, "token.logprob"))
        self.group_size = group_size

    def compute_advantage(
        self,
        prompt_ids: Any,
        rewards: Any,
        mask: Any,
        repeated_batch: Any = None,
        logprobs_policy: Any = None,
        logprobs_reference: Any = None,
        valid_mask: Any = None,
        **_: Any,
    ) -> Any:
        """[B, S] over the whole sequences, 0 where the mask is.

        A row takes no part if its reward is NaN or valid_mask leaves it out. One that only the mask leaves out counts in its group,
        as in NeMo-RL's own estimators.
        """
        import torch

        trained = as_numpy(mask) > 0  # [B, S]
        groups = self._groups(as_numpy(prompt_ids), len(trained))
        sequences = self._sequences(repeated_batch, trained)
        logprobs = None if logprobs_policy is None else as_numpy(logprobs_policy)
        left_out = np.zeros(len(trained), bool) if valid_mask is None else as_numpy(valid_mask).reshape(-1) == 0
        rewards = as_numpy(rewards).reshape(-1)
        if len(rewards) != len(trained):
            raise DataError(f"rewards: {len(rewards)} values for {len(trained)} rows")
        rows, starts = Rows(self.credit), list[int]()
        for row, (ids, own) in enumerate(sequences):
            start = int(own.argmax()) if own.any() else len(own)
            starts.append(start)
            rows.add(
                ids[start:].tolist(), own[start:].tolist(), reward=float(rewards[row]), group=groups[row], skip=bool(left_out[row]),
                signals={"token.logprob": None if logprobs is None else logprobs[row, start : len(own)].tolist()},
            )  # fmt: skip
        found = np.zeros(trained.shape, np.float32)
        for row, (start, values) in enumerate(zip(starts, rows.found(), strict=True)):
            found[row, start : start + len(values)] = values
        return torch.from_numpy(np.where(trained, found, 0)).to(mask.device)

    def _groups(self, prompt_ids: Any, rows: int) -> Sequence[Any]:
        if prompt_ids.ndim == 1:
            found = prompt_ids.tolist()
        elif self.group_size is None:
            raise UsageError("prompt_ids are tokens, and equal prompts may be of two groups; give group_size")
        elif rows % self.group_size:
            raise DataError(f"{rows} rows are no whole groups of {self.group_size}; check num_generations_per_prompt")
        else:
            found = [row // self.group_size for row in range(rows)]
        if len(found) != rows:
            raise DataError(f"prompt_ids: {len(found)} groups for {rows} rows")
        return found

    def _sequences(self, repeated_batch: Any, trained: Any) -> list[tuple[Any, Any]]:
        """Of each row the token ids of its whole sequence, and which the policy wrote."""
        if repeated_batch is None or "message_log" not in repeated_batch:
            if self.credit.method.compares_rows:
                raise UsageError(
                    f"credit method {self.credit.method.name} compares tokens, and this path of NeMo-RL hands none to its "
                    "estimator; choose a method without trees, or run GRPO without the data plane"
                )
            ends = np.where(trained.any(1), trained.shape[1] - trained[:, ::-1].argmax(1), 0)
            return [(np.zeros(end, np.int64), row[:end]) for row, end in zip(trained, ends.tolist(), strict=True)]
        logs = repeated_batch["message_log"]
        if len(logs) != len(trained):
            raise DataError(f"message_log: {len(logs)} rows for {len(trained)} of mask")
        return [_sequence(log, row, number) for number, (log, row) in enumerate(zip(logs, trained, strict=True))]


def _sequence(messages: Sequence[Mapping[str, Any]], trained: Any, number: int) -> tuple[Any, Any]:
    ids, own = list[Any](), list[Any]()
    for message in messages:
        tokens = as_numpy(message["token_ids"]).reshape(-1)
        written = message.get("token_loss_mask")
        ids.append(tokens)
        own.append(np.full(len(tokens), message["role"] == "assistant") if written is None else as_numpy(written) > 0)
    whole, wrote = np.concatenate([np.empty(0, np.int64), *ids]), np.concatenate([np.empty(0, bool), *own])
    if (
        len(wrote) != len(whole)
        or (np.flatnonzero(trained) >= len(whole)).any()
        or (trained[: len(whole)] & ~wrote).any()
    ):
        raise DataError(
            f"row {number}: the mask of {len(trained)} tokens is not that of its {len(whole)} message tokens"
        )
    return whole, wrote
