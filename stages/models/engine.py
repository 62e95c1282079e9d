"""What every engine speaks: token ids in; token ids, log-probabilities and a finish reason out. No text, no tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...formats.errors import ApportionError

Ids = np.ndarray[Any, np.dtype[np.int32]]
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Request:
    """Continue `prefix_ids` once for every seed. Row seeds make a sample independent of its neighbours in the batch.

    max_tokens: this request's budget, where it is smaller than the sampling's. continued: later requests may begin with
    this one's prefix and what is sampled now, so that an engine does well to keep what it computes.
    """

    prefix_ids: Sequence[int]
    seeds: Sequence[int]
    max_tokens: int | None = None
    continued: bool = False


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling distribution, and where a completion ends. temperature 0 is greedy; top_k 0 and top_p 1 are off.

    stop: texts; a completion ends with the token that completes one of them.
    alternatives: how many of the most likely tokens are reported with each one drawn.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    alternatives: int = 0

    def with_alternatives(self, count: int) -> "Sampling":
        """The same, with alternatives reported."""
        return replace(self, alternatives=count)

    @property
    def is_raw(self) -> bool:
        """Log-probabilities are the policy's own at temperature 1; those of greedy sampling are, by convention."""
        return self.temperature == 0 or (self.temperature == 1 and self.top_p >= 1 and self.top_k == 0)


class Alternatives(NamedTuple):
    """The K most likely next tokens at each of T places, the most likely first.

    ids: [T, K] int32, -1 where there are fewer. logprobs: [T, K] float32, nat, of the policy at temperature 1 (of the
    sampling distribution where an engine knows only that one); -inf where there are fewer.
    """

    ids: Ids
    logprobs: Floats


class Completion(NamedTuple):
    """One continuation.

    ids: [T] int32, the end-of-sequence token included where it was sampled.
    logprobs: [T] float32, natural log-probability of each sampled token under the distribution it was drawn from; None
        where no policy drew them, or its engine does not say.
    finish_reason: "stop" (an end-of-sequence token), "length" (the budget is used up), "stop_text" (`Sampling.stop`), or
        "error": there is no continuation.
    raw_logprobs: [T] float32, the same under the policy at temperature 1, all tokens kept; None where the engine does
        not know them.
    alternatives: where `Sampling.alternatives` asks for them.
    error: why there is none.
    """

    ids: Ids
    logprobs: Floats | None
    finish_reason: str
    raw_logprobs: Floats | None = None
    alternatives: Alternatives | None = None
    error: str | None = None


@dataclass(frozen=True)
class Usage:
    """What an engine has done since it was opened, in tokens of the samples it gave.

    prompt_tokens: of their prefixes, each sample's counted. cached_tokens: those of them that were not computed for it,
    since what was computed for another sample, or before, served; None where the engine does not know.
    generated_tokens: of their continuations.
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
        """Of the prefix tokens, those found in the cache; None where that is not known, or there were none."""
        return (
            self.cached_tokens / self.prompt_tokens if self.cached_tokens is not None and self.prompt_tokens else None
        )


class EngineLost(ApportionError):
    """The engine does not go on, e.g. its server is gone. What was whole before is kept for --resume."""


class Engine(Protocol):
    """Makes completions with the weights of one policy. `EngineDefaults` has what an engine need not say for itself."""

    @property
    def name(self) -> str:
        """Of what computes, as recorded in the file."""
        ...

    @property
    def version(self) -> str:
        """Of what computes, as recorded in the file."""
        ...

    @property
    def identity(self) -> str:
        """Digest of the weights, or what is known of them."""
        ...

    @property
    def row_seeds(self) -> bool:
        """A request's seeds decide its samples. Where they cannot, the engine's own seed decides those of a whole run, and
        equal runs give equal samples only as a whole."""
        ...

    @property
    def tokens_exact(self) -> bool:
        """Ids are those the model made. An engine that gets only text from its server encodes it again."""
        ...

    @property
    def can_fail(self) -> bool:
        """A completion can end with "error" while the others go on."""
        ...

    @property
    def context(self) -> int | None:
        """How many tokens of prefix and response it can hold; None where that is not known."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What it has done since it was opened; None for one that does not count."""
        ...

    def forget(self) -> None:
        """What it keeps of earlier requests is needed no more."""
        ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """One list of completions per request, in the order of its seeds. `on_progress(n)`: n more are finished."""
        ...


class EngineDefaults:
    """What an engine need not say for itself: it never fails, its context is unknown, it counts and keeps nothing."""

    can_fail = False
    context: int | None = None
    usage: Usage | None = None

    def forget(self) -> None:
        """Nothing is kept."""
