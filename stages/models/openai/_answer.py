"""Parse the answers of a server that speaks OpenAI's completions API."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine import Alternatives

LOWEST = -9999.0  # vLLM writes this for -inf, which JSON cannot express
ROUNDING = 0.01  # by how much a log-probability may exceed 0 because of a server's low-precision floats
MOST_TOKENS = 2**31 - 1  # no context is longer
TOKEN_ID = "token_id:"  # prefix of a token that vLLM writes as its id on request


@dataclass(frozen=True)
class Choice:
    """One choice of the server's answer, parsed. None: the server did not say.

    logprobs: [T] of the tokens. top: ids and log-probabilities of the most likely tokens at each position. stop_reason:
    what ended it, if known: a stop text or a token id. prompt_tokens: how many the server read. cached_tokens: how many
    of those it did not compute. made: how many it generated. listed: the ids come from llama.cpp's list of
    log-probabilities, which leaves out the tokens of a stop text and tokens that end within a character.
    """

    text: str
    finish_reason: str
    stop_reason: str | int | None
    ids: list[int] | None
    logprobs: list[float] | None
    top: list[dict[int, float]] | None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    made: int | None = None
    listed: bool = False

    def cut(self, size: int) -> "Choice":
        """The choice with only its first tokens."""
        ids, logprobs, top = (None if each is None else each[:size] for each in (self.ids, self.logprobs, self.top))
        return replace(self, ids=ids, logprobs=logprobs, top=top)  # pyright: ignore[reportArgumentType]


def answer_of(content: Any, vocabulary: int) -> Choice:
    """The first choice. A malformed answer raises any exception, impossible values a ValueError: token ids that are not
    whole numbers below `vocabulary`, log-probabilities that are not finite or are above 0."""
    if "choices" not in content and "error" in content:
        raise ValueError(str(content["error"]))
    choice = content["choices"][0]
    said = choice.get("logprobs") or {}
    tokens, logprobs, top = _per_token(said, vocabulary)
    ids = choice.get("token_ids")
    ids = tokens if ids is None else [_token(token, vocabulary) for token in ids]
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise ValueError(f"got {len(ids)} token ids but {len(logprobs)} log-probabilities")
    text = choice.get("text")
    if not isinstance(text, str | None):
        raise ValueError(f"text must be a string, got {type(text).__name__}")
    reason = choice.get("stop_reason", choice.get("matched_stop"))
    usage = content.get("usage") or {}
    return Choice(
        text=text or "",
        finish_reason=str(choice.get("finish_reason")),
        stop_reason=reason if isinstance(reason, str | int) else None,
        ids=ids, logprobs=logprobs, top=top, prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count((usage.get("prompt_tokens_details") or {}).get("cached_tokens")),
        made=_count(usage.get("completion_tokens")),
        listed=ids is not None and ids is tokens and "content" in said,
    )  # fmt: skip


def _per_token(
    said: Mapping[str, Any], vocabulary: int
) -> tuple[list[int] | None, list[float] | None, list[dict[int, float]] | None]:
    """Ids, log-probabilities and most likely tokens, in OpenAI's form or llama.cpp's. None for what is missing."""
    if "content" in said:
        places = said["content"]
        if not all("id" in place and "logprob" in place for place in places):
            return None, None, None
        ids = [_token(place["id"], vocabulary) for place in places]
        top = [
            {_token(each["id"], vocabulary): _likely(each["logprob"]) for each in place.get("top_logprobs", ())}
            for place in places
        ]
        return ids, [_logprob(place["logprob"]) for place in places], top
    values = said.get("token_logprobs")
    logprobs = None if values is None else [_logprob(value) for value in values]
    tokens = said.get("tokens")
    if not tokens or not all(token.startswith(TOKEN_ID) for token in tokens):
        return None, logprobs, None
    top = said.get("top_logprobs")
    if top is not None:
        top = [
            {_id_named(token, vocabulary): _likely(value) for token, value in (place or {}).items()} for place in top
        ]
    return [_id_named(token, vocabulary) for token in tokens], logprobs, top


def _token(value: Any, vocabulary: int) -> int:
    """A token id. Rejects 1.9, true and "7"."""
    if type(value) is not int or not 0 <= value < vocabulary:
        raise ValueError(f"a token id must be a whole number below {vocabulary:,}, got {str(value)[:40]}")
    return value


def _id_named(token: str, vocabulary: int) -> int:
    digits = token.removeprefix(TOKEN_ID)
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f"a token id must be a whole number, got {digits[:40]!r}")
    return _token(int(digits), vocabulary)


def _logprob(value: Any) -> float:
    number = _likely(value)
    if not math.isfinite(number):
        raise ValueError("a log-probability is not a finite number")
    return number


def _likely(value: Any) -> float:
    """A log-probability of a likely token. May be -inf: some servers write it for a token that cannot occur."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError("a log-probability is not a number")
    if value > ROUNDING:
        raise ValueError(f"a log-probability must be at most 0, got {value:g}")
    return float(value)


def _count(value: Any) -> int | None:
    """A number of tokens; None if the server does not say."""
    if value is not None and (type(value) is not int or not 0 <= value <= MOST_TOKENS):
        raise ValueError(f"a number of tokens must be a whole number, got {str(value)[:40]}")
    return value


def alternatives_of(top: Sequence[Mapping[int, float]], count: int) -> Alternatives:
    """The `count` most likely tokens of each position; ties in the order of their ids."""
    ids = np.full((len(top), count), -1, np.int32)
    logprobs = np.full((len(top), count), -np.inf, np.float32)
    for place, likely in enumerate(top):
        ordered = sorted(likely.items(), key=lambda each: (-each[1], each[0]))[:count]
        ordered = [each for each in ordered if each[1] > LOWEST]
        ids[place, : len(ordered)] = [token for token, _ in ordered]
        logprobs[place, : len(ordered)] = [value for _, value in ordered]
    return Alternatives(ids, logprobs)
