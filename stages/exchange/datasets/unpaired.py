"""Responses that are good or bad, each by itself."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ....formats.provenance import digest_of
from ....formats.schema import ruler_of
from ...models.recorded import RECORDED
from ..formats._messages import pieces_of, prompt_of
from ..kind import Batches, Sample, Source, Tally, Unmapped, exporter, importer
from ._reading import TEXTS_ONLY, Record, first_fields, read_records
from ._writing import Form, Texts, json_lines, prompt_column, worth

RIGHT = 0.5  # what a reward needs for the label true, where nothing else is said


def _recognises(source: Source) -> bool:
    fields = first_fields(source)
    return (
        {"prompt", "completion"} <= fields.keys()
        and isinstance(fields.get("label"), bool)
        and "advantage" not in fields
    )


@importer(
    "unpaired",
    recognises=_recognises,
    exact=False,
    fills=("prompt", "text", "reward", "step.start", "step.end", "step.kind"),
    loses=(TEXTS_ONLY, "fields beside prompt, completion and label"),
    source="TRL 1.16.0, data_utils.py",
    evidence="code",
)
def read_unpaired(source: Source) -> Iterator[Sample | Unmapped]:
    """Unpaired preferences as TRL reads them (prompt, completion, label): JSON lines, JSON or Parquet.

    The reward is 1 where the label is true, and 0 where it is false. Equal prompts are a group.
    """

    def read(record: Record) -> Iterator[Sample | Unmapped]:
        prompt, pieces = prompt_of(record.said("prompt")), pieces_of(record.said("completion"))
        label = record.truth("label")
        if not any(own and text for text, own in pieces):
            yield Unmapped("records without a completion")
            return
        yield Sample(
            where=record.where,
            rollout_id=record.name,
            group_id=digest_of(prompt),
            pieces=pieces,
            columns={
                "prompt": prompt,
                "text": "".join(text for text, _ in pieces),
                "reward": float(label),
                "step.kind": ["turn"] * sum(own for _, own in pieces),
            },
            record=record.fields,
        )

    return read_records(source, read)


@exporter(
    "unpaired",
    needs_with=lambda *, by, form, **_: (by, prompt_column(form)),
    suffix=".jsonl",
    source="TRL 1.16.0, data_utils.py",
    evidence="code",
)
def write_unpaired(
    batches: Batches,
    out: Path,
    *,
    by: str = "reward",
    threshold: float | None = None,
    form: Form = "chat",
    tokenizer: str = RECORDED,
) -> Tally:
    """Unpaired preferences for TRL: prompt, completion and label, JSON lines.

    Rows not to train on, responses that others wrote a part of, and rows of which `by` says nothing are left out and counted.

    Args:
        by: what the label is made of: reward, rewards.NAME, another column of numbers, or credit such as token.advantage, whose mean
            over the rollout's tokens counts.
        threshold: the label is true from this number on. None is 0.5 for a reward; by credit the label is then true above 0, and
            rows whose credit is 0, which says neither, are left out.
        form: "chat" writes messages, "text" what the model read and wrote, as token ids say it.
        tokenizer: of which model decodes token ids; "recorded" is the one that made the file's.

    Returns:
        The number of records, and how many rows made none.
    """
    by_sign = threshold is None and ruler_of(by) == "token"
    least = RIGHT if threshold is None else threshold
    texts = Texts(batches, tokenizer, "unpaired")
    with json_lines(out) as lines:
        for batch in batches:
            values = worth(batch, by)
            prompts, responses, good = texts.examples(batch, form, lines)
            unknown, undecided = good & np.isnan(values), good & by_sign & (values == 0)
            lines.left_out[f"rows without {by}"] += int(unknown.sum())
            lines.left_out[f"rows whose {by} is 0"] += int(undecided.sum())
            for row in np.flatnonzero(good & ~unknown & ~undecided).tolist():
                label = values[row] > 0 if by_sign else values[row] >= least
                lines.write({"prompt": prompts[row], "completion": responses[row], "label": bool(label)})
    return lines.tally()
