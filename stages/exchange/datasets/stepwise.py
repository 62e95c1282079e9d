"""Steps with a label each: stepwise supervision."""

from collections.abc import Iterator
from pathlib import Path

from ....formats.errors import DataError
from ....formats.provenance import digest_of
from ...models.recorded import RECORDED
from ..formats._messages import prompt_of
from ..kind import Batches, Sample, Source, Tally, Unmapped, exporter, importer
from ._reading import TEXTS_ONLY, Record, first_fields, join_steps, read_records
from ._steps import By, labelled_steps, needed
from ._writing import Texts, json_lines


def _recognises(source: Source) -> bool:
    fields = first_fields(source)
    return "prompt" in fields and all(isinstance(fields.get(name), list) for name in ("completions", "labels"))


@importer(
    "stepwise",
    recognises=_recognises,
    exact=False,
    fills=("prompt", "text", "step.start", "step.end", "step.kind", "step.reward"),
    loses=(TEXTS_ONLY, "fields beside prompt, completions and labels"),
    source="TRL's stepwise supervision, which it no longer has (trl#7133)",
    evidence="second-hand",
)
def read_stepwise(source: Source, *, separator: str = "\n") -> Iterator[Sample | Unmapped]:
    r"""Stepwise supervision as TRL had it (prompt, completions, labels): JSON lines, JSON or Parquet.

    Each completion is a step and its label the step's reward, 1 for true and 0 for false. Equal prompts are a group.

    Args:
        separator: what stands before each step but the first; it belongs to that step.
    """

    def read(record: Record) -> Iterator[Sample | Unmapped]:
        prompt = prompt_of(record.said("prompt"))
        texts, labels = record.texts("completions"), record.numbers("labels")
        if len(labels) != len(texts):
            raise DataError(f"labels: {len(labels)} values for {len(texts)} completions")
        if not any(texts):
            yield Unmapped("records without a step")
            return
        steps = join_steps(texts, separator)
        yield Sample(
            where=record.where,
            rollout_id=record.name,
            group_id=digest_of(prompt),
            pieces=[(text, True) for text in steps],
            columns={
                "prompt": prompt,
                "text": "".join(steps),
                "step.kind": ["step"] * len(steps),
                "step.reward": labels,
            },
            record=record.fields,
        )

    return read_records(source, read)


@exporter(
    "stepwise",
    needs_with=lambda *, by, **_: needed(by),
    suffix=".jsonl",
    source="TRL's stepwise supervision, which it no longer has (trl#7133)",
    evidence="second-hand",
)
def write_stepwise(
    batches: Batches,
    out: Path,
    *,
    by: By = "step.value",
    threshold: float = 0.5,
    soft: bool = False,
    separator: str = "\n",
    tokenizer: str = RECORDED,
) -> Tally:
    r"""Stepwise supervision: prompt, completions and labels, and probes where the file counts them, JSON lines.

    By step.value, a step's label is the value of the state after it: the next step's, and the rollout's reward after the last.
    `probes` says of how many rollouts each label is the mean; 0 where no probe began in that state and the value is another's.

    Args:
        by: what labels are made of: step.value, step.reward or step.valid.
        threshold: a label is true from this number on.
        soft: labels are the numbers themselves.
        separator: what stands between two steps, and is in neither's text.
        tokenizer: of which model decodes token ids; "recorded" is the one that made the file's.

    Returns:
        The number of records, and how many rows made none.
    """
    texts = Texts(batches, tokenizer, "stepwise")
    with json_lines(out) as lines:
        for batch in batches:
            for each in labelled_steps(batch, by, separator, texts, lines):
                labels = each.labels if soft else [label >= threshold for label in each.labels]
                record = {"prompt": each.prompt, "completions": each.texts, "labels": labels}
                lines.write(record if each.probes is None else record | {"probes": each.probes})
    return lines.tally()
