"""Prompts and the responses to learn from them."""

from pathlib import Path

import numpy as np

from ....formats.flags import DEMONSTRATION
from ...models.recorded import RECORDED
from ..kind import Batches, Tally, exporter
from ._writing import Form, Texts, json_lines, prompt_column, worth


@exporter(
    "prompt_completion",
    needs_with=lambda *, by, form, **_: (*((by,) if by else ()), prompt_column(form)),
    suffix=".jsonl",
    source="TRL 1.16.0, data_utils.py",
    evidence="code",
)
def write_completions(
    batches: Batches,
    out: Path,
    *,
    by: str = "reward",
    threshold: float = 0.5,
    form: Form = "chat",
    tokenizer: str = RECORDED,
) -> Tally:
    """Accepted responses for supervised training: prompt, completion and weight, JSON lines.

    Rows that are demonstrations, and have nothing in `by`, are accepted. The weight is that of the row, 1 where it has none. Rows
    not to train on and responses that others wrote a part of are left out and counted; `apportion filter` chooses by anything
    else.

    Args:
        by: what a row is accepted by: reward, rewards.NAME, another column of numbers, or credit such as token.advantage, whose mean
            over the rollout's tokens counts. "" accepts every row.
        threshold: what `by` must say at least.
        form: "chat" writes messages, "text" what the model read and wrote, as token ids say it.
        tokenizer: of which model decodes token ids; "recorded" is the one that made the file's.

    Returns:
        The number of records, and how many rows made none.
    """
    texts = Texts(batches, tokenizer, "prompt_completion")
    with json_lines(out) as lines:
        for batch in batches:
            prompts, responses, good = texts.examples(batch, form, lines)
            if by:
                values = worth(batch, by)
                accepted = (values >= threshold) | (np.isnan(values) & batch.flagged(DEMONSTRATION))
                lines.left_out[f"rows whose {by} is not {threshold:g} or more"] += int((good & ~accepted).sum())
                good &= accepted
            weights = batch.numbers("weight").astype(np.float64) if "weight" in batch else np.ones(len(batch))
            for row in np.flatnonzero(good).tolist():
                weight = 1.0 if np.isnan(weights[row]) else float(weights[row])
                lines.write({"prompt": prompts[row], "completion": responses[row], "weight": weight})
    return lines.tally()
