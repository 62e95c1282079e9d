"""The protocol of every engine: token ids in; token ids, log-probabilities and a finish reason out. It sees no text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...formats.errors import ApportionError

Ids = np.ndarray[Any, np.dtype[np.int32]]
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Request:
    """Continue `prefix_ids` once per seed. Row seeds make a sample independent of its neighbours in the batch.

    max_tokens: budget of this request, if smaller than the sampling's. continued: later requests may begin with this
    request's prefix and its sample, so an engine should keep what it computes.
    """

    prefix_ids: Sequence[int]
    seeds: Sequence[int]
    max_tokens: int | None = None
    continued: bool = False


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling distribution, and what ends a completion. temperature 0 is greedy; top_k 0 and top_p 1 are off.

    stop: texts; a completion ends with the token that completes one of them.
    alternatives: how many of the most likely tokens to report with each sampled one.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    alternatives: int = 0

    def with_alternatives(self, count: int) -> "Sampling":
        """The same sampling with this many alternatives reported."""
        return replace(self, alternatives=count)

    @property
    def is_raw(self) -> bool:
        """Whether log-probabilities are the policy's own at temperature 1; by convention, greedy ones are."""
        return self.temperature == 0 or (self.temperature == 1 and self.top_p >= 1 and self.top_k == 0)


class Alternatives(NamedTuple):
    """The K most likely next tokens at each of T positions, the most likely first.

    ids: [T, K] int32, -1 if there are fewer. logprobs: [T, K] float32, nats, of the policy at temperature 1 (of the
    sampling distribution if an engine knows only that); -inf if there are fewer.
    """

    ids: Ids
    logprobs: Floats


class Completion(NamedTuple):
    """One continuation.

    ids: [T] int32, including the end-of-sequence token if it was sampled.
    logprobs: [T] float32, natural log-probability of each sampled token under the distribution it was drawn from; None
        if no policy drew the tokens, or if the engine does not report it.
    finish_reason: "stop" (an end-of-sequence token), "length" (the budget is used up), "stop_text" (`Sampling.stop`), or
        "error" (there is no continuation).
    raw_logprobs: [T] float32, the same under the policy at temperature 1 with all tokens kept; None if the engine does
        not know them.
    alternatives: present if `Sampling.alternatives` asks for them.
    error: why there is no continuation.
    """

    ids: Ids
    logprobs: Floats | None
    finish_reason: str
    raw_logprobs: Floats | None = None
    alternatives: Alternatives | None = None
    error: str | None = None


@dataclass(frozen=True)
class Usage:
    """What an engine has done since it was opened, in tokens of the samples it returned.

    prompt_tokens: tokens of the prefixes, counted once per sample. cached_tokens: those that were not computed for
    their sample because a cache had them; None if the engine does not know. generated_tokens: tokens of the
    continuations.
    """

    prompt_tokens: int = 0
    cached_tokens: int | None = 0
    generated_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        cached = None
        if self.cached_tokens is not None and other.cached_tokens is not None:
            cached = self.cached_tokens + other.cached_tokens
        return Usage(self.prompt_tokens + other.prompt_tokens, cached, self.generated_tokens + other.generated_tokens)

    @property
    def cached_share(self) -> float | None:
        """Share of prefix tokens found in the cache; None if that is unknown or there were none."""
        return (
            self.cached_tokens / self.prompt_tokens if self.cached_tokens is not None and self.prompt_tokens else None
        )


class EngineLost(ApportionError):
    """The engine cannot go on, e.g. its server is gone. What was complete before is kept for --resume."""


class Engine(Protocol):
    """Generates completions with the weights of one policy. `EngineDefaults` has what an engine may leave out."""

    @property
    def name(self) -> str:
        """Name of what computes, as recorded in the file."""
        ...

    @property
    def version(self) -> str:
        """Version of what computes, as recorded in the file."""
        ...

    @property
    def identity(self) -> str:
        """Digest of the weights, or what is known of them."""
        ...

    @property
    def row_seeds(self) -> bool:
        """Whether a request's seeds decide its samples. If not, the engine's own seed decides a whole run, and equal runs
        give equal samples only as a whole."""
        ...

    @property
    def tokens_exact(self) -> bool:
        """Whether ids are the model's own. An engine whose server returns only text encodes it again."""
        ...

    @property
    def can_fail(self) -> bool:
        """Whether a completion can end with "error" while the others go on."""
        ...

    @property
    def context(self) -> int | None:
        """Most tokens of prefix and response that it can hold; None if unknown."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What it has done since it was opened; None if it does not count."""
        ...

    def forget(self) -> None:
        """Drop whatever is kept of earlier requests."""
        ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """One list of completions per request, in the order of its seeds. `on_progress(n)`: n more have finished."""
        ...


class EngineDefaults:
    """Defaults for what an engine may omit: it never fails, its context is unknown, it counts and keeps nothing."""

    can_fail = False
    context: int | None = None
    usage: Usage | None = None

    def forget(self) -> None:
        """Do nothing: nothing is kept."""
