"""Solutions of PRM800K, whose steps people rated: a trunk of chosen steps, and the alternatives that left it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ....formats.errors import DataError
from ....formats.flags import DEMONSTRATION, FILTERED, PARTIAL
from ....formats.provenance import digest_of
from ..formats._messages import prompt_of
from ..kind import Sample, Source, Unmapped, importer
from ._reading import TEXTS_ONLY, Record, first_fields, join_steps, read_records

ANSWER = "# Answer"  # a heading in every solution's last step
RATINGS = (-1, 0, 1)
UNRATED = "completions without a rating"


class _Step(NamedTuple):
    """One step. human: a person wrote it, as one that they would rate 1."""

    text: str
    rating: int
    human: bool = False


def _recognises(source: Source) -> bool:
    question, label = (first_fields(source).get(name) for name in ("question", "label"))
    return isinstance(question, Mapping) and "problem" in question and isinstance(label, Mapping) and "steps" in label


@importer(
    "prm800k",
    recognises=_recognises,
    exact=False,
    fills=("prompt", "text", "reference", "reward", "flags", "step.start", "step.end", "step.kind", "step.reward"),
    loses=(TEXTS_ONLY, "who labelled, when and how long, and the score of the authors' own verifier"),
    source="PRM800K, the repository's page; arXiv:2305.20050",
    evidence="code",
)
def read_labels(source: Source, *, separator: str = "\n") -> Iterator[Sample | Unmapped]:
    r"""Labelled solutions of PRM800K, JSON lines.

    A solution's chosen steps are one row, and each other completion that was rated is a row that leaves it at its step. Rows of a problem are a group and begin with the same tokens where they share steps, so `tree-build` makes the labelers' tree.
    A step's rating, -1, 0 or 1, is `step.reward`, and that of the last step the reward. A step that a person wrote counts as rated 1,
    and makes its rows demonstrations. Rows that end before an answer are flagged partial, those of a broken problem filtered.

    Args:
        separator: what stands before each step but the first; it belongs to that step.
    """

    def read(record: Record) -> Iterator[Sample | Unmapped]:
        question, label = record.fields["question"], record.fields["label"]
        if not isinstance(question, Mapping) or not isinstance(question.get("problem"), str):
            raise DataError("question.problem: missing, expected a text")
        if not isinstance(label, Mapping) or not isinstance(label.get("steps"), list):
            raise DataError("label.steps: missing, expected a list of steps")
        prompt, answer = prompt_of(question["problem"]), question.get("ground_truth_answer")
        broken = label.get("finish_reason") == "bad_problem"
        trunk: list[_Step] = []
        rows: list[tuple[str, list[_Step]]] = []
        ended = True
        for place, step in enumerate(label["steps"]):
            chosen, others, unrated = _read_step(step, f"label.steps[{place}]")
            yield from [Unmapped(UNRATED)] * unrated
            rows += [(f"{place}.{number}", [*trunk, other]) for number, other in others]
            ended = chosen is not None or not others
            if chosen is None:
                break
            trunk.append(chosen)
        if trunk and ended:
            rows.insert(0, ("chosen", trunk))
        if not rows:
            yield Unmapped("solutions without a rated step")
        for name, steps in rows:
            yield _row(record, name, steps, separator, prompt, answer, broken)

    return read_records(source, read)


def _row(
    record: Record,
    name: str,
    steps: list[_Step],
    separator: str,
    prompt: list[dict[str, str]],
    answer: Any,
    broken: bool,
) -> Sample:
    texts = join_steps([step.text for step in steps], separator)
    flags = [DEMONSTRATION] if any(step.human for step in steps) else []
    flags += [PARTIAL] if ANSWER not in steps[-1].text else []
    flags += [FILTERED] if broken else []
    return Sample(
        where=record.where,
        rollout_id=f"{record.name}/{name}",
        group_id=digest_of(prompt),
        pieces=[(text, True) for text in texts],
        columns={
            "prompt": prompt,
            "text": "".join(texts),
            "reference": None if answer is None else str(answer),
            "reward": float(steps[-1].rating),
            "flags": flags,
            "step.kind": ["step"] * len(steps),
            "step.reward": [float(step.rating) for step in steps],
        },
        record=record.fields,
    )


def _read_step(step: Any, where: str) -> tuple[_Step | None, list[tuple[int, _Step]], int]:
    """(what the trunk goes on with, the other completions with their numbers, how many of those have no rating)."""
    if not isinstance(step, Mapping):
        raise DataError(f"{where}: {type(step).__name__}, expected a step with completions")
    completions, number = step.get("completions") or [], step.get("chosen_completion")
    if not isinstance(completions, list):
        raise DataError(f"{where}.completions: {completions!r:.40}, expected a list")
    if number is not None and (
        isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(completions)
    ):
        raise DataError(f"{where}.chosen_completion: {number!r:.40}, expected the number of a completion, or null")
    found: list[tuple[int, _Step]] = []
    unrated = 0
    for place, completion in enumerate(completions):
        at = f"{where}.completions[{place}]"
        text, rating = _text(completion, at), completion.get("rating")
        if rating is None and place != number:
            unrated += 1
            continue
        if isinstance(rating, bool) or rating not in RATINGS:
            raise DataError(f"{at}.rating: {rating!r:.40}, expected -1, 0 or 1")
        found.append((place, _Step(text, int(rating))))
    others = [(place, each) for place, each in found if place != number]
    if number is not None:
        return next(each for place, each in found if place == number), others, unrated
    human = step.get("human_completion")
    if human is None:
        return None, others, unrated
    text = human if isinstance(human, str) else _text(human, f"{where}.human_completion")
    return _Step(text, 1, human=True), others, unrated


def _text(completion: Any, where: str) -> str:
    if not isinstance(completion, Mapping) or not isinstance(completion.get("text"), str):
        raise DataError(f"{where}.text: missing, expected a text")
    return completion["text"]
