"""The columns of a task's rows: the prompt, the reference answer, and what else is kept."""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from math import isfinite, isnan
from typing import Any, NamedTuple

from ...formats.errors import DataError
from ._splits import digest_question
from .answers import gold_answer
from .kind import Message, Problem

PROMPT_FIELDS = ("prompt", "question", "problem")
ANSWER_FIELDS = ("reward_model.ground_truth", "answer", "reference", "solution", "ground_truth", "target")
# A prompt is assumed to be written for a model. A question is not, so it gets this instruction.
QUESTION_FIELDS = ("question", "problem")
INSTRUCTION = r"Put your final answer within \boxed{}."
MOST_SHOWN = 20  # columns that a message lists


class Prompt(NamedTuple):
    """A row's prompt, without the instruction, and what identifies it: two rows with one question are one problem."""

    messages: list[Message]
    question: str

    @property
    def problem_id(self) -> str:
        return f"row-{digest_question(self.question).hex()}"


class TaskColumns:
    """The columns of a file's rows that the options name, else the first usual ones. A dot reaches into structs:
    `reward_model.ground_truth`.

    The first row decides where the prompt is; the first row that has any usual answer column, which one it is. A file
    without any has no answers, and a row without a value in it has none. `look_at` every row, then `check_all`.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._options = options
        self._prompt: str | None = options.get("prompt_field")
        self._answer: str | None = options.get("answer_field")
        self._instruction: str = options.get("instruction", "")
        kept = options.get("columns")
        self._kept = None if kept is None else tuple(name.strip() for name in kept.split(",") if name.strip())
        self.seen: dict[str, None] = {}  # all columns of the rows so far, and the fields in them
        self._shapes: set[tuple[str, ...]] = set()
        self._begun = False

    def look_at(self, row: Mapping[str, Any]) -> None:
        """Take note of a row. DataError, with all columns, if it has no prompt."""
        shape = tuple(names_in(row))
        if shape not in self._shapes:
            self._shapes.add(shape)
            self.seen.update(dict.fromkeys(shape))
        if not self._begun:
            self._begun = True
            self._prompt = self._prompt or _first(row, PROMPT_FIELDS)
            usual = self._prompt in QUESTION_FIELDS and isinstance(lookup(row, self._prompt), str)
            if usual and "instruction" not in self._options:
                self._instruction = INSTRUCTION
        if self._prompt is None or not _has(row, self._prompt):
            sought = [self._prompt] if self._prompt else PROMPT_FIELDS
            fault = named_column(sought[0], shape) if len(sought) == 1 else no_column(sought, shape)
            raise DataError(f"{fault}; name it with --task-set prompt_field=…")
        self._answer = self._answer or _first(row, ANSWER_FIELDS)

    def has(self, name: str) -> bool:
        """Whether any row so far has the column."""
        return name in self.seen

    def check_all(self) -> None:
        """DataError, with all columns, for an answer or another column that was named and that no row has."""
        answer = self._options.get("answer_field")
        if answer and not self.has(answer):
            raise DataError(
                f"{named_column(answer, self.seen)}; name the one with the answers with --task-set answer_field=…, or "
                "leave the option out for prompts without answers"
            )
        for name in self._kept or ():
            if not self.has(name):
                raise DataError(f"{named_column(name, self.seen)}; name those to keep with --task-set columns=…")

    def prompt_of(self, row: Mapping[str, Any]) -> Prompt:
        """A row's prompt. DataError if it is no text and no conversation."""
        assert self._prompt is not None
        messages = _messages(lookup(row, self._prompt), self._prompt)
        alone = len(messages) == 1
        question = messages[0]["content"] if alone else json.dumps(messages, ensure_ascii=False, sort_keys=True)
        return Prompt(messages, question)

    def reference_of(self, row: Mapping[str, Any]) -> str | list[str] | None:
        """A row's reference answer; None if it has none. DataError if it is no text, number, or list of them."""
        value = None if self._answer is None else lookup(row, self._answer)
        if isinstance(value, Mapping) and "target" in value:  # verl's question answering: {"target": [accepted, …]}
            value = value["target"]
        if is_missing(value) or value == []:
            return None
        values = value if isinstance(value, list) else [value]
        accepted = [gold_answer(str(one)) for one in values if isinstance(one, str | int | float)]
        if len(accepted) < len(values) or not all(accepted):
            raise DataError(f"column {self._answer!r} must be a text, a number, or a list of them, got {_short(value)}")
        return accepted if isinstance(value, list) else accepted[0]

    def problem_of(self, row: Mapping[str, Any], place: str) -> Problem:
        """A row's problem: its prompt with the instruction, its reference, and its other columns."""
        prompt = self.prompt_of(row)
        messages = prompt.messages
        if self._instruction:
            last = messages[-1]
            messages = [*messages[:-1], {**last, "content": f"{last['content'].rstrip()}\n\n{self._instruction}"}]
        names = [name for name in row if name != self._prompt] if self._kept is None else self._kept
        rest = {str(name): _plain(lookup(row, name)) for name in names}
        return Problem(prompt.problem_id, messages, self.reference_of(row), rest, place)


def lookup(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column or of a field in a column of structs; None if there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def names_in(row: Mapping[Any, Any], before: str = "") -> Iterable[str]:
    """The row's columns, each followed by the fields in it."""
    for name, value in row.items():
        yield f"{before}{name}"
        if isinstance(value, Mapping):
            yield from names_in(value, f"{before}{name}.")


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: null, a text of spaces only, or NaN, which pandas writes for it."""
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and isnan(value))
    )


def no_column(sought: Iterable[str], names: Iterable[str]) -> str:
    """What to say of columns of which none is there."""
    tops = [repr(name) for name in dict.fromkeys(name.partition(".")[0] for name in names)]
    found = ", ".join(tops[:MOST_SHOWN]) + (" …" if len(tops) > MOST_SHOWN else "")
    return f"no column {' or '.join(map(repr, sought))} (found: {found or 'none'})"


def named_column(name: str, names: Iterable[str]) -> str:
    """What to say of a column that the user named and that is not there, with the nearest that is."""
    near = get_close_matches(name, list(names), n=1)
    return no_column([name], names) + (f"; did you mean {near[0]!r}?" if near else "")


def _has(row: Mapping[str, Any], path: str) -> bool:
    return path in row or lookup(row, path) is not None


def _first(row: Mapping[str, Any], usual: Iterable[str]) -> str | None:
    return next((path for path in usual if _has(row, path)), None)


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
    """A text as the user's message, or a conversation. DataError for what a policy cannot answer."""
    if is_missing(value) or value == []:
        raise DataError(f"column {column!r} is empty; leave the row out, or give it a prompt")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    messages = [_message(one) for one in value] if isinstance(value, list) else [None]
    whole = [message for message in messages if message is not None]
    if len(whole) < len(messages):
        raise DataError(f"column {column!r} must be a text or a list of {{role, content}} of text, got {_short(value)}")
    if whole[-1]["role"] == "assistant":
        raise DataError(
            f"column {column!r} ends with a message of the assistant, where the policy speaks next; leave that message out"
        )
    if not any(message["content"].strip() for message in whole):
        raise DataError(f"column {column!r} is empty: all of its messages are; leave the row out, or give it a prompt")
    return whole


def _message(value: Any) -> Message | None:
    """A message with the text of its parts, [{"type": "text", "text": …}], as one; None if it is no message of text."""
    role, content = (value.get("role"), value.get("content")) if isinstance(value, Mapping) else (None, None)
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        content = None if None in texts else "".join(map(str, texts))
    return {"role": role, "content": content} if isinstance(role, str) and isinstance(content, str) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
