"""The training data that NeMo-RL writes at every step."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ....formats.errors import DataError
from ....formats.flags import FILTERED
from ..kind import Sample, Source, Unmapped, importer

STREAMS = {
    "advantages": "token.advantage_nemo_rl",
    "generation_logprobs": "token.logprob",
    "prev_logprobs": "token.trainer_logprob",
}


@importer(
    "nemo_rl",
    recognises=lambda source: source.has("token_ids", "token_loss_mask", "input_lengths"),
    exact=True,
    fills=("reward", "iteration", "flags", "text", *STREAMS.values()),
    loses=("groups: give --group-size, num_generations_per_prompt of the run", "turns, but for the runs of the mask"),
    source="NeMo-RL, grpo.py of August 2026",
    evidence="code",
)
def read_train_data(source: Source) -> Iterator[Sample | Unmapped]:
    """Rows of NeMo-RL's train_data_step{N}.jsonl, one a line.

    The first token of the loss mask ends the prompt, and `input_lengths` ends the row. `advantages` go to
    `token.advantage_nemo_rl`, `prev_logprobs` to `token.trainer_logprob`. A row whose `sample_loss_mask` is 0 is flagged filtered.
    """
    step = source.number_in_name("step")
    for number, (where, record) in enumerate(source.lines()):
        with source.record():
            yield _sample(where, record, number, step)


def _sample(where: str, record: Any, number: int, step: int | None) -> Sample | Unmapped:
    if not isinstance(record, Mapping) or not isinstance(record.get("token_ids"), list):
        raise DataError(f"{where}, token_ids: expected a list of token ids")
    length = int(record.get("input_lengths", len(record["token_ids"])))
    mask = _cut(record, "token_loss_mask", length, where)
    own = np.flatnonzero(mask)
    if not len(own):
        return Unmapped("rows without a token in the loss mask")
    ids, first = _cut(record, "token_ids", length, where), int(own[0])
    columns = {
        path: _cut(record, key, length, where)[first:] for key, path in STREAMS.items() if record.get(key) is not None
    }
    content = record.get("content")
    return Sample(
        where=where,
        rollout_id=f"{step}/{record.get('idx', number)}" if step is not None else str(record.get("idx", number)),
        prompt_ids=ids[:first],
        ids=ids[first:],
        mask=mask[first:],
        columns={
            **columns,
            "reward": record.get("rewards"),
            "iteration": step,
            "flags": [] if record.get("sample_loss_mask", 1) else [FILTERED],
            "text": content[-1] if isinstance(content, list) and content and isinstance(content[-1], str) else None,
        },
        record=record,
    )


def _cut(record: Mapping[str, list[float]], key: str, length: int, where: str) -> list[float]:
    """The row's values without padding. DataError for a list that is shorter than the row."""
    values = record.get(key)
    if not isinstance(values, list) or len(values) < length:
        found = len(values) if isinstance(values, list) else "no list of"
        raise DataError(f"{where}, {key}: {found} values for a row of {length} tokens")
    return values[:length]
