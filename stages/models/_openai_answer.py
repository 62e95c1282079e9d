"""What a server that speaks OpenAI's completions API answers, taken apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .engine import Alternatives

LOWEST = -9999.0  # what vLLM says for -inf, which JSON does not have
ROUNDING = 0.01  # a probability may come out above 1 by so much, as a logarithm, in a server's small floats
TOKEN_ID = "token_id:"  # how vLLM writes a token when it is told to


@dataclass(frozen=True)
class Answer:
    """One choice of the server's, taken apart. None: it did not say.

    logprobs: [T] of the tokens; top: at each place, the most likely tokens' ids and log-probabilities.
    stop_reason: what ended it, where that is known: a stop text or a token id. prompt_tokens: that the server read;
    cached_tokens: those of them that it did not compute; made: that it made. listed: ids are in llama.cpp's list of
    log-probabilities, which leaves out the tokens of a stop text, and those that end within a character.
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

    def cut(self, size: int) -> "Answer":
        """Its first tokens only."""
        ids, logprobs, top = (None if each is None else each[:size] for each in (self.ids, self.logprobs, self.top))
        return replace(self, ids=ids, logprobs=logprobs, top=top)  # pyright: ignore[reportArgumentType]


def answer_of(content: Any) -> Answer:
    """The first choice. Raises ValueError, LookupError, TypeError or AttributeError for what is none."""
    if "choices" not in content and "error" in content:
        raise ValueError(str(content["error"]))
    choice = content["choices"][0]
    said = choice.get("logprobs") or {}
    tokens, logprobs, top = _per_token(said)
    ids = choice.get("token_ids")
    ids = tokens if ids is None else [int(token) for token in ids]
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise ValueError(f"{len(ids)} token ids but {len(logprobs)} log-probabilities")
    if not all(map(math.isfinite, logprobs or ())):
        raise ValueError("a log-probability that is no finite number")
    if max(logprobs or (0.0,)) > ROUNDING:
        raise ValueError(f"a log-probability of {max(logprobs or ()):g}")
    if min(ids or (0,)) < 0:
        raise ValueError(f"a token id of {min(ids or ())}")
    reason = choice.get("stop_reason", choice.get("matched_stop"))
    usage = content.get("usage") or {}
    read, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return Answer(
        text=str(choice.get("text") or ""),
        finish_reason=str(choice.get("finish_reason")),
        stop_reason=reason if isinstance(reason, str | int) else None,
        ids=ids, logprobs=logprobs, top=top, prompt_tokens=None if read is None else int(read),
        cached_tokens=None if cached is None else int(cached), made=None if made is None else int(made),
        listed=ids is not None and ids is tokens and "content" in said,
    )  # fmt: skip


def _per_token(
    said: Mapping[str, Any],
) -> tuple[list[int] | None, list[float] | None, list[dict[int, float]] | None]:
    """Ids, log-probabilities and most likely tokens, in OpenAI's form or in llama.cpp's. None for what is not there."""
    if "content" in said:
        places = said["content"]
        if not all("id" in place and "logprob" in place for place in places):
            return None, None, None
        top = [{int(each["id"]): float(each["logprob"]) for each in place.get("top_logprobs", ())} for place in places]
        return [int(place["id"]) for place in places], [float(place["logprob"]) for place in places], top
    values = said.get("token_logprobs")
    logprobs = None if values is None else [float(value) for value in values]
    tokens = said.get("tokens")
    if not tokens or not all(token.startswith(TOKEN_ID) for token in tokens):
        return None, logprobs, None
    top = said.get("top_logprobs")
    if top is not None:
        top = [{_id(token): float(value) for token, value in (place or {}).items()} for place in top]
    return [_id(token) for token in tokens], logprobs, top


def _id(token: str) -> int:
    return int(token.removeprefix(TOKEN_ID))


def alternatives_of(top: Sequence[Mapping[int, float]], count: int) -> Alternatives:
    """The `count` most likely tokens of each place; equally likely ones by their number."""
    ids = np.full((len(top), count), -1, np.int32)
    logprobs = np.full((len(top), count), -np.inf, np.float32)
    for place, likely in enumerate(top):
        ordered = sorted(likely.items(), key=lambda each: (-each[1], each[0]))[:count]
        ordered = [each for each in ordered if each[1] > LOWEST]
        ids[place, : len(ordered)] = [token for token, _ in ordered]
        logprobs[place, : len(ordered)] = [value for _, value in ordered]
    return Alternatives(ids, logprobs)
