"""A task made of rows of questions with reference answers, whatever file or data set they were in."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ...formats.errors import DataError, UsageError, unknown
from . import Message, Problem
from ._splits import check_split, digest, hash_split
from .answers import check, final_answer, gold_answer

PROMPT_FIELDS = ("prompt", "question", "problem")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "reference", "solution", "ground_truth", "target")
# A prompt is taken to be written for a model; a question is not, and gets this.
QUESTION_FIELDS = ("question", "problem")
INSTRUCTION = r"Put your final answer within \boxed{}."
ROW_OPTIONS = ("prompt_field", "answer_field", "instruction", "id_field")


@dataclass(frozen=True)
class TableTask:
    """Problems from rows, shuffled by the seed; the final answer is checked by text and by math-verify."""

    spec: str
    options: dict[str, Any]
    rows: dict[str, list[Problem]] = field(repr=False)  # by split

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` problems of `split`, in an order the seed decides. UsageError when there are fewer."""
        check_split(split)
        rows = self.rows[split]
        if count > len(rows):
            others = ", ".join(f"{name} {len(found)}" for name, found in self.rows.items())
            raise UsageError(
                f"task {self.spec!r}: {count} {split} problems asked for, there are {len(rows)} distinct ones "
                f"(by split: {others}); ask for fewer"
            )
        order = list(range(len(rows)))
        # A str seed is hashed with SHA-512, so it means the same in every process and on every machine.
        Random(f"rows {seed}").shuffle(order)
        return (rows[index] for index in order[:count])

    def verify(self, text: str, reference: Any) -> float:
        """1 if the final answer equals the reference, or one of them if it is a list, else 0."""
        accepted = reference if isinstance(reference, list) else [reference]
        return check(final_answer(text, hashes=True), [str(one) for one in accepted])


class Unverifiable:
    """A table that is only opened to verify: its rows were not read."""


def split_rows(rows: Iterable[tuple[Problem, str | None]]) -> dict[str, list[Problem]]:
    """Rows by split: the one each names, else the one its question's hash says.

    Of rows with one question only the first is kept; if any of them is a test row, in the test split.
    """
    found: dict[str, tuple[Problem, str]] = {}
    for problem, named in rows:
        split = named or hash_split(question_of(problem.prompt))
        known = found.get(problem.problem_id)
        if known is None:
            found[problem.problem_id] = (problem, split)
        elif split == "test":
            found[problem.problem_id] = (known[0], split)
    return {name: [problem for problem, split in found.values() if split == name] for name in ("train", "test")}


@dataclass(frozen=True)
class Columns:
    """Where in a row the question and the answer are. A dot goes into a column of structs: `reward_model.ground_truth`."""

    prompt: str
    answer: str
    instruction: str

    @classmethod
    def find(cls, row: Mapping[str, Any], options: Mapping[str, Any]) -> "Columns":
        """The columns that the options name, else the first usual ones. DataError, with the columns there are."""
        prompt = _choose(row, options.get("prompt_field"), PROMPT_FIELDS, "prompt")
        answer = _choose(row, options.get("answer_field"), ANSWER_FIELDS, "answer")
        plain = isinstance(lookup(row, prompt), str) and prompt in QUESTION_FIELDS
        return cls(prompt, answer, str(options.get("instruction", INSTRUCTION if plain else "") or ""))

    def problem(self, row: Mapping[str, Any], family: str) -> Problem:
        """One row as a problem. DataError when the question or the answer is missing or of a kind that has no text."""
        prompt = _messages(lookup(row, self.prompt), self.prompt)
        problem_id = f"{family}-{digest(question_of(prompt)).hex()}"
        reference = _reference(lookup(row, self.answer), self.answer)
        if self.instruction:
            last = prompt[-1]
            prompt = [*prompt[:-1], {**last, "content": f"{last['content'].rstrip()}\n\n{self.instruction}"}]
        return Problem(problem_id, prompt, reference)


def question_of(prompt: list[Message]) -> str:
    """The text that decides whether two problems are the same one: that of a lone message, else all of them."""
    return prompt[0]["content"] if len(prompt) == 1 else json.dumps(prompt, ensure_ascii=False, sort_keys=True)


def lookup(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or in a column of structs; None where there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _choose(row: Mapping[str, Any], named: Any, usual: Iterable[str], what: str) -> str:
    candidates = [str(named)] if named else list(usual)
    for path in candidates:
        if lookup(row, path) is not None:
            return path
    found = ", ".join(repr(name) for name in row) or "none"
    sought = " or ".join(repr(path) for path in candidates)
    raise DataError(f"no column {sought} (found: {found}); name it with --task-set {what}_field=…")


def _messages(value: Any, column: str) -> list[Message]:
    if isinstance(value, str) and value.strip():
        return [{"role": "user", "content": value}]
    if isinstance(value, list) and value:
        messages = [
            {"role": one["role"], "content": one["content"]}
            for one in value
            if isinstance(one, Mapping) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        ]
        if len(messages) == len(value):
            return messages
    raise DataError(f"column {column!r} is {_short(value)}, needed is a text or a list of {{role, content}}")


def _reference(value: Any, column: str) -> str | list[str]:
    if isinstance(value, Mapping) and "target" in value:  # verl's question answering: {"target": [accepted, …]}
        value = value["target"]
    values = value if isinstance(value, list) else [value]
    accepted = [gold_answer(str(one)) for one in values if isinstance(one, str | int | float)]
    if not accepted or len(accepted) < len(values) or not all(accepted):
        raise DataError(f"column {column!r} is {_short(value)}, needed is a text, a number, or a list of them")
    return accepted if isinstance(value, list) else accepted[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def checked_options(spec: str, options: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The options, all of them texts. UsageError for one that does not exist or is no text."""
    known = list(known)
    for name, value in options.items():
        if name not in known:
            raise unknown(f"option of task {spec!r}:", name, known)
        if not isinstance(value, str):
            raise UsageError(f"task {spec!r}: option {name} is {value!r}, needed is a text")
    return dict(options)
