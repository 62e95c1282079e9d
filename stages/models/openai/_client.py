"""Send requests to a server that speaks OpenAI's API, and retry those that fail."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ....formats.errors import ApportionError, UsageError
from ..engine import Sampling

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds before asking again after an unreadable answer
CONNECT_S = 10.0
NO_KEY = "none"  # the client insists on a key

BEYOND_OPENAI = {
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "include_stop_str_in_output": True,
}

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Server:
    """Where the server is and how to talk to it. extras: it accepts more parameters than OpenAI's own. text: it accepts
    no token ids.

    vocabulary: upper bound (exclusive) of the model's token ids.
    """

    base_url: str
    vocabulary: int
    model: str = ""
    api_key: str = NO_KEY
    timeout_s: float = 600.0
    retries: int = 6
    extras: bool = True
    text: bool = False

    def client(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

        limit = self.timeout_s

        class Bounded(DefaultAsyncHttpxClient):
            """Enforces a limit on the whole answer. The client's own limits the time between bytes, which a slow
            trickle never exceeds."""

            async def send(self, request: Any, **named: Any) -> Any:
                try:
                    async with asyncio.timeout(limit):
                        return await super().send(request, **named)
                except TimeoutError as error:
                    http = import_module(type(request).__module__.partition(".")[0])  # httpx or httpx2
                    raise http.ReadTimeout("no answer in time", request=request) from error

        timeout = Timeout(limit, connect=min(limit, CONNECT_S))
        return AsyncOpenAI(
            base_url=self.base_url, api_key=self.api_key, timeout=timeout, max_retries=self.retries,
            http_client=Bounded(timeout=timeout),
        )  # fmt: skip

    def line(self, words: object) -> str:
        """A server's words or an exception, on one line and without the key."""
        try:
            said = " ".join(str(words).encode("utf-8", "replace").decode().split())
        except Exception:  # too deep to print
            return type(words).__name__
        if self.api_key != NO_KEY:
            said = said.replace(self.api_key, "***")
        return said[:300] or type(words).__name__


class Refused(UsageError):
    """The server refuses the request, so asking again does not help."""


class Unanswered(Exception):
    """A request got no usable answer and its retries are used up; the message has the last thing seen."""


async def models_of(client: "AsyncOpenAI", server: Server) -> list[dict[str, Any]]:
    """The models that the server lists; empty if it has no such list."""
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
                f"{server.base_url}: no server answers ({fault}); start one, e.g. `vllm serve MODEL`, or give its address "
                "with --engine-set base_url=URL"
            ) from error
        raise (ApportionError(f"{server.base_url}: {fault}") if isinstance(fault, Unanswered) else fault) from error
    except Exception as error:  # whatever the client makes of the answer
        raise UsageError(
            f"{server.base_url}: the server there does not speak OpenAI's API; the address usually ends with /v1"
        ) from error


async def asked(client: "AsyncOpenAI", server: Server, body: Mapping[str, Any], read: Callable[[Any], _Read]) -> _Read:
    """What `read` returns for the answer. Unanswered if the retries are used up, UsageError if the server refuses.

    The client itself asks again after 408, 409, 429, 5xx, timeouts and lost connections, and obeys Retry-After. If `read`
    raises anything but an ApportionError, the answer was unreadable, and the request is sent again here.
    """
    import openai

    left, wait = server.retries, FIRST_WAIT
    while True:
        try:
            raw = await client.with_options(max_retries=left).completions.with_raw_response.create(**body)
        except openai.APIError as error:
            raise _fault(error, server) from error
        except Exception as error:  # what the client makes of headers and bytes it cannot read
            raise Unanswered(server.line(error)) from error
        left -= raw.retries_taken
        try:
            return read(json.loads(raw.content))
        except ApportionError:
            raise
        except Exception as error:
            if left <= 0:
                raise Unanswered(f"unreadable answer: {server.line(error)}") from error
        left -= 1
        await asyncio.sleep(wait * random.uniform(0.75, 1.0))
        wait = min(2 * wait, LONGEST_WAIT)


def _fault(error: "APIError", server: Server) -> Exception:
    """The exception that tells the user."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Unanswered(f"no answer in {server.timeout_s:g} s")
    if not isinstance(error, openai.APIStatusError):
        return Unanswered(server.line(error.__cause__ or error))
    status, body = error.status_code, error.body
    said = body.get("message") if isinstance(body, dict) else None
    seen = f"HTTP {status}: {server.line(said or error)}"
    if status in (408, 409, 429) or not 400 <= status < 500:
        return Unanswered(seen)
    remedy = ""
    if status in (401, 403):
        remedy = "; name the environment variable that holds the key with --engine-set api_key_env=NAME"
    return Refused(f"{server.base_url}: the server refused a request, {seen}{remedy}")


def body_of(server: Server, sampling: Sampling, prompt: list[int] | str, limit: int) -> dict[str, Any]:
    """A request's parameters, with no default that changes the distribution left to the server."""
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
