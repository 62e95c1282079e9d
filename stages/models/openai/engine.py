"""Sample with a server that speaks OpenAI's completions API: vLLM, SGLang, llama.cpp and others.

Each sample is a request of its own. Prompts are sent as token ids. A server that accepts no ids gets text, and must
then read the same number of tokens. Token ids come back if the server can report them (vLLM and SGLang with
`return_token_ids`, llama.cpp with its log-probabilities). Otherwise the tokenizer of --model encodes the text again.

llama.cpp's list of log-probabilities leaves out the tokens of a stop text and tokens that end within a character. So it
is not told of stop texts, its answers are cut here, and an answer that lacks tokens is an error.

The server's word for its weights is all there is: nothing here verifies it.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np

from ....formats.errors import UsageError
from ...core.ranges import Above, AtLeast
from ..engine import Completion, EngineLost, Floats, Request, Sampling, Usage
from ..kind import engine
from ..policy import ModelSource
from ..stop import StopTexts
from ._answer import Choice, alternatives_of, answer_of
from ._client import NO_KEY, Server, Unanswered, asked, body_of
from ._meeting import meet, to_text

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Reported = Literal["raw", "tempered", "sampling"]


class OpenAIEngine:
    """Asks a server for each sample, with up to `concurrency` requests at a time.

    A rollout that gets no answer is a completion with the finish reason "error"; the others go on. The server counts as
    lost if `concurrency` requests in a row (at least 8) get no answer, or if the last ones get none and neither does a
    final request for a single token.
    """

    name = "openai"
    can_fail = True

    def __init__(
        self, server: Server, tokenizer: Any, first: Choice, *,
        version: str = "", context: int | None = None, concurrency: int = 32, seeds: bool = True,
        reported: Reported = "raw", begins: bool = False,
    ):  # fmt: skip
        self.version = version
        self.identity = f"served:{server.model}"
        self.row_seeds = seeds
        self.tokens_exact = first.ids is not None and not server.text
        self._stops_here = first.listed  # such a server would leave out the tokens of a stop text
        self._begins = begins  # the server itself puts the beginning-of-sequence token before a text
        self.context = context
        self._server, self._tokenizer, self._concurrency, self._reported = server, tokenizer, concurrency, reported
        self._has_logprobs = self.tokens_exact and first.logprobs is not None
        self._lost_after = max(8, concurrency)
        self._unanswered = 0  # consecutive
        self._usage = Usage()
        self._says_cached = False

    def forget(self) -> None:
        """Do nothing: the server manages its own cache."""

    @property
    def usage(self) -> Usage:
        """Counts of the answers so far. Cached tokens are known once the server reports any: many omit a zero."""
        return self._usage if self._says_cached else replace(self._usage, cached_tokens=None)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. UsageError if the server refuses, EngineLost if it no longer answers."""
        for request in requests:
            self._limit(request, sampling)
        found: list[list[Completion | None]] = [[None] * len(request.seeds) for request in requests]
        try:
            asyncio.run(self._generate(requests, sampling, found, on_progress or (lambda _: None)))
        except BaseExceptionGroup as group:  # the others were cancelled, or saw the same
            raise group.exceptions[0] from group
        return [[each for each in group if each is not None] for group in found]

    async def _generate(
        self, requests: Sequence[Request], sampling: Sampling, found: list[list[Completion | None]],
        on_progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        rows = iter([(index, row) for index, request in enumerate(requests) for row in range(len(request.seeds))])

        async def work(client: "AsyncOpenAI") -> None:
            for index, row in rows:  # all workers share one iterator
                found[index][row] = await self._complete(client, requests[index], row, sampling)
                on_progress(1)

        async with self._server.client() as client, asyncio.TaskGroup() as workers:
            for _ in range(min(self._concurrency, sum(map(len, found)))):
                workers.create_task(work(client))
        if self._unanswered:  # did only the last rows fail, or is the server gone?
            await self._check_there(requests)

    async def _check_there(self, requests: Sequence[Request]) -> None:
        prompt = self._prompt(list(requests[0].prefix_ids))
        try:
            async with self._server.client() as client:
                body = body_of(self._server, Sampling(), prompt, 1)
                await asked(client, self._server, body, lambda content: answer_of(content, self._server.vocabulary))
        except Unanswered as error:
            raise self._lost(error) from error
        self._unanswered = 0

    def _lost(self, error: Unanswered) -> EngineLost:
        return EngineLost(f"{self._server.base_url}: {self._unanswered} requests in a row got no answer ({error})")

    async def _complete(self, client: "AsyncOpenAI", request: Request, row: int, sampling: Sampling) -> Completion:
        limit = self._limit(request, sampling)
        if limit < 1:
            return self._empty("length", sampling)
        prefix = list(request.prefix_ids)
        asked_for = replace(sampling, stop=()) if self._stops_here else sampling
        body = body_of(self._server, asked_for, self._prompt(prefix), limit)
        if self.row_seeds and sampling.temperature > 0:
            body["seed"] = int(request.seeds[row])

        def read(content: Any) -> tuple[Completion, Choice]:
            answer = answer_of(content, self._server.vocabulary)
            if len(answer.ids or ()) > limit:
                raise ValueError(f"got {len(answer.ids or ())} tokens but asked for {limit}")
            return self._completion(answer, sampling), answer

        try:
            completion, answer = await asked(client, self._server, body, read)
        except Unanswered as error:
            self._unanswered += 1
            if self._unanswered >= self._lost_after:
                raise self._lost(error) from error
            return self._empty("error", sampling, str(error))
        self._unanswered = 0
        if self._server.text and answer.prompt_tokens not in (None, len(prefix)):
            return self._empty("error", sampling, f"it read {answer.prompt_tokens} tokens of a prefix of {len(prefix)}")
        if self.tokens_exact and answer.made not in (None, len(answer.ids or ())):
            return self._empty("error", sampling, f"it made {answer.made} tokens but lists {len(answer.ids or ())}")
        self._says_cached |= answer.cached_tokens is not None
        self._usage += Usage(len(prefix), min(answer.cached_tokens or 0, len(prefix)), len(completion.ids))
        return completion

    def _prompt(self, prefix: list[int]) -> list[int] | str:
        """The prompt in the form that the server accepts."""
        if not self._server.text:
            return prefix
        begun = self._begins and prefix[0] == self._tokenizer.bos_token_id
        return to_text(self._tokenizer, prefix[1:] if begun else prefix)

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

    def _completion(self, answer: Choice, sampling: Sampling) -> Completion:
        """The completion. ValueError for an answer that reports less than the server's first one did."""
        if answer.finish_reason not in ("stop", "length"):
            raise ValueError(f"unknown finish_reason {answer.finish_reason!r}")
        if self._stops_here:
            answer = self._stopped(answer, sampling.stop)
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
            others = alternatives_of(answer.top, sampling.alternatives)
        return Completion(np.array(answer.ids, np.int32), logprobs, reason, raw, others)

    def _stopped(self, answer: Choice, stop: tuple[str, ...]) -> Choice:
        """The answer up to the token that completes one of the stop texts."""
        if answer.ids is None and answer.made:  # the server omits an empty list
            return replace(answer, ids=[], logprobs=[], top=[])
        texts = StopTexts(self._tokenizer, stop)
        for size, token in enumerate(answer.ids or (), 1):
            if texts.completed([0], [token])[0]:
                return replace(answer.cut(size), finish_reason="stop")
        return answer

    def _ended_by_text(self, answer: Choice, sampling: Sampling) -> bool:
        if isinstance(answer.stop_reason, str):
            return answer.stop_reason in sampling.stop
        if answer.stop_reason is not None or not sampling.stop:
            return False
        if answer.ids is None:  # the text cannot tell: the server may have cut the stop text off
            return True
        text = self._tokenizer.decode(answer.ids, skip_special_tokens=True)
        return any(stop in text for stop in sampling.stop)

    def _known(self, values: list[float] | None, sampling: Sampling) -> tuple[Floats | None, Floats | None]:
        """The reported log-probabilities as those of the sampling distribution, and of the policy at temperature 1.

        None if the reported distribution is a different one. At temperature 0 the first are the policy's own, as in
        every engine.
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

    def _empty(self, reason: str, sampling: Sampling, error: str | None = None) -> Completion:
        """A completion without tokens, with no log-probabilities exactly where the others have none."""
        logprobs, raw = self._known([] if self._has_logprobs else None, sampling)
        others = alternatives_of([], sampling.alternatives) if sampling.alternatives else None
        return Completion(np.empty(0, np.int32), logprobs, reason, raw, others, error)


@engine("openai", needs=("openai",))
def _open(
    source: ModelSource,
    seed: int,
    *,
    base_url: str = "http://localhost:8000/v1",
    served_model: str | None = None,
    api_key_env: str | None = None,
    concurrency: Annotated[int, AtLeast(1)] = 32,
    timeout_s: Annotated[float, Above(0)] = 600.0,
    retries: Annotated[int, AtLeast(0)] = 6,
    seeds: bool = True,
    logprobs: Literal["auto", "raw", "tempered", "sampling"] = "auto",
) -> OpenAIEngine:
    """A server with OpenAI's completions API: vLLM, SGLang, llama.cpp and others.

    Connects to the server, and asks for one token to see what it answers. --model names the tokenizer that fits it.

    Args:
        base_url: address of the API, including /v1.
        served_model: the model's name on the server; None takes the only one there.
        api_key_env: environment variable that holds the key; None sends none.
        concurrency: how many requests run at a time.
        timeout_s: seconds until a request counts as lost.
        retries: how often a failed request is sent again.
        seeds: send every row's seed, which servers may honour or ignore; off sends none.
        logprobs: which distribution the server's log-probabilities belong to. "raw": the policy at temperature 1 (vLLM,
            llama.cpp). "tempered": the requested temperature with all tokens kept (SGLang). "sampling": the sampling
            distribution (vLLM with --logprobs-mode processed_logprobs). "auto": decided by the server's software.
    """
    if find_spec("openai") is None:
        raise UsageError("engine 'openai' needs the 'openai' extra; run: pip install 'apportion[openai]'")
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"engine openai: base_url must look like http://HOST:PORT/v1, got {base_url!r}")
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "engine openai: base_url must not contain a key; name its environment variable with api_key_env"
        )
    key = NO_KEY
    if api_key_env is not None:
        key = os.environ.get(api_key_env, "").strip()
        if not key:
            raise UsageError(f"engine openai: api_key_env: the environment variable {api_key_env!r} is not set")
        if not (key.isascii() and key.isprintable()):
            raise UsageError(
                f"engine openai: api_key_env: the value of {api_key_env!r} has characters that an HTTP header cannot hold"
            )
    server = Server(base_url, source.config.vocab_size, api_key=key, timeout_s=timeout_s, retries=retries)
    met = asyncio.run(meet(server, served_model, source.tokenizer))
    reported: Reported = logprobs if logprobs != "auto" else "tempered" if met.kind == "sglang" else "raw"
    return OpenAIEngine(
        met.server, source.tokenizer, met.first,
        version=" ".join(filter(None, (met.kind, met.fingerprint))) or "server",
        context=met.context, concurrency=concurrency, seeds=seeds, reported=reported, begins=met.begins,
    )  # fmt: skip
