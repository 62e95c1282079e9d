"""Sampling with a server that speaks OpenAI's completions API: vLLM, SGLang, llama.cpp …

Prompts are sent as token ids, every sample as a request of its own. Token ids come back where the server can say them
(vLLM and SGLang with `return_token_ids`, llama.cpp with its log-probabilities); elsewhere the text is encoded again with
the tokenizer of --model. Which weights a server has is its own word: nothing here verifies it.
"""

import asyncio
import json
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np

from ...formats.errors import ApportionError, UsageError, unknown
from . import ENGINES, EngineEntry
from .engine import Alternatives, Completion, EngineLost, Floats, Request, Sampling
from .policy import ModelSource

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds before an answer that could not be read is asked for again
CONNECT_S = 10.0
PROBE = "7+2*(5-3) = 11, or is it?\n"
LOWEST = -9999.0  # what vLLM says for -inf, which JSON does not have
TOKEN_ID = "token_id:"  # how vLLM writes a token when it is told to
BEYOND_OPENAI = {
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "include_stop_str_in_output": True,
}

Reported = Literal["raw", "tempered", "sampling"]
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Server:
    """Where it is and how it is asked. extras: it knows more parameters than OpenAI's own."""

    base_url: str
    model: str = ""
    api_key: str = "none"
    timeout_s: float = 600.0
    retries: int = 6
    extras: bool = True

    def client(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI, Timeout

        timeout = Timeout(self.timeout_s, connect=min(self.timeout_s, CONNECT_S))
        return AsyncOpenAI(base_url=self.base_url, api_key=self.api_key, timeout=timeout, max_retries=self.retries)


class Refused(UsageError):
    """The server will not do what it was asked: asking again does not help."""


class Unanswered(Exception):
    """One request that got no usable answer, all retries used up; the message says what was seen last."""


@dataclass(frozen=True)
class Answer:
    """One choice of the server's, taken apart. None: it did not say.

    logprobs: [T] of the tokens; top: at each place, the most likely tokens' ids and log-probabilities.
    stop_reason: what ended it, where that is known: a stop text or a token id.
    """

    text: str
    finish_reason: str
    stop_reason: str | int | None
    ids: list[int] | None
    logprobs: list[float] | None
    top: list[dict[int, float]] | None


class OpenAIEngine:
    """Asks a server for each sample, up to `concurrency` at a time.

    A rollout that gets no answer is a completion with the finish reason "error"; the others go on. The server counts as
    lost when `concurrency` requests in a row (8 at least) got none, or the last ones and then one for a single token.
    """

    name = "openai"
    can_fail = True

    def __init__(
        self, server: Server, tokenizer: Any, first: Answer, *,
        version: str = "", context: int | None = None, concurrency: int = 32, seeds: bool = True,
        reported: Reported = "raw",
    ):  # fmt: skip
        self.version = version
        self.identity = f"served:{server.model}"
        self.row_seeds = seeds
        self.tokens_exact = first.ids is not None
        self.context = context
        self._server, self._tokenizer, self._concurrency, self._reported = server, tokenizer, concurrency, reported
        self._has_logprobs = first.ids is not None and first.logprobs is not None
        self._lost_after = max(8, concurrency)
        self._unanswered = 0  # in a row

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. UsageError for what the server refuses, EngineLost when it does not answer any more."""
        for request in requests:
            self._limit(request, sampling)
        found: list[list[Completion | None]] = [[None] * len(request.seeds) for request in requests]
        try:
            asyncio.run(self._generate(requests, sampling, found, on_progress or (lambda _: None)))
        except BaseExceptionGroup as group:  # the others in it were cancelled, or saw the same
            raise group.exceptions[0] from group
        return [[each for each in group if each is not None] for group in found]

    async def _generate(
        self, requests: Sequence[Request], sampling: Sampling, found: list[list[Completion | None]],
        on_progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        rows = iter([(index, row) for index, request in enumerate(requests) for row in range(len(request.seeds))])

        async def work(client: "AsyncOpenAI") -> None:
            for index, row in rows:  # one iterator for all workers
                found[index][row] = await self._complete(client, requests[index], row, sampling)
                on_progress(1)

        async with self._server.client() as client, asyncio.TaskGroup() as workers:
            for _ in range(min(self._concurrency, sum(map(len, found)))):
                workers.create_task(work(client))
        if self._unanswered:  # the last rows failed: by themselves, or is the server gone?
            await self._check_there(requests)

    async def _check_there(self, requests: Sequence[Request]) -> None:
        prompt = list(requests[0].prefix_ids)
        try:
            async with self._server.client() as client:
                await _asked(client, self._server, _body(self._server, Sampling(), prompt, 1), _answer)
        except Unanswered as error:
            raise self._lost(error) from error
        self._unanswered = 0

    def _lost(self, error: Unanswered) -> EngineLost:
        return EngineLost(f"{self._server.base_url}: no answer to {self._unanswered} requests in a row ({error})")

    async def _complete(self, client: "AsyncOpenAI", request: Request, row: int, sampling: Sampling) -> Completion:
        body = _body(self._server, sampling, list(request.prefix_ids), self._limit(request, sampling))
        if self.row_seeds and sampling.temperature > 0:
            body["seed"] = int(request.seeds[row])
        try:
            completion = await _asked(
                client, self._server, body, lambda content: self._completion(_answer(content), sampling)
            )
        except Unanswered as error:
            self._unanswered += 1
            if self._unanswered >= self._lost_after:
                raise self._lost(error) from error
            return self._failed(str(error), sampling)
        self._unanswered = 0
        return completion

    def _limit(self, request: Request, sampling: Sampling) -> int:
        size = len(request.prefix_ids)
        if size == 0:
            raise UsageError("an empty prefix: a model needs at least one token to continue")
        limit = sampling.max_tokens if request.max_tokens is None else min(request.max_tokens, sampling.max_tokens)
        if self.context is None:
            return limit
        if size >= self.context:
            raise UsageError(f"a prompt of {size:,} tokens does not fit the model's context of {self.context:,}")
        return min(limit, self.context - size)

    def _completion(self, answer: Answer, sampling: Sampling) -> Completion:
        """ValueError for an answer that says less than the server's first one did."""
        if answer.finish_reason not in ("stop", "length"):
            raise ValueError(f"it ended with finish_reason {answer.finish_reason!r}")
        by_text = answer.finish_reason == "stop" and self._ended_by_text(answer, sampling)
        reason = "stop_text" if by_text else answer.finish_reason
        if not self.tokens_exact:
            ids = list(self._tokenizer(answer.text, add_special_tokens=False)["input_ids"])
            if reason == "stop" and self._tokenizer.eos_token_id is not None:
                ids.append(self._tokenizer.eos_token_id)
            return Completion(np.array(ids, np.int32), None, reason)
        if answer.ids is None or (self._has_logprobs and answer.logprobs is None):
            raise ValueError("it lacks token ids or log-probabilities, which the first answer had")
        logprobs, raw = self._known(answer.logprobs if self._has_logprobs else None, sampling)
        others = None
        if sampling.alternatives and answer.top is not None:
            others = _alternatives(answer.top, sampling.alternatives)
        return Completion(np.array(answer.ids, np.int32), logprobs, reason, raw, others)

    def _ended_by_text(self, answer: Answer, sampling: Sampling) -> bool:
        if isinstance(answer.stop_reason, str):
            return answer.stop_reason in sampling.stop
        if answer.stop_reason is not None or not sampling.stop:
            return False
        if answer.ids is None:  # the text does not show it: the server may have cut the stop text off
            return True
        text = self._tokenizer.decode(answer.ids, skip_special_tokens=True)
        return any(stop in text for stop in sampling.stop)

    def _known(self, values: list[float] | None, sampling: Sampling) -> tuple[Floats | None, Floats | None]:
        """The reported log-probabilities as those of the sampling distribution, and of the policy at temperature 1.

        None where the distribution is another one. With temperature 0 the first are the policy's own, as everywhere.
        """
        if values is None:
            return None, None
        floats = np.minimum(np.array(values, np.float32), np.float32(0))
        if self._reported == "raw":
            return (floats if sampling.is_raw or sampling.temperature == 0 else None), floats
        whole = sampling.top_p >= 1 and sampling.top_k == 0
        if self._reported == "tempered":
            at_one = sampling.temperature in (0, 1)
            return (floats if whole else None), (floats if at_one else None)
        return floats, (floats if sampling.is_raw else None)

    def _failed(self, error: str, sampling: Sampling) -> Completion:
        """A rollout without tokens, and without log-probabilities exactly where the others have none."""
        logprobs, raw = self._known([] if self._has_logprobs else None, sampling)
        others = _alternatives([], sampling.alternatives) if sampling.alternatives else None
        return Completion(np.empty(0, np.int32), logprobs, "error", raw, others, error)


def _body(server: Server, sampling: Sampling, prompt: list[int] | str, limit: int) -> dict[str, Any]:
    """A request's parameters, nothing left to the server's defaults that changes the distribution."""
    extras = BEYOND_OPENAI if server.extras else {}
    if server.extras or sampling.top_k:
        extras = extras | {"top_k": sampling.top_k or -1}
    return {
        "model": server.model,
        "prompt": prompt,
        "max_tokens": limit,
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": max(1, sampling.alternatives),
        **({"stop": list(sampling.stop)} if sampling.stop else {}),
        "extra_body": extras,
    }


async def _asked(client: "AsyncOpenAI", server: Server, body: Mapping[str, Any], read: Callable[[Any], _Read]) -> _Read:
    """What `read` makes of the answer. Unanswered when the retries are used up, UsageError for what is refused.

    The client asks again after 408, 409, 429, 5xx, timeouts and lost connections, and waits as long as Retry-After says;
    an answer that `read` can make nothing of (it raises what a wrong shape does) is asked for again here.
    """
    import openai

    left, wait = server.retries, FIRST_WAIT
    while True:
        try:
            raw = await client.with_options(max_retries=left).completions.with_raw_response.create(**body)
        except openai.APIError as error:
            raise _fault(error, server) from error
        left -= raw.retries_taken
        try:
            return read(json.loads(raw.content))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if left <= 0:
                raise Unanswered(f"an answer that cannot be read: {error}") from error
        left -= 1
        await asyncio.sleep(wait * random.uniform(0.75, 1.0))
        wait = min(2 * wait, LONGEST_WAIT)


def _fault(error: "APIError", server: Server) -> Exception:
    """What the user is told."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Unanswered(f"no answer in {server.timeout_s:g} s")
    if not isinstance(error, openai.APIStatusError):
        return Unanswered(f"{_line(error.__cause__ or error)}")
    status, body = error.status_code, error.body
    said = body.get("message") if isinstance(body, dict) else None
    seen = f"HTTP {status}: {_line(said or error)}"
    if status in (408, 409, 429) or status >= 500:
        return Unanswered(seen)
    remedy = ""
    if status in (401, 403):
        remedy = "; name the environment variable that holds the key with --engine-set api_key_env=NAME"
    return Refused(f"{server.base_url}: the server refuses a request, {seen}{remedy}")


def _line(words: object) -> str:
    return " ".join(str(words).split())[:300] or type(words).__name__


def _answer(content: Any) -> Answer:
    """The first choice. Raises ValueError, LookupError, TypeError or AttributeError for what is none."""
    choice = content["choices"][0]
    tokens, logprobs, top = _per_token(choice.get("logprobs") or {})
    ids = choice.get("token_ids")
    ids = tokens if ids is None else [int(token) for token in ids]
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise ValueError(f"{len(ids)} token ids but {len(logprobs)} log-probabilities")
    if not all(map(math.isfinite, logprobs or ())):
        raise ValueError("a log-probability that is no finite number")
    reason = choice.get("stop_reason", choice.get("matched_stop"))
    return Answer(
        text=str(choice.get("text") or ""),
        finish_reason=str(choice.get("finish_reason")),
        stop_reason=reason if isinstance(reason, str | int) else None,
        ids=ids, logprobs=logprobs, top=top,
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


def _alternatives(top: Sequence[Mapping[int, float]], count: int) -> Alternatives:
    ids = np.full((len(top), count), -1, np.int32)
    logprobs = np.full((len(top), count), -np.inf, np.float32)
    for place, likely in enumerate(top):
        ordered = sorted(likely.items(), key=lambda each: (-each[1], each[0]))[:count]
        ordered = [each for each in ordered if each[1] > LOWEST]
        ids[place, : len(ordered)] = [token for token, _ in ordered]
        logprobs[place, : len(ordered)] = [value for _, value in ordered]
    return Alternatives(ids, logprobs)


@dataclass(frozen=True)
class _Met:
    """What the server said of itself when it was asked for one token. kind: who made it, in its own words."""

    server: Server
    first: Answer
    kind: str
    fingerprint: str
    context: int | None


async def _meet(server: Server, served_model: str | None, tokenizer: Any) -> _Met:
    """The first words with a server: is it there, which model, does it take token ids, and what does it answer?"""
    async with server.client() as client:
        cards = await _cards(client, server)
        card = _chosen(cards, served_model, server)
        server = replace(server, model=card["id"])
        prompt = [int(token) for token in tokenizer(PROBE)["input_ids"]]
        try:
            said = await _probed(client, server, PROBE)
        except Refused:
            server = replace(server, extras=False)
            said = await _probed(client, server, PROBE)
        _check_tokenizer(said, prompt, server)
        said = await _probed(client, server, prompt)
    counted = (said.get("usage") or {}).get("prompt_tokens")
    if counted not in (None, len(prompt)):
        raise UsageError(
            f"{server.base_url}: of a prompt of {len(prompt)} token ids the server read {counted} tokens; "
            "needed is one that takes token ids as prompt"
        )
    context = card.get("max_model_len")
    return _Met(
        server, _answer(said), str(card.get("owned_by") or ""), str(said.get("system_fingerprint") or ""),
        context if isinstance(context, int) else None,
    )  # fmt: skip


async def _cards(client: "AsyncOpenAI", server: Server) -> list[dict[str, Any]]:
    """The models that the server lists; none where it has no such list."""
    import openai

    try:
        raw = await client.with_options(max_retries=min(1, server.retries)).models.with_raw_response.list()
        cards = json.loads(raw.content)["data"]
        return [card for card in cards if isinstance(card["id"], str)]
    except openai.NotFoundError:
        return []
    except openai.APIError as error:
        fault = _fault(error, server)
        if isinstance(error, openai.APIConnectionError):
            raise ApportionError(
                f"{server.base_url}: no server answers ({fault}); start one, e.g. `vllm serve MODEL`, or say where it is "
                "with --engine-set base_url=URL"
            ) from error
        raise (ApportionError(f"{server.base_url}: {fault}") if isinstance(fault, Unanswered) else fault) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{server.base_url}: what is there does not speak OpenAI's API; the address mostly ends with /v1"
        ) from error


def _chosen(cards: Sequence[dict[str, Any]], served_model: str | None, server: Server) -> dict[str, Any]:
    names = [card["id"] for card in cards]
    if served_model is None:
        if len(names) == 1:
            return cards[0]
        choice = f"choose from {', '.join(names)}" if names else "the server lists none"
        raise UsageError(f"{server.base_url}: name the model with --engine-set served_model=NAME; {choice}")
    if names and served_model not in names:
        raise unknown(f"model of {server.base_url}", served_model, names)
    return next((card for card in cards if card["id"] == served_model), {"id": served_model})


async def _probed(client: "AsyncOpenAI", server: Server, prompt: str | list[int]) -> dict[str, Any]:
    """One token after the prompt: the whole answer, which can be read."""

    def read(content: Any) -> dict[str, Any]:
        _answer(content)
        return content

    try:
        return await _asked(client, server, _body(server, Sampling(), prompt, 1), read)
    except Unanswered as error:
        raise ApportionError(f"{server.base_url}: {error}") from error


def _check_tokenizer(said: Mapping[str, Any], ours: list[int], server: Server) -> None:
    """UsageError where the server makes other tokens of the same text, as far as it says which, or how many."""
    theirs = said["choices"][0].get("prompt_token_ids")
    count = (said.get("usage") or {}).get("prompt_tokens")
    differs = theirs != ours if theirs is not None else count is not None and abs(count - len(ours)) > 1
    if differs:
        raise UsageError(
            f"{server.base_url}: model {server.model!r} makes other tokens of a text than the tokenizer of --model does; "
            "name the model that is served with --model"
        )


def _open(
    source: ModelSource,
    seed: int,
    *,
    base_url: str = "http://localhost:8000/v1",
    served_model: str | None = None,
    api_key_env: str | None = None,
    concurrency: int = 32,
    timeout_s: float = 600.0,
    retries: int = 6,
    seeds: bool = True,
    logprobs: Literal["auto", "raw", "tempered", "sampling"] = "auto",
) -> OpenAIEngine:
    """A server, asked for one token to see what it answers. --model names the tokenizer that fits it.

    Args:
        base_url: where the API is, /v1 included.
        served_model: the model's name on the server; None is the only one there.
        api_key_env: environment variable that holds the key; None sends none.
        concurrency: requests under way at a time.
        timeout_s: seconds until a request counts as lost.
        retries: times that a request is made again.
        seeds: send every row's seed, which servers may use or not; off, rows have none.
        logprobs: of which distribution the server's are: "raw", of the policy at temperature 1 (vLLM, llama.cpp);
            "tempered", at the temperature asked for, all tokens kept (SGLang); "sampling", what was sampled from (vLLM
            with --logprobs-mode processed_logprobs). "auto" goes by who made the server.
    """
    if find_spec("openai") is None:
        raise UsageError("engine 'openai' needs the 'openai' extra; run: pip install 'apportion[openai]'")
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"option 'base_url' of engine 'openai': {base_url!r}, needed is http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query:
        raise UsageError("option 'base_url' of engine 'openai': a key does not belong there; see api_key_env")
    for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
        if value < least:
            raise UsageError(f"option {name!r} of engine 'openai': {value}, needed is {least} or more")
    if not timeout_s > 0:
        raise UsageError(f"option 'timeout_s' of engine 'openai': {timeout_s}, needed is more than 0")
    key = "none"
    if api_key_env is not None:
        key = os.environ.get(api_key_env, "")
        if not key:
            raise UsageError(f"option 'api_key_env' of engine 'openai': no environment variable {api_key_env!r} is set")
    server = Server(base_url, api_key=key, timeout_s=timeout_s, retries=retries)
    met = asyncio.run(_meet(server, served_model, source.tokenizer))
    reported: Reported = logprobs if logprobs != "auto" else "tempered" if met.kind == "sglang" else "raw"
    return OpenAIEngine(
        met.server, source.tokenizer, met.first,
        version=" ".join(filter(None, (met.kind, met.fingerprint))) or "server",
        context=met.context, concurrency=concurrency, seeds=seeds, reported=reported,
    )  # fmt: skip


ENGINES.add(
    EngineEntry("openai", "A server with OpenAI's completions API: vLLM, SGLang, llama.cpp …", ("openai",), _open)
)
