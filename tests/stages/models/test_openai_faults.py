"""Sampling from a server that fails, is slow, refuses, or is not there."""

import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from apportion.formats.errors import ApportionError, UsageError
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Completion, EngineLost, Request, Sampling
from apportion.stages.models.openai import engine as openai_engine
from apportion.stages.models.openai._meeting import PROBE
from apportion.stages.models.policy import ModelSource, Policy

SOURCE = ModelSource("builtin:tiny", "cpu", "float32")
Serve = Callable[..., Any]


def requests_of(prefixes: list[list[int]], samples: int) -> list[Request]:
    return [Request(prefix, [1000 * at + sample for sample in range(samples)]) for at, prefix in enumerate(prefixes)]


def patience(*faults: str) -> float:
    """Seconds to wait for an answer: few where one will not come, many elsewhere, since the machine may be busy."""
    return 1.5 if {"slow", "trickle"} & set(faults) else 30.0


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in completions]


@pytest.mark.parametrize(
    "faults",
    [["429"], ["500", "500"], ["503"], ["slow"], ["trickle"], ["truncated", "truncated"], ["cut"], ["drop"], ["abort"], ["empty"],
     ["500", "truncated", "drop", "429"]],
    ids=",".join,
)  # fmt: skip
def test_a_request_that_fails_is_made_again(serve: Serve, prefixes: list[list[int]], faults: list[str]) -> None:
    server = serve()
    engine, sampling = server.open(timeout_s=patience(*faults), retries=4), Sampling(max_tokens=8)
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
        ("429", "HTTP 429: slow down"), ("500", "HTTP 500: told to fail"), ("slow", "no answer in 1.5 s"),
        ("truncated", "unreadable answer: "), ("drop", "disconnected"), ("abort", "finish_reason 'abort'"),
    ],
)  # fmt: skip
def test_a_rollout_whose_retries_are_used_up_fails_alone(
    serve: Serve, prefixes: list[list[int]], fault: str, message: str
) -> None:
    server, reported = serve(fault_of=lambda body: fault if body.get("seed") == 1000 else None), list[int]()
    engine = server.open(timeout_s=patience(fault), retries=2)
    found = engine.generate(requests_of(prefixes, 2), Sampling(max_tokens=8), reported.append)
    [failed] = [each for group in found for each in group if each.finish_reason == "error"]
    assert failed is found[1][0]
    assert failed.ids.tolist() == []
    assert failed.logprobs is not None
    assert message in str(failed.error)
    assert sum(request.get("seed") == 1000 for request in server.requests) == 3
    assert sum(reported) == 8


@pytest.mark.parametrize(
    ("fault", "words"),
    [("probabilities", "a log-probability must be at most 0, got 0.5"), ("negative", ", got -1"), ("more", "tokens but asked for 8"),
     ("silent", "it lacks token ids or log-probabilities"), ("excuse", "overloaded"), ("id 1.9", "got 1.9"),
     ("id true", "got True"), ('id "7"', "got 7"), ("id 100000", "a token id must be a whole number below"),
     ("id 1e999", "got inf"), ("likely 100000", "got 100000"), ("likely 1.9", "a token id must be a whole number, got '1.9'"),
     ("deep", "recursion"), ("beyond floats", "too large to convert")],
)  # fmt: skip
def test_an_answer_that_cannot_be_is_no_completion(
    serve: Serve, prefixes: list[list[int]], fault: str, words: str
) -> None:
    server = serve()
    engine = server.open(retries=1)
    server.faults = [fault, fault]
    [[found]] = engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=8))
    assert (found.finish_reason, len(found.ids)) == ("error", 0)
    assert found.error is not None
    assert words in found.error
    [[again]] = engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=8))
    assert again.finish_reason != "error"


def test_no_more_requests_are_under_way_than_allowed(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve(delay_s=0.02)
    engine = server.open(concurrency=5)
    engine.generate(requests_of(prefixes, 10), Sampling(max_tokens=1))
    assert (server.most_at_once, len(server.requests)) == (5, 40)


def test_a_server_that_is_gone_is_not_asked_for_every_row(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve()
    engine = server.open(concurrency=4, retries=1)
    server.fault_of = lambda _: "500"
    with pytest.raises(EngineLost, match=r"8 requests in a row got no answer \(HTTP 500: told to fail\)"):
        engine.generate(requests_of(prefixes, 100), Sampling(max_tokens=1))
    assert len(server.requests) <= 2 * 12


def test_what_the_server_refuses_is_not_asked_again(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve()
    engine = server.open(concurrency=1)
    server.faults = ["400"]
    with pytest.raises(UsageError, match="refused a request, HTTP 400: told to fail"):
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


@pytest.mark.parametrize(
    ("server", "options", "message"),
    [
        ({}, {"served_model": "tinny"}, "'tinny'; did you mean 'tiny'"),
        ({"knows": ("a", "b")}, {}, "name the model with --engine-set served_model=NAME; choose from a, b"),
        ({"key": "sesame"}, {}, "HTTP 401: no such key: Bearer none; name the environment variable"),
        ({}, {"api_key_env": "NO_SUCH_VARIABLE"}, "the environment variable 'NO_SUCH_VARIABLE' is not set"),
        ({}, {"base_url": "http://me:secret@localhost/v1"}, "base_url must not contain a key"),
        ({}, {"base_url": "localhost:8000"}, "must look like http://HOST:PORT/v1"),
        ({}, {"concurrency": 0}, "engine openai: concurrency must be at least 1, got 0"),
        ({}, {"timeout_s": 0}, "engine openai: timeout_s must be above 0, got 0"),
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


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("form", ["text", "llama.cpp"])
def test_a_server_that_takes_no_ids_gets_text(
    serve: Serve, policy: Policy, prefixes: list[list[int]], begins: bool, form: str
) -> None:
    """As that of llama-cpp-python, which answers 500 to a list of ids, and to a top_k of -1."""
    server = serve(ids=False, form=form, begins=begins, strict=500)
    engine = server.open(retries=2)
    assert not engine.tokens_exact
    found = engine.generate(requests_of(prefixes, 1), Sampling(max_tokens=12, temperature=0))
    expected = serve().open().generate(requests_of(prefixes, 1), Sampling(max_tokens=12, temperature=0))
    texts = [[policy.tokenizer.decode(ids) for [ids] in ids_of(made)] for made in (found, expected)]
    assert texts[0] == texts[1]
    assert all(each.logprobs is None and each.finish_reason in ("stop", "length") for group in found for each in group)
    mark = "" if begins else policy.tokenizer.bos_token
    assert {request["prompt"] for request in server.requests} == {
        f"{mark}{policy.tokenizer.decode(prefix[1:])}" for prefix in prefixes
    }
    assert not any("top_k" in request for request in server.requests)


def test_a_text_that_is_read_as_other_tokens_is_no_completion(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve(ids=False)
    engine = server.open(retries=2)
    apart = [
        prefixes[0][0],
        *(token for digit in "17" for token in SOURCE.tokenizer(digit, add_special_tokens=False)["input_ids"]),
    ]
    [[whole], [torn]] = engine.generate([Request(prefixes[0], [0]), Request(apart, [0])], Sampling(max_tokens=4))
    assert whole.finish_reason != "error"
    assert (torn.finish_reason, torn.error) == ("error", "it read 2 tokens of a prefix of 3")


def test_a_server_that_breaks_at_what_it_does_not_know_is_asked_without(
    serve: Serve, prefixes: list[list[int]]
) -> None:
    server = serve(strict=500, form="llama.cpp")
    engine = server.open(retries=2)
    engine.generate([Request(prefixes[0], [0])], Sampling(max_tokens=2))
    assert "return_token_ids" not in server.requests[0]
    assert engine.tokens_exact


def test_a_server_that_is_busy_at_first_is_asked_for_all_it_knows(serve: Serve, prefixes: list[list[int]]) -> None:
    server = serve(faults=["503", "503"])
    engine = server.open(retries=3)
    engine.generate([Request(prefixes[0], [0])], Sampling(max_tokens=2))
    assert server.requests[0]["return_token_ids"]
    assert engine.tokens_exact


def test_a_server_with_another_tokenizer_is_refused(serve: Serve) -> None:
    server = serve()
    source = ModelSource("builtin:tiny", "cpu", "float32")
    object.__setattr__(source, "tokenizer", lambda text: {"input_ids": list(text.encode())})
    with pytest.raises(UsageError, match="splits a text into other tokens than the tokenizer of --model does"):
        open_engine("openai", source, options={"base_url": server.url})
    assert server.requests[0]["prompt"] == PROBE


def test_engines_are_listed_and_opened_for_help_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.modules['openai'] = None\nfrom apportion.cli.main import app\napp(['list', 'engines'])\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, "openai" in result.stdout) == (0, True), result.stderr
    monkeypatch.setattr(openai_engine, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'apportion\[openai\]'"):
        open_engine("openai", SOURCE)
