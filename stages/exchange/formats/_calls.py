"""The calls of a model in one conversation, put together to the rows of an episode."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....formats.errors import DataError
from ....formats.segments import Array


@dataclass(frozen=True)
class Call:
    """What a model read and wrote once: token ids, log-probabilities of what it wrote, and the reward of the step if there is one."""

    where: str
    prompt_ids: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float] | None = None
    reward: float | None = None


@dataclass
class Line:
    """Calls that went on from each other, as one row. calls: their numbers, in order."""

    calls: list[int] = field(default_factory=list[int])
    prompt_ids: Array = field(default_factory=lambda: np.empty(0, np.int64))
    pieces: list[Array] = field(default_factory=list[Array])
    masks: list[Array] = field(default_factory=list[Array])
    logprobs: list[Array] | None = field(default_factory=list[Array])
    rewards: list[float | None] = field(default_factory=list[float | None])
    spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def ids(self) -> Array:
        """[T] the response's tokens, those that were read between the calls included."""
        return np.concatenate(self.pieces)

    @property
    def mask(self) -> Array:
        """[T] true where the model wrote the token."""
        return np.concatenate(self.masks)

    def columns(self) -> dict[str, Any]:
        """Steps, one a call, and log-probabilities where every call has them. `step.reward` is there where every call has one."""
        found: dict[str, Any] = {
            "step.start": [start for start, _ in self.spans],
            "step.end": [end for _, end in self.spans],
            "step.kind": ["turn"] * len(self.spans),
        }
        if self.logprobs is not None:
            found["token.logprob"] = np.concatenate(self.logprobs)
        if all(each is not None for each in self.rewards):
            found["step.reward"] = [float(each) for each in self.rewards if each is not None]
        return found

    def goes_on_in(self, prompt: Array) -> int | None:
        """How many tokens of a prompt this row has: all of its own, at the prompt's beginning; None otherwise."""
        size = len(self.prompt_ids) + sum(len(each) for each in self.pieces)
        if size > len(prompt) or not np.array_equal(prompt[: len(self.prompt_ids)], self.prompt_ids):
            return None
        return size if np.array_equal(prompt[len(self.prompt_ids) : size], self.ids) else None

    def add(self, number: int, call: Call, read: Array, ids: Array, logprobs: Array | None) -> None:
        """Go on with a call: what it read beyond the row, and what it wrote."""
        start = sum(len(each) for each in self.pieces) + len(read)
        self.calls.append(number)
        self.pieces += [read, ids]
        self.masks += [np.zeros(len(read), bool), np.ones(len(ids), bool)]
        self.spans.append((start, start + len(ids)))
        self.rewards.append(call.reward)
        if logprobs is None:
            self.logprobs = None
        elif self.logprobs is not None:
            self.logprobs += [np.zeros(len(read)), logprobs]


def lines_of(calls: Sequence[Call]) -> list[Line]:
    """The rows of a conversation's calls, in the order in which they began.

    A call whose prompt begins with all that a row has goes on in that row, and the tokens between are an environment's. Any other
    prompt (context that was cut, rewritten or a sub-agent's) begins a row of its own. DataError, with the place, for lists that do
    not fit.
    """
    lines: list[Line] = []
    for number, call in enumerate(calls):
        prompt, ids = _ids(call, call.prompt_ids, "prompt ids"), _ids(call, call.ids, "token ids")
        logprobs = None if call.logprobs is None else np.asarray(call.logprobs, np.float64)
        if logprobs is not None and len(logprobs) != len(ids):
            raise DataError(f"{call.where}: {len(logprobs)} log-probabilities for {len(ids)} token ids")
        for line in reversed(lines):
            size = line.goes_on_in(prompt)
            if size is not None:
                line.add(number, call, prompt[size:], ids, logprobs)
                break
        else:
            line = Line(prompt_ids=prompt)
            line.add(number, call, prompt[:0], ids, logprobs)
            lines.append(line)
    return lines


def _ids(call: Call, values: Sequence[int], what: str) -> Array:
    try:
        found = np.asarray(values)
    except ValueError:
        found = np.empty((0, 0))
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise DataError(f"{call.where}, {what}: expected one list of whole numbers")
    return found.astype(np.int64)
