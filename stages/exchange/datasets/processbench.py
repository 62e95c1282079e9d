"""Solutions of ProcessBench, in each of which somebody looked for the first wrong step."""

from collections.abc import Iterator

from ....formats.errors import DataError
from ....formats.provenance import digest_of
from ..formats._messages import prompt_of
from ..kind import Sample, Source, Unmapped, importer
from ._reading import TEXTS_ONLY, Record, first_fields, join_steps, read_records


def _recognises(source: Source) -> bool:
    fields = first_fields(source)
    return {"problem", "label", "final_answer_correct"} <= fields.keys() and isinstance(fields.get("steps"), list)


@importer(
    "processbench",
    recognises=_recognises,
    exact=False,
    fills=(
        "prompt", "text", "reward", "problem_id", "engine", "step.start", "step.end", "step.kind", "step.valid", "step.reward",
    ),
    loses=(TEXTS_ONLY, "whether a step behind the first wrong one is right, which nobody looked at"),
    source="ProcessBench, the repository's page; arXiv:2412.06559",
    evidence="code",
)  # fmt: skip
def read_solutions(source: Source, *, separator: str = "\n\n") -> Iterator[Sample | Unmapped]:
    r"""Solutions of ProcessBench (id, generator, problem, steps, final_answer_correct, label): JSON lines, JSON or Parquet.

    `label` is the first wrong step, from 0, or -1 where there is none. `step.valid` is true before it, and false from it on;
    `step.reward` is 1 and 0 in the same places. The reward says whether the final answer is right, which it may be after a wrong
    step. The generator becomes `engine`. Equal problems are a group.

    Args:
        separator: what stands before each step but the first; it belongs to that step.
    """

    def read(record: Record) -> Iterator[Sample | Unmapped]:
        prompt, texts = prompt_of(record.text("problem")), record.texts("steps")
        wrong, right = record.fields["label"], record.truth("final_answer_correct")
        if isinstance(wrong, bool) or not isinstance(wrong, int) or not -1 <= wrong < len(texts):
            raise DataError(f"label: {wrong!r:.40}, expected -1 or the number of one of {len(texts)} steps, from 0")
        if not any(texts):
            yield Unmapped("solutions without a step")
            return
        steps = join_steps(texts, separator)
        valid = [wrong < 0 or place < wrong for place in range(len(steps))]
        name, generator = record.fields.get("id"), record.fields.get("generator")
        yield Sample(
            where=record.where,
            rollout_id=record.name if name is None else str(name),
            group_id=digest_of(prompt),
            pieces=[(text, True) for text in steps],
            columns={
                "prompt": prompt,
                "text": "".join(steps),
                "reward": float(right),
                "problem_id": None if name is None else str(name),
                "engine": None if generator is None else str(generator),
                "step.kind": ["step"] * len(steps),
                "step.valid": valid,
                "step.reward": [float(each) for each in valid],
            },
            record=record.fields,
        )

    return read_records(source, read)
