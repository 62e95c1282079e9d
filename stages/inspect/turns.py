"""The turns of a rollout: what the policy saw, said and called, what it was answered, and what each turn earned.

Needs no tokenizer: the caller has the text of each token.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...formats.flags import ERROR, TRUNCATED
from ...formats.invariants import is_credit
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..tasks.played.tool_calls import CallFormat

REASONING = "step"  # the kind of steps that a text was cut into; all others are turns
LONGEST_CALL = 20_000  # characters; a longer turn is not searched for calls

# How chat templates write calls (stages/tasks/played/tool_calls.py learns it from the template itself).
CALL_FORMATS = (
    CallFormat("<tool>"),
    CallFormat("<tool_call>"),
    CallFormat("[TOOL_CALLS]"),
    CallFormat("<|python_tag|>", arguments_key="parameters"),
    CallFormat("<function=", middle=">"),
    CallFormat("", arguments_key="parameters"),
    CallFormat(""),
)

_ROLE = r"(?:user|tool|assistant|system|environment|ipython|model)\b"
_MARK = (
    r"(?:<[|｜][^|｜<>\n]{1,40}[|｜]>|\[/?(?:INST|TOOL_RESULTS)\]"
    r"|</?(?:s|bos|eos|pad|answer|result|tool_response|start_of_turn|end_of_turn)>)"
)
_HEAD = re.compile(rf"\s*{_MARK}(?:{_ROLE})?\s*")
_TAIL = re.compile(rf"\s*{_MARK}(?:{_ROLE})?\s*\Z")
_LONGEST_MARK = 80  # characters of a mark with its role and some white space


@dataclass(frozen=True)
class ToolCall:
    """A call as the policy wrote it. arguments: JSON."""

    name: str
    arguments: str


@dataclass(frozen=True)
class TurnCredit:
    """Of one column, over the tokens of a turn that the policy wrote."""

    sum: float
    mean: float


@dataclass(frozen=True)
class Turn:
    """One turn. number: from 1. start, end: response tokens of the action, [start, end); answer_start, answer_end: of what the
    environment or tool wrote after it, empty at the end of a rollout.

    action, answer: their text without the marks of the chat template around it. calls: those in the action; fault: what is
    wrong with one that cannot be read. state: key of the state that the turn began in. credit: {column: credit}, of the
    columns that the rollout has credit in. What the file does not say is None. flags: invalid, and at the last turn how the
    rollout ended: truncated, error.
    """

    number: int
    start: int
    end: int
    action: str
    answer_start: int
    answer_end: int
    answer: str
    kind: str | None = None
    state: str | None = None
    calls: Sequence[ToolCall] = ()
    fault: str = ""
    reward: float | None = None
    valid: bool | None = None
    flags: Sequence[str] = ()
    credit: Mapping[str, TurnCredit] = field(default_factory=dict)


def turns_of(rollouts: Rollouts, row: int, pieces: Sequence[str]) -> list[Turn]:
    """The turns of one rollout; none if it is one text that nothing answered. pieces: the text of each of its tokens.

    The step ruler says what the turns are, unless its steps are those of reasoning; else each stretch of tokens that the
    policy wrote is a turn.
    """
    first, last = (int(each) for each in rollouts.tokens.offsets[row : row + 2])
    mask = rollouts.mask[first:last]
    spans = _spans(rollouts, row, mask)
    known = _steps_are_turns(rollouts, row, mask)
    facts = {
        name: _of_steps(rollouts, row, f"step.{name}", len(spans)) if known else [None] * len(spans)
        for name in ("kind", "state", "reward", "valid")
    }
    credit = _credit(rollouts, row, mask, spans)
    ended = [flag for flag in (TRUNCATED, ERROR) if flag in _list(rollouts, row, "flags")]
    turns: list[Turn] = []
    for place, (start, end) in enumerate(spans):
        until = spans[place + 1][0] if place + 1 < len(spans) else len(mask)
        said = "".join(pieces[start:end])
        answer = "".join(
            piece for piece, own in zip(pieces[end:until], mask[end:until].tolist(), strict=True) if not own
        )
        calls, fault = calls_of(said)
        valid = facts["valid"][place]
        turn = Turn(
            place + 1, start, end, without_marks(said), end, until, without_marks(answer),
            kind=facts["kind"][place], state=facts["state"][place], calls=calls, fault=fault,
            reward=facts["reward"][place], valid=valid,
            flags=(*(["invalid"] if valid is False else ()), *(ended if place + 1 == len(spans) else ())),
            credit=credit[place],
        )  # fmt: skip
        turns.append(turn)
    return turns


def calls_of(text: str) -> tuple[Sequence[ToolCall], str]:
    """The tool calls in what a policy wrote, and what is wrong with one that cannot be read.

    >>> calls_of('<tool>{"name": "calculator", "arguments": {"expression": "2*3"}}</tool>')
    ((ToolCall(name='calculator', arguments='{"expression": "2*3"}'),), '')
    >>> calls_of("the answer is 6")
    ((), '')
    """
    if len(text) > LONGEST_CALL:
        return (), ""
    for form in CALL_FORMATS:
        if form.begin not in text:
            continue
        action = form.read(text, text)
        if action.calls or action.fault:
            calls = (ToolCall(call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in action.calls)
            return tuple(calls), action.fault
    return (), ""


def without_marks(text: str) -> str:
    """The text without the marks and roles that a chat template puts around it.

    >>> without_marks("<|im_end|>\\n<|im_start|>user\\n<tool_response>\\n8</tool_response><|im_end|>\\n<|im_start|>assistant\\n")
    '8'
    """
    start, end = 0, len(text)
    while found := _HEAD.match(text, start):
        start = found.end()
    while end > start and (found := _TAIL.search(text, max(start, end - _LONGEST_MARK), end)):
        end = found.start()
    return text[start:end].strip("\n")


def _spans(rollouts: Rollouts, row: int, mask: Array) -> list[tuple[int, int]]:
    """[start, end) of the tokens of each turn."""
    if _steps_are_turns(rollouts, row, mask):
        starts, ends = (_list(rollouts, row, f"step.{name}") for name in ("start", "end"))
        return list(zip(starts, ends, strict=True))
    if mask.all():
        return []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _steps_are_turns(rollouts: Rollouts, row: int, mask: Array) -> bool:
    """Whether somebody else wrote between the steps, or an environment said something of them."""
    if not _list(rollouts, row, "step.start") or REASONING in _list(rollouts, row, "step.kind"):
        return False
    return not mask.all() or any(_list(rollouts, row, f"step.{name}") for name in ("state", "valid"))


def _of_steps(rollouts: Rollouts, row: int, path: str, count: int) -> list[Any]:
    """A value a turn; None where the file has none."""
    values = _list(rollouts, row, path)
    return values if len(values) == count else [None] * count


def _list(rollouts: Rollouts, row: int, path: str) -> list[Any]:
    return (rollouts.arrow(path)[row].as_py() or []) if path in rollouts else []


def _credit(rollouts: Rollouts, row: int, mask: Array, spans: Sequence[tuple[int, int]]) -> list[dict[str, TurnCredit]]:
    """Of every turn, by column."""
    found: list[dict[str, TurnCredit]] = [{} for _ in spans]
    for path in (path for path in rollouts.paths if is_credit(path)):
        column = rollouts.ragged(path)
        if column.present is not None and not column.present[row]:
            continue
        values = column[row].astype(np.float64)
        for into, (start, end) in zip(found, spans, strict=True):
            own = values[start:end][mask[start:end]]
            into[path] = TurnCredit(float(own.sum()), float(own.mean()) if len(own) else 0.0)
    return found
