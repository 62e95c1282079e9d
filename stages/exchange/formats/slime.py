"""The rollouts that slime and miles save for debugging."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....formats.errors import DataError, UsageError
from ....formats.flags import ERROR, FILTERED, TRUNCATED
from ..kind import Sample, Source, Unmapped, importer
from ._messages import message, messages_of

FLAG_OF_STATUS = {"truncated": TRUNCATED, "aborted": ERROR, "failed": ERROR}


@importer(
    "slime",
    recognises=lambda source: source.path.suffix == ".pt",
    exact=True,
    fills=(
        "reward", "rewards.NAME", "prompt", "text", "reference", "iteration", "policy_start", "policy_end", "flags", "error",
        "episode_id", "part", "token.logprob",
    ),
    loses=("routed experts and images", "advantages, which are in slime's files of training data"),
    source="slime, utils/types.py of August 2026",
    evidence="code",
)  # fmt: skip
def read_samples(source: Source, *, reward_key: str = "") -> Iterator[Sample | Unmapped]:
    """Samples of slime's --save-debug-rollout-data, a .pt file a step.

    The last `response_length` tokens are the response; `loss_mask` says which the policy wrote. A sample's `group_index` is its
    group. Samples of one `rollout_id`, where they have one, are parts of an episode. `remove_sample` is flagged filtered, the
    status truncated as that, aborted and failed as error. The file is read without running code in it.

    Args:
        reward_key: which of several rewards is the reward; all of them become `rewards.NAME`. slime's own --reward-key.
    """
    content = source.torch()
    samples = content.get("samples") if isinstance(content, Mapping) else None
    if not isinstance(samples, Sequence):
        raise DataError(f"{source.path}: no 'samples' in it; name the file of --save-debug-rollout-data")
    step = content.get("rollout_id")
    parts: dict[Any, int] = {}
    for number, sample in enumerate(samples):
        where = f"{source.path}, sample {number}"
        tokens, length = list(sample.get("tokens") or ()), int(sample.get("response_length") or 0)
        if not 0 < length <= len(tokens):
            yield Unmapped("samples without a response")
            continue
        status = str(sample.get("status", ""))
        flags = [FILTERED] if sample.get("remove_sample") else []
        flags += [FLAG_OF_STATUS[status]] if status in FLAG_OF_STATUS else []
        versions = [int(each) for each in sample.get("weight_versions") or () if str(each).isdigit()]
        prompt = sample.get("prompt") or ""
        columns: dict[str, Any] = {
            **_rewards(sample.get("reward"), reward_key, where),
            "prompt": messages_of(prompt) if isinstance(prompt, list) else [message("user", prompt)],
            "text": sample.get("response") or None,
            "reference": sample.get("label"),
            "iteration": step if isinstance(step, int) else source.number_in_name("rollout", "step"),
            "policy_start": min(versions, default=None),
            "policy_end": max(versions, default=None),
            "flags": flags,
            "error": status if FLAG_OF_STATUS.get(status) == ERROR else None,
            "token.logprob": sample.get("rollout_log_probs"),
        }
        episode = sample.get("rollout_id")
        if episode is not None:
            columns |= {"episode_id": str(episode), "part": parts.get(episode, 0)}
            parts[episode] = parts.get(episode, 0) + 1
        group, index = sample.get("group_index"), sample.get("index")
        yield Sample(
            where=where,
            rollout_id=f"{step}/{number if index is None else index}",
            group_id=None if group is None else str(group),
            prompt_ids=tokens[:-length],
            ids=tokens[-length:],
            mask=[1] * length if sample.get("loss_mask") is None else sample["loss_mask"],
            columns={path: value for path, value in columns.items() if value is not None},
            record=sample,
        )


def _rewards(reward: Any, key: str, where: str) -> dict[str, Any]:
    """`reward`, and `rewards.NAME` of each number where there are several."""
    if not isinstance(reward, Mapping):
        return {"reward": reward}
    if key not in reward:
        named = ", ".join(map(str, reward))
        raise UsageError(f"{where}: several rewards ({named}); give --set reward_key=NAME")
    numbers = {f"rewards.{name}": each for name, each in reward.items() if isinstance(each, int | float)}
    return {"reward": reward[key], **numbers}
