"""What every engine speaks: token ids in; token ids, log-probabilities and a finish reason out. No text, no tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int32]]
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Request:
    """Continue `prefix_ids` once for every seed. Row seeds make a sample independent of its neighbours in the batch."""

    prefix_ids: Sequence[int]
    seeds: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling distribution. temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


class Completion(NamedTuple):
    """One continuation.

    ids: [T] int32, the end-of-sequence token included where it was sampled.
    logprobs: [T] float32, natural log-probability of each sampled token under the distribution it was drawn from; None
        where no policy drew them.
    finish_reason: "stop" (an end-of-sequence token) or "length" (max_tokens reached).
    """

    ids: Ids
    logprobs: Floats | None
    finish_reason: str


class Engine(Protocol):
    """Makes completions with the weights of one policy."""

    name: str

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """One list of completions per request, in the order of its seeds. `on_progress(n)`: n more are finished."""
        ...
