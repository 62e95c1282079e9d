"""Credit per token in slime, through two of its function paths.

    # my_credit.py, which every node can import
    from apportion.stages.interop.slime import Credit

    credit = Credit("tempo", folder="/shared/run/credit")
    rewards, advantages = credit.rewards, credit.advantages

    --custom-reward-post-process-path my_credit.rewards --custom-advantage-function-path my_credit.advantages

Groups are spread over data-parallel ranks, so credit is computed before, where all samples are, and read on the ranks from a file.
A method whose credit is the same on all tokens of a sample needs only the first path, with --advantage-estimator grpo.

Read in the source of THUDM/slime, not run: slime/data/batch_builder.py at 13b347f, slime/backends/megatron_utils/loss.py at
00c2d6d and cp_utils.py at 04949ce (2026); slime/ray/rollout.py at a51f071, an older one, calls the same hooks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...formats.errors import DataError, UsageError
from ._credit_folder import key_of, read_credit, write_credit
from ._rows import SPANS, Rows, credit_for

BROADCAST = ("grpo", "gspo", "cispo")  # estimators that give a sample's reward to all its tokens


class Credit:
    """A credit method with a folder that the trainer's nodes share."""

    def __init__(self, method: str, *, folder: str | Path, preset: str | None = None, **options: Any):
        """UsageError for an unknown method, preset or option, or a method that needs what slime's samples do not have.

        folder: gets a rollout file for each batch, which `apportion inspect` reads, too. Old ones may be deleted.
        """
        self.credit = credit_for("slime", method, preset, options, has=("reward", *SPANS, "token.logprob"))
        self.folder = Path(folder)

    def rewards(self, args: Any, samples: Sequence[Any]) -> tuple[list[float], list[float]]:
        """For --custom-reward-post-process-path: saves the credit; gives the raw rewards, and what stands for each sample."""
        credit = self.save(args, samples)
        raw = [_reward(args, sample) or 0.0 for sample in samples]
        if getattr(args, "custom_advantage_function_path", None) is not None:
            return raw, raw
        scalars: list[float] = []
        for sample, values in zip(samples, credit, strict=True):
            own = {value for value, wrote in zip(values, _mask(sample), strict=True) if wrote}
            if len(own) > 1 or args.advantage_estimator not in BROADCAST:
                raise UsageError(
                    f"credit method {self.credit.method.name} gives the tokens of a sample different credit, or advantage_estimator is "
                    f"none of {', '.join(BROADCAST)}; set --custom-advantage-function-path"
                )
            scalars.append(own.pop() if own else 0.0)
        return raw, scalars

    def save(self, args: Any, samples: Sequence[Any]) -> list[list[float]]:
        """The credit of every response token, and a file of it. A converter of your own calls it
        (--custom-convert-samples-to-train-data-path).

        Samples of one `rollout_id` are parts of one episode. One without a reward takes no part. One with `remove_sample` counts in
        its group, as in slime, and gets 0.
        """
        rows = Rows(self.credit)
        for sample in samples:
            if sample.group_index is None:
                raise DataError(f"sample {sample.index} has no group_index; set it where samples are made")
            rollout = getattr(sample, "rollout_id", None)
            rows.add(
                sample.tokens[len(sample.tokens) - sample.response_length :],
                _mask(sample),
                reward=_reward(args, sample),
                group=sample.group_index,
                episode=None if rollout is None else f"{sample.group_index}/{rollout}",
                signals={"token.logprob": sample.rollout_log_probs},
            )
        found = rows.found()
        keys = [key_of(sample.index, sample.tokens) for sample in samples]
        prompts = [list(sample.tokens[: len(sample.tokens) - sample.response_length]) for sample in samples]
        write_credit(self.folder, keys, prompts, rows, found)
        return found

    def advantages(self, args: Any, rollout_data: dict[str, Any]) -> None:
        """For --custom-advantage-function-path: advantages and returns of this rank's samples, and of its part of each with
        context parallelism."""
        import torch

        if args.normalize_advantages:
            raise UsageError("--normalize-advantages changes the credit after it is set; leave it out")
        keys = [key_of(*each) for each in zip(rollout_data["sample_indices"], rollout_data["tokens"], strict=True)]
        found = read_credit(self.folder, keys)
        advantages: list[Any] = []
        columns = (keys, rollout_data["kl"], rollout_data["total_lengths"], rollout_data["response_lengths"])
        for key, like, total, length in zip(*columns, strict=True):
            values = torch.as_tensor(found[key], dtype=torch.float32, device=like.device)
            if len(values) == length and len(like) != length:
                from slime.backends.megatron_utils import cp_utils  # type: ignore[import-not-found]

                values = cp_utils.slice_log_prob_with_cp(values, total, length)
            if len(values) != len(like):
                raise DataError(f"sample {key}: credit of {len(values)} tokens, expected {len(like)}")
            advantages.append(values)
        rollout_data["advantages"], rollout_data["returns"] = advantages, list(advantages)


def _reward(args: Any, sample: Any) -> float | None:
    return None if sample.reward is None else sample.get_reward_value(args)


def _mask(sample: Any) -> list[bool]:
    if sample.remove_sample or sample.loss_mask is None:
        return [not sample.remove_sample] * sample.response_length
    if len(sample.loss_mask) != sample.response_length:
        raise DataError(
            f"sample {sample.index}: loss_mask has {len(sample.loss_mask)} values for {sample.response_length} response tokens"
        )
    return [bool(each) for each in sample.loss_mask]
