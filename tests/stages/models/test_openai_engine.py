"""Sampling from a server: what it is asked, and what is made of its answers."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import UsageError
from apportion.stages.models.engine import Completion, Floats, Request, Sampling, Usage
from apportion.stages.models.openai import _client as openai_client
from apportion.stages.models.policy import Policy
from apportion.stages.models.transformers._engine import TransformersEngine

Serve = Callable[..., Any]
Raw = Callable[[list[int], list[int]], torch.Tensor]


def requests_of(prefixes: list[list[int]], samples: int) -> list[Request]:
    return [Request(prefix, [1000 * at + sample for sample in range(samples)]) for at, prefix in enumerate(prefixes)]


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in completions]


def known(values: Floats | None) -> Floats:
    assert values is not None
    return values


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
    server = serve(form="text", strict=400)
    engine = server.open()
    [[found]] = engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=4))
    assert len(found.ids) > 0
    assert not set(server.requests[0]) & set(openai_client.BEYOND_OPENAI)
    with pytest.raises(UsageError, match="Unrecognized request arguments"):
        engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=4, top_k=2))


def test_llama_cpp_says_ids_with_its_logprobs(serve: Serve, raw: Raw, prefixes: list[list[int]]) -> None:
    engine = serve(form="llama.cpp", owner="llamacpp").open()
    [[found]] = engine.generate([Request(prefixes[0], [1])], WARM)
    expected = raw(prefixes[0], found.ids.tolist())[range(len(found.ids)), found.ids.tolist()]
    assert (engine.tokens_exact, found.logprobs) == (True, None)
    np.testing.assert_allclose(known(found.raw_logprobs), expected.numpy(), atol=1e-4)


def test_a_stop_text_is_whole_with_a_server_that_leaves_its_tokens_out(
    serve: Serve, policy: Policy, prefixes: list[list[int]]
) -> None:
    server, plain = serve(form="llama.cpp", owner="llamacpp"), TransformersEngine(policy)
    engine = server.open()
    [[whole]] = plain.generate([Request(prefixes[1], [1])], GREEDY)
    for first in (0, 2):  # the first token, and one within
        cut = Sampling(max_tokens=24, temperature=0, stop=("§", policy.tokenizer.decode(whole.ids[first : first + 2])))
        found, expected = (each.generate(requests_of(prefixes, 1), cut) for each in (engine, plain))
        assert ids_of(found) == ids_of(expected)
        reasons = [[each.finish_reason for [each] in made] for made in (found, expected)]
        assert reasons[0] == reasons[1]
        assert "stop_text" in reasons[0]
        for [each] in found:
            assert len(known(each.raw_logprobs)) == len(each.ids)


def test_a_response_of_which_tokens_are_left_out_is_no_completion(serve: Serve, prefixes: list[list[int]]) -> None:
    """A hot policy writes bytes that are no characters, and llama.cpp names only tokens that end one."""
    server = serve(form="llama.cpp", owner="llamacpp")
    engine = server.open(retries=4)
    found = engine.generate(requests_of(prefixes, 8), Sampling(max_tokens=24, temperature=8.0))
    expected = serve().open().generate(requests_of(prefixes, 8), Sampling(max_tokens=24, temperature=8.0))
    wrong = 0
    for group, wanted in zip(found, expected, strict=True):
        for each, whole in zip(group, wanted, strict=True):
            if each.finish_reason == "error":
                wrong += 1
                assert each.error is not None
                assert each.error.startswith(f"it made {len(whole.ids)} tokens but lists ")
                assert len(each.ids) == 0
            else:
                assert each.ids.tolist() == whole.ids.tolist()
    assert wrong > 0
    assert len(server.requests) == 32, "asking again would help nobody"


def test_alternatives_are_the_most_likely(serve: Serve, raw: Raw, prefixes: list[list[int]]) -> None:
    [[found]] = serve().open().generate([Request(prefixes[0], [4])], Sampling(max_tokens=8, alternatives=3))
    expected = raw(prefixes[0], found.ids.tolist()).topk(3, -1)
    assert found.alternatives is not None
    assert found.alternatives.ids.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.alternatives.logprobs, expected.values.numpy(), atol=1e-4)


def test_a_request_without_a_budget_is_not_sent(serve: Serve, prefixes: list[list[int]]) -> None:
    server, reported = serve(), list[int]()
    requests = [Request(prefixes[0], [1, 2], max_tokens=0), Request(prefixes[1], [3], max_tokens=2)]
    nothing, [some] = server.open().generate(requests, Sampling(top_k=3, alternatives=2), reported.append)
    assert [(len(each.ids), each.finish_reason, each.error) for each in nothing] == [(0, "length", None)] * 2
    assert [each.raw_logprobs is None for each in (*nothing, some)] == [False] * 3
    assert [each.alternatives is None for each in (*nothing, some)] == [False] * 3
    assert (len(server.requests), sum(reported)) == (1, 3)


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


def test_usage_is_what_the_server_says_of_its_cache(serve: Serve, prefixes: list[list[int]]) -> None:
    given = 3 * sum(map(len, prefixes))
    knows, silent = (serve(counts=counts).open(concurrency=1) for counts in (True, False))
    knows.generate(requests_of(prefixes, 1), Sampling(max_tokens=2))
    assert knows.usage == Usage(given // 3, None, 8), "nothing is cached, and it says nothing"
    for engine in (knows, silent):
        engine.generate(requests_of(prefixes, 2), Sampling(max_tokens=2))
    assert knows.usage == Usage(given, given // 3 * 2 - 8, 3 * 8)
    assert silent.usage == Usage(given // 3 * 2, None, 2 * 8)


def test_a_failed_rollout_is_no_usage(serve: Serve, prefixes: list[list[int]]) -> None:
    engine = serve(fault_of=lambda body: "500" if body.get("seed") == 1000 else None).open(retries=0)
    engine.generate(requests_of(prefixes[:2], 1), Sampling(max_tokens=2))
    assert engine.usage == Usage(len(prefixes[0]), None, 2)
