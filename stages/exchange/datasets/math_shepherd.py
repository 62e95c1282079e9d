"""Solutions in the form of Math-Shepherd: one text whose steps end with a tag, and the same text with labels in its place."""

from collections.abc import Iterator
from pathlib import Path

from ....formats.errors import DataError, UsageError
from ....formats.provenance import digest_of
from ...models.recorded import RECORDED
from ..formats._messages import prompt_of
from ..kind import Batches, Sample, Source, Tally, Unmapped, exporter, importer
from ._reading import TEXTS_ONLY, Record, first_fields, join_steps, read_records
from ._steps import By, labelled_steps, needed
from ._writing import Texts, json_lines

TAG = "ки"
LABELS = {"+": 1.0, "-": 0.0}


def _recognises(source: Source) -> bool:
    fields = first_fields(source)
    said, labelled = fields.get("input"), fields.get("label")
    return isinstance(said, str) and isinstance(labelled, str) and TAG in said and TAG not in labelled


@importer(
    "math_shepherd",
    recognises=_recognises,
    exact=False,
    fills=("prompt", "text", "task", "step.start", "step.end", "step.kind", "step.reward"),
    loses=(TEXTS_ONLY, "spaces and line ends around the tag"),
    source="Math-Shepherd, the data set's page; arXiv:2312.08935",
    evidence="code",
)
def read_solutions(source: Source, *, tag: str = TAG, first: str = "Step 1:") -> Iterator[Sample | Unmapped]:
    """Solutions of Math-Shepherd (input, label, task): JSON lines, JSON or Parquet.

    `input` is the problem and its steps, each of which ends with the tag; `label` is the same text with + or - in the tag's
    place. A step's reward is 1 for + and 0 for -. Steps are joined by line ends. Equal problems are a group. Files with another
    tag need --format.

    Args:
        tag: what ends each step.
        first: what the first step begins with; the problem is what stands before it.
    """
    if not tag:
        raise UsageError("importer math_shepherd: tag: empty, expected what ends each step")

    def read(record: Record) -> Iterator[Sample | Unmapped]:
        said, labelled = record.text("input"), record.text("label")
        *pieces, rest = said.split(tag)
        if not pieces:
            yield Unmapped(f"solutions without the tag {tag!r}")
            return
        if rest.strip():
            raise DataError(f"input: {rest.strip()!r:.40} after the last tag, expected every step to end with {tag!r}")
        begins = pieces[0].rfind(first)
        if begins < 0:
            yield Unmapped(f"solutions whose first step does not begin with {first!r}")
            return
        labels = _labels(pieces, labelled)
        prompt = prompt_of(pieces[0][:begins].strip())
        texts = join_steps([pieces[0][begins:].strip(), *(each.strip() for each in pieces[1:])], "\n")
        yield Sample(
            where=record.where,
            rollout_id=record.name,
            group_id=digest_of(prompt),
            pieces=[(text, True) for text in texts],
            columns={
                "prompt": prompt,
                "text": "".join(texts),
                "task": record.text("task") if record.fields.get("task") is not None else None,
                "step.kind": ["step"] * len(texts),
                "step.reward": labels,
            },
            record=record.fields,
        )

    return read_records(source, read)


def _labels(pieces: list[str], labelled: str) -> list[float]:
    """The label behind each piece. DataError where the labelled text is another."""
    labels: list[float] = []
    place = 0
    for step, piece in enumerate(pieces):
        place += len(piece)
        if labelled[place - len(piece) : place] != piece:
            raise DataError(f"label: step {step} has another text than in input")
        sign = labelled[place : place + 1]
        if sign not in LABELS:
            raise DataError(f"label: {sign!r} behind step {step}, expected + or -")
        labels.append(LABELS[sign])
        place += 1
    if labelled[place:].strip():
        raise DataError(f"label: {labelled[place:].strip()!r:.40} after the last step")
    return labels


@exporter(
    "math_shepherd",
    needs_with=lambda *, by, **_: needed(by),
    suffix=".jsonl",
    source="Math-Shepherd, the data set's page; arXiv:2312.08935",
    evidence="code",
)
def write_solutions(
    batches: Batches,
    out: Path,
    *,
    by: By = "step.value",
    threshold: float = 0.5,
    tag: str = TAG,
    tokenizer: str = RECORDED,
) -> Tally:
    """Solutions as Math-Shepherd has them: input, label, and task where the file says it, JSON lines.

    Step k begins with "Step k:", which is written before a step that does not. By step.value, a step's label is made of the value
    of the state after it: the next step's, and the rollout's reward after the last; Math-Shepherd's own labels are + where any of
    its rollouts was right, which a threshold just above 0 gives. Rows in whose texts the tag stands are left out and counted.

    Args:
        by: what labels are made of: step.value, step.reward or step.valid.
        threshold: a label is + from this number on.
        tag: what ends each step.
        tokenizer: of which model decodes token ids; "recorded" is the one that made the file's.

    Returns:
        The number of records, and how many rows made none.

    Raises:
        UsageError: an empty tag; no tokenizer where token ids have to be decoded.
    """
    if not tag:
        raise UsageError("exporter math_shepherd: tag: empty, expected what ends each step")
    texts = Texts(batches, tokenizer, "math_shepherd")
    with json_lines(out) as lines:
        for batch in batches:
            tasks = batch.strings("task") if "task" in batch else [None] * len(batch)
            for each in labelled_steps(batch, by, "\n", texts, lines):
                steps = [_numbered(text.strip(), number) for number, text in enumerate(each.texts, start=1)]
                if any(tag in text for text in (each.prompt, *steps)):
                    lines.left_out[f"rows in whose texts {tag!r} stands"] += 1
                    continue
                signs = ["+" if label >= threshold else "-" for label in each.labels]
                record = {
                    "input": f"{each.prompt} " + "\n".join(f"{step} {tag}" for step in steps),
                    "label": f"{each.prompt} "
                    + "\n".join(f"{step} {sign}" for step, sign in zip(steps, signs, strict=True)),
                }
                task = tasks[each.row]
                lines.write(record if task is None else record | {"task": task})
    return lines.tally()


def _numbered(text: str, number: int) -> str:
    return text if text.startswith(f"Step {number}:") else f"Step {number}: {text}"
