"""The built-in policy, and a server that has it, which fails when it is told to."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
import torch
from apportion.stages.models import open_engine
from apportion.stages.models._guard import Guarded
from apportion.stages.models.engine import Request, Sampling
from apportion.stages.models.openai import _client as openai_client
from apportion.stages.models.openai.engine import OpenAIEngine
from apportion.stages.models.policy import ModelSource, Policy, load_policy, render_prompt
from apportion.stages.models.transformers._engine import TransformersEngine

EXPRESSIONS = ("7+2*5", "7+2*5-3*4+2*2", "20+3*4-2*5", "9+4*4-2*3+5*5-2*2")
SOURCE = ModelSource("builtin:tiny", "cpu", "float32")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False)


@pytest.fixture(scope="module")
def prefixes(policy: Policy) -> list[list[int]]:
    """Four prompts of four lengths, so that a batch of them is padded."""
    found = [render_prompt(policy.tokenizer, [{"role": "user", "content": text}]) for text in EXPRESSIONS]
    assert len({len(prefix) for prefix in found}) == 4
    return found


@dataclass
class CompletionServer:
    """builtin:tiny with OpenAI's completions API. requests: the completions asked for since it was opened.

    form: whose answers it gives: vllm, llama.cpp (which leaves out the tokens of a stop text, and those that end within a
    character), or text (OpenAI's own, without ids). knows: its model names.
    strict: refuses parameters that OpenAI does not have, with that status. ids: takes token ids; begins: puts a beginning of
    sequence before a text. counts: it says how much of a prompt it had seen before; like
    vLLM, nothing where that is none. faults: what goes wrong with the next completions, in order;
    fault_of: with this one.
    """

    policy: Policy
    form: str = "vllm"
    knows: tuple[str, ...] = ("tiny",)
    strict: int = 0
    ids: bool = True
    begins: bool = False
    counts: bool = False
    key: str | None = None
    owner: str = "vllm"
    delay_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    fault_of: Callable[[dict[str, Any]], str | None] = lambda _: None
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    under_way: int = 0

    def __post_init__(self) -> None:
        self.engine, self.lock, self.counting = TransformersEngine(self.policy), threading.Lock(), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.models(self)

            def do_POST(self) -> None:
                with outer.counting:
                    outer.under_way += 1
                    outer.most_at_once = max(outer.most_at_once, outer.under_way)
                try:
                    outer.complete(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                finally:
                    with outer.counting:
                        outer.under_way -= 1

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:  # a client that has gone
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def open(self, **options: Any) -> OpenAIEngine:
        """An engine of it, its first questions forgotten."""
        engine = open_engine("openai", SOURCE, options={"base_url": self.url, **options})
        assert isinstance(engine, Guarded)
        assert isinstance(engine.engine, OpenAIEngine)
        self.requests.clear()
        self.times.clear()
        self.most_at_once = 0
        return cast(OpenAIEngine, engine)

    def models(self, handler: Any) -> None:
        cards = [{"id": name, "object": "model", "owned_by": self.owner, "max_model_len": 512} for name in self.knows]
        self.say(handler, 200, {"object": "list", "data": cards})

    def complete(self, handler: Any, body: dict[str, Any]) -> None:
        with self.counting:
            self.requests.append(body | {"authorization": handler.headers["Authorization"]})
            self.times.append(time.monotonic())
            fault = (self.faults.pop(0) if self.faults else None) or self.fault_of(body)
        time.sleep(self.delay_s)
        if self.key is not None and handler.headers["Authorization"] != f"Bearer {self.key}":
            self.refuse(handler, 401, f"no such key: {handler.headers['Authorization']}")
        elif body["model"] not in self.knows:
            self.refuse(handler, 404, f"The model `{body['model']}` does not exist.")
        elif self.strict and set(body) & {"return_token_ids", "top_k", "min_p"}:
            self.refuse(handler, self.strict, "Unrecognized request arguments")
        elif not self.ids and not isinstance(body["prompt"], str):
            self.refuse(handler, 500, "Input should be a valid string")
        elif fault == "429":
            self.refuse(handler, 429, "slow down", {"Retry-After": "0.2"})
        elif fault in ("400", "500", "503"):
            self.refuse(handler, int(fault), "told to fail" if self.key is None else f"told to fail {self.key}")
        elif fault == "drop":
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.say(handler, 200, self.answer(body, fault), fault)

    def refuse(self, handler: Any, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self.say(handler, status, {"error": {"message": message, "code": status}}, headers=headers)

    def say(
        self, handler: Any, status: int, content: Any, fault: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(content).encode()
        if fault == "deep":
            data = b"[" * 100_000
        if fault == "beyond floats":
            data = data.replace(b'"token_logprobs": [', b'"token_logprobs": [-1' + b"0" * 400 + b", ")
        promised = len(data)
        if fault in ("truncated", "cut"):
            data = data[: len(data) // 2]
        if fault == "slow":
            time.sleep(3.0)
        if fault == "trickle":
            promised = len(data := b" " * 30 + data)
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(promised if fault == "cut" else len(data)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        while fault == "trickle" and data.startswith(b" "):  # as proxies do that keep a connection open
            handler.wfile.write(data[:1])
            data = data[1:]
            time.sleep(0.1)
        handler.wfile.write(data)
        if fault == "cut":
            handler.close_connection = True

    def answer(self, body: dict[str, Any], fault: str | None) -> dict[str, Any]:
        if fault == "empty":
            return {"choices": []}
        if fault == "excuse":
            return {"error": {"message": "overloaded"}}
        prompt, tokenizer = body["prompt"], self.policy.tokenizer
        if isinstance(prompt, str):
            prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            prompt = [tokenizer.bos_token_id, *prompt] if self.begins else prompt
        sampling = Sampling(
            max_tokens=body["max_tokens"], temperature=body["temperature"], top_p=body["top_p"],
            top_k=max(0, body.get("top_k", 0)),
        )  # fmt: skip
        with self.lock:
            [[made]] = self.engine.generate([Request(prompt, [body.get("seed", 0)])], sampling)
            top = raw_logprobs(self.policy, prompt, made.ids.tolist())
        ids, reason, stop_reason = made.ids.tolist(), made.finish_reason, None
        for size in range(1, len(ids) + 1):
            stop_reason = next((s for s in body.get("stop", ()) if s in tokenizer.decode(ids[:size])), None)
            if stop_reason:
                ids, reason = ids[:size], "stop"
                break
        choice: dict[str, Any] = {
            "index": 0, "text": tokenizer.decode(ids, skip_special_tokens=True), "logprobs": None,
            "finish_reason": "abort" if fault == "abort" else reason,
        }  # fmt: skip
        if self.form == "vllm":
            likely = top.topk(body["logprobs"], -1)
            own = [float(top[place, token]) for place, token in enumerate(ids)]
            choice |= {"stop_reason": stop_reason, "token_ids": ids, "prompt_token_ids": prompt, "logprobs": {
                "tokens": [f"token_id:{token}" for token in ids],
                "token_logprobs": own,
                "top_logprobs": [
                    {f"token_id:{token}": value} | {f"token_id:{t}": float(v) for t, v in zip(tokens, values, strict=True)}
                    for token, value, tokens, values in zip(
                        ids, own, likely.indices[: len(ids)].tolist(), likely.values[: len(ids)], strict=True
                    )
                ],
            }}  # fmt: skip
            if fault == "probabilities":
                choice["logprobs"]["token_logprobs"] = [0.5 for _ in ids]
            if fault == "negative":
                choice["token_ids"] = [-1 for _ in ids]
            if fault and fault.startswith("id "):
                choice["token_ids"][0] = json.loads(fault.removeprefix("id "))
            if fault and fault.startswith("likely "):
                choice["logprobs"]["top_logprobs"][0][f"token_id:{fault.removeprefix('likely ')}"] = -0.1
            if fault == "more":
                choice["token_ids"] = [*ids, *[20] * body["max_tokens"]]
                choice["logprobs"]["token_logprobs"] = [-1.0 for _ in choice["token_ids"]]
            if fault == "silent":
                choice["logprobs"] = None
        if self.form == "llama.cpp":
            listed = range(len(ids) - (len(tokenizer(stop_reason)["input_ids"]) if stop_reason else 0))
            choice["logprobs"] = {
                "content": [
                    {"id": ids[at], "token": "?", "logprob": float(top[at, ids[at]])}
                    for at in listed
                    if not tokenizer.decode(ids[: at + 1]).endswith("\ufffd")
                ]
            }
            if not choice["logprobs"]["content"]:
                choice["logprobs"] = None
        usage: dict[str, Any] = {
            "prompt_tokens": len(prompt), "completion_tokens": len(ids), "prompt_tokens_details": None,
        }  # fmt: skip
        if self.counts and sum(asked["prompt"] == prompt for asked in self.requests) > 1:
            usage["prompt_tokens_details"] = {"cached_tokens": len(prompt) - 1}
        return {"choices": [choice], "system_fingerprint": "fp-1", "usage": usage}


def raw_logprobs(policy: Policy, prefix: list[int], ids: list[int]) -> torch.Tensor:
    """[T, V] of the policy at temperature 1."""
    with torch.inference_mode():
        logits = policy.model(torch.tensor([[*prefix, *ids]])).logits[0, len(prefix) - 1 : -1]
    return torch.log_softmax(logits, -1)


@pytest.fixture(scope="module")
def raw(policy: Policy) -> Callable[[list[int], list[int]], torch.Tensor]:
    """raw(prefix, ids) → [T, V] log-probabilities of the policy at temperature 1."""
    return lambda prefix, ids: raw_logprobs(policy, prefix, ids)


@pytest.fixture
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(openai_client, "FIRST_WAIT", 0.01)


@pytest.fixture
def serve(policy: Policy, no_long_waits: None) -> Iterator[Callable[..., CompletionServer]]:
    servers: list[CompletionServer] = []

    def start(**options: Any) -> CompletionServer:
        servers.append(CompletionServer(policy, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
