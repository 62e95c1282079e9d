"""Responses sampled step by step: where a step ends, and completions that end with one."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...formats.ragged import Ragged
from ...formats.schema import FIELDS
from ..models.engine import Completion, Request, Sampling
from ..models.stop import StopTexts
from .context import SamplingContext

STEP = "step"
ANSWER = "answer"  # the kind of a step that ends its response


class Step(NamedTuple):
    """[start, end) in response tokens, the step's kind, and its reward from a judge."""

    start: int
    end: int
    kind: str
    reward: float


def generate_steps(context: SamplingContext, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
    """The engine's completions, each ended by the token that completes a text of `sampling.stop`, whether or not the engine
    supports stop texts.

    A completion that is cut is exactly what would have been drawn up to there: no token depends on later ones.
    """
    if not requests:
        return []
    made = context.engine.generate(requests, sampling)
    flat = [completion for group in made for completion in group]
    unknown = [index for index, each in enumerate(flat) if sampling.stop and each.finish_reason != "stop_text"]
    ends = step_ends(context.tokenizer, [flat[index].ids for index in unknown], sampling.stop, first=True)
    for index, found in zip(unknown, ends, strict=True):
        if found:
            flat[index] = head(flat[index], found[0], "stop_text")
    rest = iter(flat)
    return [[next(rest) for _ in group] for group in made]


def step_ends(tokenizer: Any, responses: Sequence[Any], stop: Sequence[str], *, first: bool = False) -> list[list[int]]:
    """For each list of token ids, the index after every token that completes one of the texts since the step began.

    first: only the first of them. The end of the list does not count unless a text ends there.
    """
    found: list[list[int]] = [[] for _ in responses]
    texts = StopTexts(tokenizer, tuple(stop))
    for place in range(max(map(len, responses), default=0)):
        rows = [row for row, ids in enumerate(responses) if place < len(ids) and not (first and found[row])]
        if not rows:
            break
        for row, done in zip(rows, texts.completed(rows, [int(responses[row][place]) for row in rows]), strict=True):
            if done:
                found[row].append(place + 1)
                texts.forget(row)
    return found


def head(completion: Completion, size: int, finish_reason: str) -> Completion:
    """The completion's first `size` tokens."""

    def cut(values: Any) -> Any:
        return None if values is None else values[:size]

    return Completion(cut(completion.ids), cut(completion.logprobs), finish_reason, cut(completion.raw_logprobs))


def join(before: Completion, at: int, after: Completion) -> Completion:
    """The first `at` tokens of one completion, followed by the other."""

    def both(first: Any, second: Any) -> Any:
        return None if first is None or second is None else np.concatenate((first[:at], second))

    return Completion(
        both(before.ids, after.ids),
        both(before.logprobs, after.logprobs),
        after.finish_reason,
        both(before.raw_logprobs, after.raw_logprobs),
        error=after.error,
    )


def is_over(response: Completion, new: int, asked: int | None, budget: float) -> bool:
    """Whether nothing can follow: the response ended by itself, or its budget is used up.

    new, asked: tokens of its last step, and the most that were requested (None: as many as the budget has left).
    """
    if response.finish_reason == "length":
        return len(response.ids) >= budget or asked is None or new < asked
    return response.finish_reason != "stop_text"


def context_length(context: SamplingContext) -> float:
    """Most tokens of prompt and response that leave room for one more in the engine, or else in the model."""
    known = context.engine.context or context.source.context
    # vLLM reserves the last position when it measures raw log-probabilities.
    return known - 1 if known else math.inf


def mark_cut(response: Completion, budget: float) -> Completion:
    """The response, marked as cut if a step ends it exactly when its budget is used up."""
    over = response.finish_reason == "stop_text" and len(response.ids) >= budget
    return response._replace(finish_reason="length") if over else response


def step_columns(rows: Sequence[Sequence[Step]]) -> dict[str, Any]:
    """The step ruler of rows, with `step.reward`."""
    return {
        "step.start": Ragged.from_lists([[step.start for step in steps] for steps in rows], np.int32),
        "step.end": Ragged.from_lists([[step.end for step in steps] for steps in rows], np.int32),
        "step.kind": pa.array([[step.kind for step in steps] for steps in rows], pa.list_(FIELDS["step.kind"].type)),
        "step.reward": Ragged.from_lists([[step.reward for step in steps] for steps in rows], np.float64),
    }
