"""A task made of rows of questions with reference answers, from any file or data set."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from random import Random
from typing import Any

from ...formats.errors import DataError, UsageError
from ._splits import check_split, digest_question, hash_split
from .answers import check, final_answer, gold_answer
from .kind import Message, Problem

PROMPT_FIELDS = ("prompt", "question", "problem")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "reference", "solution", "ground_truth", "target")
# A prompt is assumed to be written for a model. A question is not, so it gets this instruction.
QUESTION_FIELDS = ("question", "problem")
INSTRUCTION = r"Put your final answer within \boxed{}."

Row = tuple[Mapping[str, Any], str | None]  # a row and its split, None if nothing names the split


@dataclass(frozen=True)
class TableTask:
    """Problems from rows, shuffled by the seed. The final answer is checked as text and by math-verify.

    spec: the `--task` value, which errors also name as the place.
    options: prompt_field, answer_field (a dot reaches into a column of structs), instruction, columns (those to keep
        besides question and answer, separated by commas; all if it is not given), and the family's own.
    read: yields the rows in order. Only `problems` calls it: verifying answers does not need the file.
    """

    spec: str
    options: dict[str, str]
    read: Callable[[], Iterable[Row]]

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` problems of `split`, in an order that the seed decides. UsageError if there are fewer."""
        check_split(split)
        rows = self._rows[split]
        if count > len(rows):
            others = ", ".join(f"{name} {len(found)}" for name, found in self._rows.items())
            raise UsageError(
                f"task {self.spec!r}: {count} {split} problems requested, but there are only {len(rows)} distinct ones "
                f"(by split: {others}); ask for fewer, or for the other split"
            )
        # A str seed is hashed with SHA-512, so it gives the same order in every process and on every machine.
        order = Random(f"rows {seed}").sample(range(len(rows)), len(rows))
        return (rows[index] for index in order[:count])

    def verify(self, text: str, reference: Any) -> float:
        """1 if the final answer equals the reference (or one of them, if it is a list), else 0."""
        accepted = reference if isinstance(reference, list) else [reference]
        return check(final_answer(text, hashes=True), [str(one) for one in accepted])

    @cached_property
    def _rows(self) -> dict[str, list[Problem]]:
        """Problems by split: the split that the row names, or else the one that its question's hash decides.

        Only the first of several rows with one question is kept. It is a test problem if any of them is.
        """
        columns: TaskColumns | None = None
        found: dict[str, Problem] = {}
        splits: dict[str, str] = {}
        for number, (row, named) in enumerate(self.read(), start=1):
            try:
                columns = columns or TaskColumns.find(row, self.options)
                question, problem = columns.problem(row)
            except DataError as error:
                raise DataError(f"{self.spec}: row {number}: {error}") from error
            split = named or hash_split(question)
            found.setdefault(problem.problem_id, problem)
            if splits.get(problem.problem_id) != "test":
                splits[problem.problem_id] = split
        if not found:
            raise DataError(f"{self.spec}: no rows; it must have at least one question")
        return {name: [found[key] for key in found if splits[key] == name] for name in ("train", "test")}


@dataclass(frozen=True)
class TaskColumns:
    """The columns of a row with the question and the answer. A dot reaches into structs: `reward_model.ground_truth`."""

    prompt: str
    answer: str
    instruction: str
    kept: tuple[str, ...] | None = None

    @classmethod
    def find(cls, row: Mapping[str, Any], options: Mapping[str, str]) -> "TaskColumns":
        """The columns that the options name, else the first usual ones. DataError, with all columns, if none fits."""
        prompt = _choose(row, options.get("prompt_field"), PROMPT_FIELDS, "prompt")
        answer = _choose(row, options.get("answer_field"), ANSWER_FIELDS, "answer")
        plain = isinstance(lookup(row, prompt), str) and prompt in QUESTION_FIELDS
        kept = options.get("columns")
        names = None if kept is None else tuple(name.strip() for name in kept.split(",") if name.strip())
        for name in names or ():
            _choose(row, name, (), "columns")
        return cls(prompt, answer, options.get("instruction", INSTRUCTION if plain else ""), names)

    def problem(self, row: Mapping[str, Any]) -> tuple[str, Problem]:
        """A row's question and problem. DataError if question or answer is missing, or is not text.

        Two rows with the same question, ignoring the instruction, are the same problem.
        """
        prompt = _messages(lookup(row, self.prompt), self.prompt)
        alone = len(prompt) == 1
        question = prompt[0]["content"] if alone else json.dumps(prompt, ensure_ascii=False, sort_keys=True)
        reference = _reference(lookup(row, self.answer), self.answer)
        if self.instruction:
            last = prompt[-1]
            prompt = [*prompt[:-1], {**last, "content": f"{last['content'].rstrip()}\n\n{self.instruction}"}]
        names = [name for name in row if name != self.prompt] if self.kept is None else self.kept
        rest = {str(name): _plain(lookup(row, name)) for name in names}
        return question, Problem(f"row-{digest_question(question).hex()}", prompt, reference, rest)


def lookup(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column or of a field in a column of structs; None if there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _choose(row: Mapping[str, Any], named: str | None, usual: Iterable[str], what: str) -> str:
    candidates = [named] if named else list(usual)
    for path in candidates:
        if path in row or lookup(row, path) is not None:
            return path
    found = ", ".join(repr(name) for name in row) or "none"
    sought = " or ".join(repr(path) for path in candidates)
    option = what if what == "columns" else f"{what}_field"
    raise DataError(f"no column {sought} (found: {found}); name it with --task-set {option}=…")


def _plain(value: Any) -> Any:
    """The value as JSON allows it: bytes and non-finite numbers become None, dates and the like become text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bytes | bytearray) or (isinstance(value, float) and not isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


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
    raise DataError(f"column {column!r} must be a text or a list of {{role, content}}, got {_short(value)}")


def _reference(value: Any, column: str) -> str | list[str]:
    if isinstance(value, Mapping) and "target" in value:  # verl's question answering: {"target": [accepted, …]}
        value = value["target"]
    values = value if isinstance(value, list) else [value]
    accepted = [gold_answer(str(one)) for one in values if isinstance(one, str | int | float)]
    if not accepted or len(accepted) < len(values) or not all(accepted):
        raise DataError(f"column {column!r} must be a text, a number, or a list of them, got {_short(value)}")
    return accepted if isinstance(value, list) else accepted[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def given_options(**options: str | None) -> dict[str, str]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}
