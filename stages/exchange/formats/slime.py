"""The rollouts that slime and miles save for debugging, with what their trainer computed for them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....formats.errors import DataError, UsageError
from ....formats.flags import ERROR, FILTERED, TRUNCATED
from ..kind import Sample, Source, Unmapped, importer
from ._messages import message, messages_of

FLAG_OF_STATUS = {"truncated": TRUNCATED, "aborted": ERROR, "failed": ERROR}
TRAINED = {
    "advantages": "token.advantage_slime",
    "log_probs": "token.trainer_logprob",
    "ref_log_probs": "token.reference_logprob",
    "values": "token.value",
}


def _is_samples(source: Source) -> bool:
    return source.path.suffix == ".pt" and source.path.parent.name != "train_data" and source.path.name != "tq_batch.pt"


@importer(
    "slime",
    recognises=_is_samples,
    exact=True,
    fills=(
        "reward", "rewards.NAME", "prompt", "text", "reference", "iteration", "policy_start", "policy_end", "flags", "error",
        "episode_id", "part", "token.logprob", *TRAINED.values(),
    ),
    loses=("routed experts and images",),
    source="slime, utils/types.py and utils/train_dump_utils.py of August 2026",
    evidence="code",
)  # fmt: skip
def read_samples(source: Source, *, reward_key: str = "", train_data: str = "") -> Iterator[Sample | Unmapped]:
    """Samples of slime's --save-debug-rollout-data or --dump-details, a .pt file a step.

    The last `response_length` tokens are the response; `loss_mask` says which the policy wrote. A sample's `group_index` is its
    group. Samples of one `rollout_id`, where they have one, are parts of an episode. `remove_sample` is flagged filtered, the
    status truncated as that, aborted and failed as error. The files are read without running code in them.

    What the trainer computed stands in files of its own, one a rank, found by the samples' index: advantages go to
    `token.advantage_slime`. Those of --dump-details are found by themselves, in `train_data` beside `rollout_data`.

    Args:
        reward_key: which of several rewards is the reward; all of them become `rewards.NAME`. slime's own --reward-key.
        train_data: the folder of --save-debug-train-data, where it is not beside the samples' folder.
    """
    content = source.torch()
    samples = content.get("samples") if isinstance(content, Mapping) else None
    if not isinstance(samples, Sequence):
        raise DataError(f"{source.path}: no 'samples' in it; name the file of --save-debug-rollout-data")
    step = content.get("rollout_id")
    trained = _trained(source, step, Path(train_data) if train_data else source.path.parent.parent / "train_data")
    if train_data and not trained:
        raise UsageError(f"importer slime: train_data: no files of step {step} at {train_data}")
    parts: dict[Any, int] = {}
    for number, sample in enumerate(samples):
        source.place = f"{source.path}, sample {number}"
        with source.record():
            yield _sample(source, sample, number, step, reward_key, trained.get(sample.get("index"), {}), parts)


def _sample(
    source: Source, sample: Mapping[str, Any], number: int, step: Any, reward_key: str, trained: Mapping[str, Any], parts: dict[Any, int],
) -> Sample | Unmapped:  # fmt: skip
    tokens, length = list(sample.get("tokens") or ()), int(sample.get("response_length") or 0)
    if not 0 < length <= len(tokens):
        return Unmapped("samples without a response")
    status = str(sample.get("status", ""))
    flags = [FILTERED] if sample.get("remove_sample") else []
    flags += [FLAG_OF_STATUS[status]] if status in FLAG_OF_STATUS else []
    versions = [int(each) for each in sample.get("weight_versions") or () if str(each).isdigit()]
    prompt = sample.get("prompt") or ""
    columns: dict[str, Any] = {
        **_rewards(sample.get("reward"), reward_key, source.place),
        "prompt": messages_of(prompt) if isinstance(prompt, list) else [message("user", prompt)],
        "text": sample.get("response") or None,
        "reference": sample.get("label"),
        "iteration": step if isinstance(step, int) else source.number_in_name("rollout", "step"),
        "policy_start": min(versions, default=None),
        "policy_end": max(versions, default=None),
        "flags": flags,
        "error": status if FLAG_OF_STATUS.get(status) == ERROR else None,
        "token.logprob": sample.get("rollout_log_probs"),
        **trained,
    }
    episode = sample.get("rollout_id")
    if episode is not None:
        columns |= {"episode_id": str(episode), "part": parts.get(episode, 0)}
        parts[episode] = parts.get(episode, 0) + 1
    group, index = sample.get("group_index"), sample.get("index")
    return Sample(
        where=source.place,
        rollout_id=f"{step}/{number if index is None else index}",
        group_id=None if group is None else str(group),
        prompt_ids=tokens[:-length],
        ids=tokens[-length:],
        mask=[1] * length if sample.get("loss_mask") is None else sample["loss_mask"],
        columns={path: value for path, value in columns.items() if value is not None},
        record=sample,
    )


def _trained(source: Source, step: Any, folder: Path) -> dict[Any, dict[str, Any]]:
    """What the trainer computed for each sample of the step, by the sample's index and our columns."""
    found: dict[Any, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"*{step}_*.pt")) if folder.is_dir() else ():
        content = Source(path).torch()
        data = content.get("rollout_data") if isinstance(content, Mapping) else None
        if not isinstance(data, Mapping) or "sample_indices" not in data:
            raise DataError(
                f"{path}: no 'rollout_data' with 'sample_indices' in it; name the files of --save-debug-train-data"
            )
        if content.get("rollout_id") != step:
            continue
        for place, index in enumerate(data["sample_indices"]):
            found[index] = {
                ours: data[theirs][place] for theirs, ours in TRAINED.items() if data.get(theirs) is not None
            }
    return found


def _rewards(reward: Any, key: str, where: str) -> dict[str, Any]:
    """`reward`, and `rewards.NAME` of each number where there are several."""
    if not isinstance(reward, Mapping):
        return {"reward": reward}
    if key not in reward:
        named = ", ".join(map(str, reward))
        raise UsageError(f"{where}: several rewards ({named}); give --set reward_key=NAME")
    numbers = {f"rewards.{name}": each for name, each in reward.items() if isinstance(each, int | float)}
    return {"reward": reward[key], **numbers}
