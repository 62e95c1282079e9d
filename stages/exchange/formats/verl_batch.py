"""The batches that verl caches to skip rollouts: token for token, unlike its rollout_data_dir."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from ....formats.errors import DataError, UsageError
from ..kind import Sample, Source, Unmapped, importer
from ._messages import messages_of

NAME = "tq_batch.pt"
TABLES = (
    ("tensordict", "TensorDict"),
    ("tensordict", "NonTensorData"),
    ("tensordict", "NonTensorStack"),
    ("tensordict._reductions", "_make_td"),
)
STREAMS = {
    "rollout_log_probs": "token.logprob",
    "old_log_probs": "token.trainer_logprob",
    "ref_log_prob": "token.reference_logprob",
}


@importer(
    "verl_batch",
    recognises=lambda source: source.path.name == NAME,
    exact=True,
    fills=(
        "reward", "rewards.NAME", "prompt", "reference", "episode_id", "part", "iteration", "policy_start", "policy_end",
        *STREAMS.values(),
    ),
    loses=("advantages, which verl computes after it has cached the batch", "images and routed experts"),
    source="verl 0.9.1, utils/skip/rollout_skip.py and trainer/ppo/v1/agent_loop_tq.py",
    evidence="code",
)  # fmt: skip
def read_batch(source: Source) -> Iterator[Sample | Unmapped]:
    """Rows of tq_batch.pt, which verl's trainer writes with skip.rollout_tq.

    A row's key is `{prompt}_{session}_{output}`: the prompt is the group, the session the episode, the output its part. `rm_scores`
    sum to the reward. The file is read without running code in it; that needs torch and tensordict.
    """
    try:
        # What tensordict declares as safe from 0.15 on. verl 0.9.1 comes with 0.10, which does not.
        allowed = [getattr(import_module(module), name) for module, name in TABLES]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{source.path}: reading verl's batches needs {error.name}; pip install {error.name}"
        ) from error
    content = source.torch(allowed)
    table = content.get("tensordict") if isinstance(content, Mapping) else None
    keys = content.get("keys") if isinstance(content, Mapping) else None
    if table is None or keys is None or len(table) != len(keys):
        raise DataError(f"{source.path}: no batch with a key for every row; name verl's {NAME}")
    tags = content.get("tags") or [{}] * len(keys)
    columns = {name: _rows(table.get(name)) for name in table.keys()}  # noqa: SIM118  # no mapping
    several = {key.rpartition("_")[0] for key in keys if not key.endswith("_0")}
    for number, (key, tag) in enumerate(zip(keys, tags, strict=True)):
        source.place = f"{source.path}, row {number}"
        with source.record():
            row = {name: values[number] for name, values in columns.items()}
            yield _sample(source.place, key, row, tag or {}, content.get("global_steps"), several)


def _sample(
    where: str, key: str, row: Mapping[str, Any], tag: Mapping[str, Any], step: int | None, several: set[str]
) -> Sample | Unmapped:
    if not len(row["responses"]):
        return Unmapped("rows without a response")
    session, _, output = key.rpartition("_")
    prompt, extra = row.get("raw_prompt"), row.get("extra_fields") or {}
    scores, model = row.get("rm_scores"), row.get("reward_model") or {}
    known = extra.get("reward_extra_info") if isinstance(extra, Mapping) else None
    columns: dict[str, Any] = {
        "reward": None if scores is None else float(scores.sum()),
        **{f"rewards.{name}": float(each) for name, each in (known or {}).items() if isinstance(each, int | float)},
        "prompt": messages_of(prompt) if isinstance(prompt, list) else None,
        "reference": str(model["ground_truth"])
        if isinstance(model, Mapping) and model.get("ground_truth") is not None
        else None,
        "iteration": step,
        "policy_start": tag.get("min_global_steps"),
        "policy_end": tag.get("max_global_steps"),
        **{path: row.get(name) for name, path in STREAMS.items()},
    }
    if session in several:
        columns |= {"episode_id": session, "part": int(output)}
    return Sample(
        where=where,
        rollout_id=key,
        group_id=session.rpartition("_")[0],
        prompt_ids=row["prompts"],
        ids=row["responses"],
        mask=row["response_mask"],
        columns={path: value for path, value in columns.items() if value is not None},
        record=row,
    )


def _rows(column: Any) -> list[Any]:
    """The rows of a nested or plain tensor, or of a column of other things."""
    return list(column.unbind()) if hasattr(column, "untyped_storage") else column.tolist()
