"""A step's rollouts of verl's trainer as a rollout file."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ... import __version__
from ...formats.flags import ERROR, FILTERED
from ...formats.parquet import write_rollouts
from ...formats.provenance import Provenance, Record
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ._verl_batch import SIGNALS, TURN, Batch

LOGPROB_KINDS = {"processed_logprobs": "sampling", "raw_logprobs": "policy"}  # verl's rollout.logprobs_mode
ALGORITHM = ("adv_estimator", "gamma", "lam", "norm_adv_by_std_in_grpo", "use_kl_in_reward")


def write_batch(
    folder: Path, batch: Batch, trainer: Any, *, told: Mapping[str, Any], own: Mapping[str, Array]
) -> Path | None:
    """Write {step}.parquet and give its path; None for a batch without rows.

    told: how our credit came to be; empty when there is none. own: verl's advantages of the rows that have ours, by their keys.
    """
    if not len(batch):
        return None
    step = int(trainer.global_steps)
    algorithm = {name: trainer.config.algorithm.get(name) for name in ALGORITHM}
    parameters = {"verl": version("verl"), "trainer": type(trainer).__name__, "step": step, **algorithm, **told}
    record = Record(stage="verl", version=__version__, parameters=parameters)
    rollouts = rollouts_of(batch, step, own, trainer.tokenizer, trainer.config.actor_rollout_ref.rollout)
    path = folder / f"{step}.parquet"
    write_rollouts(path, [rollouts], Provenance(history=(record,), facts={"tokens_exact": True}), force=True)
    return path


def rollouts_of(batch: Batch, step: int, own: Mapping[str, Array], tokenizer: Any, sampling: Any) -> Rollouts:
    """The rows with groups together, as a file has them. sampling: verl's options of it."""
    order = sorted(range(len(batch)), key=lambda row: batch.keys[row])
    unscored = np.isnan(batch.reward)
    idle = np.array([not row.any() for row in batch.trained], bool) & ~unscored
    tags = [batch.tags[row] for row in order]
    columns: dict[str, Any] = {
        "rollout_id": [batch.names[row] for row in order],
        "group_id": [batch.keys[row].uid for row in order],
        "episode_id": [batch.keys[row].episode for row in order],
        "part": [batch.keys[row].index for row in order],
        "iteration": [step] * len(order),
        "policy_start": [tag.get("min_global_steps") for tag in tags],
        "policy_end": [tag.get("max_global_steps") for tag in tags],
        "temperature": [sampling.get("temperature")] * len(order),
        "reward": [None if unscored[row] else float(batch.reward[row]) for row in order],
        "flags": [[ERROR] if unscored[row] else [FILTERED] if idle[row] else [] for row in order],
        "error": ["verl gave no reward" if unscored[row] else None for row in order],
        **_named_rewards(batch, order),
        **_prompts(batch, order),
    }
    if tokenizer is not None:
        columns["text"] = tokenizer.batch_decode([batch.ids[row] for row in order], skip_special_tokens=True)

    def ragged(rows: Sequence[Any], kind: Any, present: Array | None = None) -> Ragged:
        return _ragged([rows[row] for row in order], kind, None if present is None else present[order])

    columns["prompt_ids"] = ragged(batch.fields["prompts"], np.int32)
    columns["token.id"] = ragged(batch.ids, np.int32)
    columns["token.mask"] = ragged(batch.own, bool)
    if any((a != b).any() for a, b in zip(batch.own, batch.trained, strict=True)):
        columns["token.trainable"] = ragged(batch.trained, bool)
    for path, name in SIGNALS.items():
        if name in batch.fields:
            columns[path] = ragged(_signal(path, batch.fields[name], batch.own), np.float32)
    if "token.logprob" in columns:
        columns["logprob_kind"] = [LOGPROB_KINDS.get(sampling.get("logprobs_mode"))] * len(order)
    for place, leaf in enumerate(("step.start", "step.end")):
        columns[leaf] = ragged([spans[:, place] for spans in batch.turns], np.int32)
    kinds = [[TURN] * len(batch.turns[row]) for row in order]
    columns["step.kind"] = pa.array(kinds, pa.list_(pa.string()))
    columns["step.reward"] = ragged(batch.step_rewards, np.float64, ~unscored)

    now = batch.fields["advantages"]
    if own:
        assigned = np.array([name in own for name in batch.names], bool) & ~batch.left_out
        columns["token.advantage"] = ragged(_inside(now, batch.own), np.float32, assigned)
    theirs = [own.get(name, now[row]) for row, name in enumerate(batch.names)]
    known = np.array([np.isfinite(row).all() for row in theirs], bool)
    columns["token.advantage_verl"] = ragged(_inside(theirs, batch.own), np.float32, known)
    bare = {name: pa.array(columns.pop(name), pa.string()) for name in ("rollout_id", "group_id")}
    return Rollouts(pa.table(bare)).with_columns(columns)


def _named_rewards(batch: Batch, order: Sequence[int]) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    for name in {name: None for info in batch.named_rewards for name in info}:
        values = np.array([batch.named_rewards[row].get(name, np.nan) for row in order])
        path = f"rewards.{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        columns[path] = pa.array(values, pa.float64(), mask=~np.isfinite(values))
    return columns


def _prompts(batch: Batch, order: Sequence[int]) -> dict[str, Any]:
    """The prompts as chat messages; nothing where a message holds more than text."""
    chats = batch.fields.get("raw_prompt")
    if chats is None:
        return {}
    found: list[Any] = []
    for row in order:
        chat = [message for message in chats[row] if isinstance(message.get("content"), str)]
        is_text = len(chat) == len(chats[row])
        found.append([{name: message[name] for name in ("role", "content")} for message in chat] if is_text else None)
    return {"prompt": found}


def _signal(path: str, rows: Sequence[Array], own: Sequence[Array]) -> list[Array]:
    """A log-probability that rounding has lifted above 0 is 0, as it is where the policy wrote nothing."""
    return [np.minimum(row, 0) for row in _inside(rows, own)] if path.endswith("logprob") else list(rows)


def _inside(rows: Sequence[Array], own: Sequence[Array]) -> list[Array]:
    return [np.where(mask, row, 0.0) for row, mask in zip(rows, own, strict=True)]


def _ragged(rows: Sequence[Any], kind: Any, present: Array | None) -> Ragged:
    """The rows as lists, those that are not present missing (null)."""
    if present is None or present.all():
        return Ragged.from_lists(rows, kind)
    lists = Ragged.from_lists([row if here else [] for row, here in zip(rows, present, strict=True)], kind)
    return Ragged(lists.values, lists.offsets, present)
