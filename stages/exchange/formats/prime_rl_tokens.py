"""The token exports of prime-rl's trainer."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ....formats.digests import digest_of_tokens
from ....formats.errors import DataError, UsageError
from ....formats.segments import Array
from ..kind import Sample, Source, Unmapped, importer

STREAMS = {
    "inference_logprobs": "token.logprob",
    "trainer_logprobs": "token.trainer_logprob",
    "entropy": "token.entropy",
    "advantages": "token.advantage_prime_rl",
}


@importer(
    "prime_rl_tokens",
    recognises=lambda source: source.has("token_ids", "loss_mask", "inference_logprobs"),
    exact=True,
    fills=("reward", "task", "iteration", *STREAMS.values()),
    loses=(
        "groups and episodes, but where --set traces=PATH names the run's traces.jsonl", "turns, but for the runs of the mask",
        "importance ratios and KL, which follow from the two log-probabilities", "which loss each token had",
    ),
    source="prime-rl, trainer/rl/token_export.py of August 2026",
    evidence="code",
)  # fmt: skip
def read_token_exports(source: Source, *, traces: str = "") -> Iterator[Sample | Unmapped]:
    """Sequences of token_exports/step_N/rank_R.jsonl, one a line, which prime-rl writes with trainer.enable_token_export.

    The first token of the loss mask ends the prompt. The reward is that of the sequence's trained tokens. Credit goes to
    `token.advantage_prime_rl`. The file does not say which sequences belong together; traces.jsonl does, in which a sequence is
    found by its tokens.

    Args:
        traces: traces.jsonl of the same steps, or a folder with such files. Sequences that are not in it are not taken over.
    """
    groups = _groups_in(traces) if traces else None
    step = source.number_in_name("step")
    for number, (where, record) in enumerate(source.lines()):
        with source.record():
            yield _sample(where, record, f"{source.path.stem}/{number}", step, groups)


def _sample(
    where: str, record: Mapping[str, Any], name: str, step: int | None, groups: Mapping[str, str] | None
) -> Sample | Unmapped:
    ids, mask = record["token_ids"], np.asarray(record["loss_mask"], bool)
    if len(mask) != len(ids):
        raise DataError(f"{where}, loss_mask: {len(mask)} values for {len(ids)} token ids")
    if not mask.any():
        return Unmapped("sequences without a token in the loss mask")
    group = None
    if groups is not None:
        group = groups.get(digest_of_tokens([], ids))
        if group is None:
            return Unmapped("sequences that are not in the traces")
    first = int(mask.argmax())
    iteration = record.get("export_step", step)
    columns = {
        path: None if values is None else values[first:]
        for key, path in STREAMS.items()
        if (values := _numbers(record, key, mask, where)) is not None
    }
    rewards = _numbers(record, "rewards", mask, where)
    return Sample(
        where=where,
        rollout_id=name if iteration is None else f"{iteration}/{name}",
        group_id=group,
        prompt_ids=ids[:first],
        ids=ids[first:],
        mask=mask[first:],
        columns={
            "reward": None if rewards is None else float(rewards[mask][-1]),
            "task": record.get("env_name"),
            "iteration": iteration,
            **columns,
        },
        record=record,
    )


def _numbers(record: Mapping[str, Any], key: str, mask: Array, where: str) -> Array | None:
    """A list of the record; None where it has none, or nothing but nulls on the trained tokens."""
    if record.get(key) is None:
        return None
    found = np.array(record[key], np.float64)  # null becomes NaN
    if found.shape != mask.shape:
        raise DataError(f"{where}, {key}: {len(found)} values for {len(mask)} token ids")
    return None if np.isnan(found[mask]).all() else found


def _groups_in(path: str) -> Mapping[str, str]:
    """The group of every sequence of verifiers' traces, by the digest of its tokens."""
    place = Path(path)
    files = sorted(place.rglob("traces.jsonl")) if place.is_dir() else [place]
    if not files or not all(each.is_file() for each in files):
        raise UsageError(f"importer prime_rl_tokens: traces: no traces.jsonl at {path}")
    return _groups_of(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=1)  # every rank's file of an import asks
def _groups_of(files: tuple[tuple[Path, int, int], ...]) -> Mapping[str, str]:
    """Of these files, as large and as old as they are."""
    from .verifiers import read_traces

    found: dict[str, str] = {}
    for file, *_ in files:
        for sample in read_traces(Source(file)):
            if isinstance(sample, Sample) and sample.group_id is not None:
                found[digest_of_tokens([], [*sample.prompt_ids, *sample.ids])] = sample.group_id
    return found
