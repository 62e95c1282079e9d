"""Sampling with the built-in model: what is drawn, what is recorded, and what it costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import ApportionError, UsageError
from apportion.stages.models.engine import Completion, Request, Sampling
from apportion.stages.models.policy import Policy, load_policy
from apportion.stages.models.stop import StopTexts
from apportion.stages.models.tiny.blank import blank_model
from apportion.stages.models.transformers import _engine as transformers_engine
from apportion.stages.models.transformers import _prefixes
from apportion.stages.models.transformers._cache import cache_argument
from apportion.stages.models.transformers._draw import draw
from apportion.stages.models.transformers._engine import TransformersEngine


@pytest.fixture(scope="module")
def exact_policy() -> Policy:
    """In float64: what is left of a difference is not rounding (float32 differs by 1e-5 from one batch to another)."""
    policy = load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False)
    policy.model.double()
    return policy


def requests_of(prefixes: list[list[int]], samples: int) -> list[Request]:
    return [
        Request(prefix, [1000 * index + sample for sample in range(samples)]) for index, prefix in enumerate(prefixes)
    ]


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in completions]


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_is_passed_by_the_name_that_the_model_has_for_it(prefixes: list[list[int]], name: str) -> None:
    """transformers calls it `cache` since 5.24, and `past_key_values` before; the engine goes by the signature."""
    policy = load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False)
    expected = TransformersEngine(policy).generate(requests_of(prefixes, 2), Sampling(max_tokens=6))
    usual, given = policy.model.forward, cache_argument(policy.model)
    passed: list[Any] = []

    def of_cache(input_ids: Any, cache: Any = None, **named: Any) -> Any:
        passed.append(cache)
        return usual(input_ids, **{given: cache}, **named)

    def of_past_key_values(input_ids: Any, past_key_values: Any = None, **named: Any) -> Any:
        passed.append(past_key_values)
        return usual(input_ids, **{given: past_key_values}, **named)

    policy.model.forward = {"cache": of_cache, "past_key_values": of_past_key_values}[name]
    assert cache_argument(policy.model) == name
    found = TransformersEngine(policy).generate(requests_of(prefixes, 2), Sampling(max_tokens=6))
    assert ids_of(found) == ids_of(expected)
    assert passed
    assert all(each is not None for each in passed)


def teacher_forced(policy: Policy, prefix: list[int], ids: list[int], sampling: Sampling) -> list[float]:
    """The definition, token by token: log-probability under the tempered, truncated and renormalised distribution."""
    with torch.inference_mode():
        logits = policy.model(torch.tensor([[*prefix, *ids]])).logits[0, len(prefix) - 1 : -1].double().numpy()
    found = []
    for row, token in zip(logits / (sampling.temperature or 1.0), ids, strict=True):
        likely = np.argsort(-row, kind="stable")
        if sampling.top_k:
            likely = likely[: sampling.top_k]
        mass = np.exp(row[likely] - row.max())
        mass /= mass.sum()
        if sampling.top_p < 1:
            kept = int(np.searchsorted(np.cumsum(mass), sampling.top_p)) + 1
            likely, mass = likely[:kept], mass[:kept] / mass[:kept].sum()
        found.append(float(np.log(mass[likely.tolist().index(token)])))
    return found


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=40),
        Sampling(max_tokens=40, temperature=0.7),
        Sampling(max_tokens=40, temperature=1.5),
        Sampling(max_tokens=40, top_k=3, temperature=1.5),
        Sampling(max_tokens=40, top_p=0.8, temperature=1.5),
        Sampling(max_tokens=40, top_k=5, top_p=0.9, temperature=1.5),
        Sampling(max_tokens=40, temperature=0),
    ],
    ids=str,
)
def test_the_recorded_logprob_is_that_of_the_distribution_sampled_from(
    exact_policy: Policy, prefixes: list[list[int]], sampling: Sampling
) -> None:
    completions = TransformersEngine(exact_policy).generate(requests_of(prefixes, 4), sampling)
    for prefix, group in zip(prefixes, completions, strict=True):
        for completion in group:
            expected = teacher_forced(exact_policy, prefix, completion.ids.tolist(), sampling)
            assert completion.logprobs is not None
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


@pytest.mark.parametrize(
    "sampling", [Sampling(max_tokens=30, temperature=1.5, top_k=5), Sampling(max_tokens=30, top_p=0.8)], ids=str
)
def test_what_the_policy_itself_thinks_is_reported_where_it_differs(
    exact_policy: Policy, prefixes: list[list[int]], sampling: Sampling
) -> None:
    engine = TransformersEngine(exact_policy)
    for prefix, group in zip(prefixes, engine.generate(requests_of(prefixes, 3), sampling), strict=True):
        for completion in group:
            assert completion.raw_logprobs is not None
            expected = teacher_forced(exact_policy, prefix, completion.ids.tolist(), Sampling())
            np.testing.assert_allclose(completion.raw_logprobs, expected, atol=1e-5)
    for same in (Sampling(max_tokens=5), Sampling(max_tokens=5, temperature=0)):
        assert engine.generate([Request(prefixes[0], [1])], same)[0][0].raw_logprobs is None


def test_alternatives_are_the_policys_most_likely_tokens(exact_policy: Policy, prefixes: list[list[int]]) -> None:
    engine = TransformersEngine(exact_policy)
    sampling = Sampling(max_tokens=30, temperature=1.5, alternatives=5)
    for prefix, group in zip(prefixes, engine.generate(requests_of(prefixes, 3), sampling), strict=True):
        for completion in group:
            with torch.inference_mode():
                logits = exact_policy.model(torch.tensor([[*prefix, *completion.ids.tolist()]])).logits[0]
            expected = torch.log_softmax(logits[len(prefix) - 1 : -1], -1).topk(5, -1)
            assert completion.alternatives is not None
            assert completion.alternatives.ids.shape == (len(completion.ids), 5)
            assert completion.alternatives.ids.tolist() == expected.indices.tolist()
            np.testing.assert_allclose(completion.alternatives.logprobs, expected.values.numpy(), atol=1e-5)
    assert engine.generate([Request(prefixes[0], [1])], Sampling(max_tokens=5))[0][0].alternatives is None
    everything = Sampling(max_tokens=2, alternatives=len(exact_policy.tokenizer) + 3)
    found = engine.generate([Request(prefixes[0], [1])], everything)[0][0].alternatives
    assert found is not None
    assert (found.ids[:, -3:] == -1).all()
    assert np.isneginf(found.logprobs[:, -3:]).all()


def test_a_stop_text_ends_a_response_with_the_token_that_completes_it(
    policy: Policy, prefixes: list[list[int]]
) -> None:
    engine, tokenizer = TransformersEngine(policy), policy.tokenizer
    whole = engine.generate(requests_of(prefixes, 6), Sampling(max_tokens=40))
    cut = engine.generate(requests_of(prefixes, 6), Sampling(max_tokens=40, stop=("\n", "=1")))
    reasons = set()
    for long, short in zip(chain(*whole), chain(*cut), strict=True):
        ids = long.ids.tolist()
        ends = [at for at in range(1, len(ids) + 1) if any(stop in tokenizer.decode(ids[:at]) for stop in ("\n", "=1"))]
        assert short.ids.tolist() == ids[: ends[0] if ends else len(ids)]
        assert short.finish_reason == ("stop_text" if ends and ends[0] < len(ids) else long.finish_reason)
        reasons.add(short.finish_reason)
    assert "stop_text" in reasons
    with pytest.raises(UsageError, match="a text must not be empty"):
        engine.generate([Request(prefixes[0], [1])], Sampling(stop=("",)))


def test_every_request_may_have_a_budget_of_its_own(policy: Policy, prefixes: list[list[int]]) -> None:
    engine = TransformersEngine(policy)
    whole = engine.generate(requests_of(prefixes, 2), Sampling(max_tokens=40))
    requests = [
        Request(request.prefix_ids, request.seeds, max_tokens=budget)
        for request, budget in zip(requests_of(prefixes, 2), (1, 3, 7, 100), strict=True)
    ]
    for budget, long, short in zip(
        (1, 3, 7, 40), whole, engine.generate(requests, Sampling(max_tokens=40)), strict=True
    ):
        assert [each.ids.tolist() for each in short] == [each.ids.tolist()[:budget] for each in long]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5, alternatives=3)], ids=str)
def test_a_request_without_a_budget_gets_nothing(policy: Policy, prefixes: list[list[int]], sampling: Sampling) -> None:
    reported: list[int] = []
    requests = [Request(prefixes[0], [1, 2], max_tokens=0), Request(prefixes[1], [3], max_tokens=2)]
    nothing, [some] = TransformersEngine(policy).generate(requests, sampling, reported.append)
    assert [(len(each.ids), each.finish_reason) for each in nothing] == [(0, "length")] * 2
    assert [each.raw_logprobs is None for each in nothing] == [some.raw_logprobs is None] * 2
    assert [each.alternatives is None for each in nothing] == [some.alternatives is None] * 2
    assert len(some.ids) == 2
    assert sum(reported) == 3


def test_a_stop_text_is_complete_with_the_last_byte_of_its_last_character(policy: Policy) -> None:
    """And neither with a part of one, nor with what special tokens are called."""
    tokenizer = policy.tokenizer
    euro = tokenizer("€")["input_ids"][-3:]
    assert [tokenizer.decode(euro[:size]) for size in (1, 2, 3)] == ["\ufffd", "\ufffd", "€"]
    texts = StopTexts(tokenizer, ("5€",))
    five = tokenizer("5")["input_ids"][-1]
    special = tokenizer.eos_token_id
    tokens = [euro[2], five, *euro[:2], five, euro[0], special, euro[1], euro[2]]
    found = [texts.completed([0], [token])[0] for token in tokens]
    assert found == [False] * (len(tokens) - 1) + [True]


def test_bfloat16_is_near(prefixes: list[list[int]], policy: Policy) -> None:
    coarse = TransformersEngine(load_policy("builtin:tiny", device="cpu", dtype="bfloat16", shared=False))
    [[completion]] = coarse.generate([Request(prefixes[0], [1])], Sampling(max_tokens=20))
    expected = teacher_forced(policy, prefixes[0], completion.ids.tolist(), Sampling())
    assert completion.logprobs is not None
    np.testing.assert_allclose(completion.logprobs, expected, atol=0.15)


def test_a_response_that_ends_includes_the_end_token_and_stops(policy: Policy, prefixes: list[list[int]]) -> None:
    [[completion]] = TransformersEngine(policy).generate([Request(prefixes[0], [1])], Sampling(max_tokens=64))
    assert completion.finish_reason == "stop"
    assert completion.ids.tolist().index(policy.tokenizer.eos_token_id) == len(completion.ids) - 1


def test_a_response_cut_by_the_limit_has_that_many_tokens_and_no_end(policy: Policy, prefixes: list[list[int]]) -> None:
    completions = TransformersEngine(policy).generate(requests_of(prefixes, 2), Sampling(max_tokens=3))
    for completion in (each for group in completions for each in group):
        assert (len(completion.ids), completion.finish_reason) == (3, "length")
        assert policy.tokenizer.eos_token_id not in completion.ids


def test_a_response_that_ends_with_its_last_allowed_token_stops(policy: Policy, prefixes: list[list[int]]) -> None:
    engine, request = TransformersEngine(policy), Request(prefixes[0], [1])
    [[whole]] = engine.generate([request], Sampling(max_tokens=64))
    [[exact]] = engine.generate([request], Sampling(max_tokens=len(whole.ids)))
    [[short]] = engine.generate([request], Sampling(max_tokens=len(whole.ids) - 1))
    assert (exact.ids.tolist(), exact.finish_reason) == (whole.ids.tolist(), "stop")
    assert (short.ids.tolist(), short.finish_reason) == (whole.ids.tolist()[:-1], "length")


def test_the_context_ends_a_response(policy: Policy) -> None:
    prefix = [1, *[20] * 507]  # 508 of a context of 512
    [[completion]] = TransformersEngine(policy).generate([Request(prefix, [3])], Sampling(max_tokens=64))
    assert len(completion.ids) <= 4
    assert completion.finish_reason == ("stop" if completion.ids[-1] == policy.tokenizer.eos_token_id else "length")


@pytest.mark.parametrize("length", [512, 600])
def test_a_prefix_beyond_the_context_is_refused(policy: Policy, length: int) -> None:
    with pytest.raises(UsageError, match=f"a prompt of {length} tokens does not fit the model's context of 512"):
        TransformersEngine(policy).generate([Request([20] * length, [0])], Sampling())


def test_an_empty_prefix_is_refused(policy: Policy) -> None:
    with pytest.raises(UsageError, match="an empty prefix"):
        TransformersEngine(policy).generate([Request([], [0])], Sampling())


def test_the_same_seeds_give_the_same_samples_and_others_give_others(policy: Policy, prefixes: list[list[int]]) -> None:
    engine, sampling = TransformersEngine(policy), Sampling(max_tokens=40, temperature=1.5)
    first, again = (engine.generate(requests_of(prefixes, 4), sampling) for _ in range(2))
    other = engine.generate([Request(prefix, [91, 92, 93, 94]) for prefix in prefixes], sampling)
    assert ids_of(first) == ids_of(again)
    assert ids_of(first) != ids_of(other)


def test_a_sample_is_the_same_alone_and_beside_others(policy: Policy, prefixes: list[list[int]]) -> None:
    engine, sampling = TransformersEngine(policy), Sampling(max_tokens=40)
    together = engine.generate(requests_of(prefixes, 2), sampling)
    alone = [
        [engine.generate([Request(request.prefix_ids, [seed])], sampling)[0][0] for seed in request.seeds]
        for request in requests_of(prefixes, 2)
    ]
    assert ids_of(together) == ids_of(alone)


def test_requests_are_answered_in_their_order(policy: Policy, prefixes: list[list[int]]) -> None:
    engine, sampling = TransformersEngine(policy), Sampling(max_tokens=40)
    requests = requests_of(prefixes, 2)
    forward, backward = engine.generate(requests, sampling), engine.generate(requests[::-1], sampling)
    assert ids_of(forward) == ids_of(backward)[::-1]


def test_a_lower_limit_gives_the_beginning_of_the_same_sample(policy: Policy, prefixes: list[list[int]]) -> None:
    engine = TransformersEngine(policy)
    long, short = (engine.generate(requests_of(prefixes, 4), Sampling(max_tokens=n)) for n in (40, 5))
    assert [[ids[:5] for ids in group] for group in ids_of(long)] == ids_of(short)


def test_greedy_is_what_the_model_generates_without_sampling(policy: Policy, prefixes: list[list[int]]) -> None:
    completions = TransformersEngine(policy).generate(requests_of(prefixes, 1), Sampling(max_tokens=40, temperature=0))
    for prefix, [completion] in zip(prefixes, completions, strict=True):
        with torch.inference_mode():
            expected = policy.model.generate(
                torch.tensor([prefix]),
                attention_mask=torch.ones(1, len(prefix), dtype=torch.int64),
                max_new_tokens=40,
                do_sample=False,
            )
        assert completion.ids.tolist() == expected[0, len(prefix) :].tolist()


@contextmanager
def watched(model: Any, hook: Callable[[torch.Size], None]) -> Iterator[None]:
    """Call `hook` with the shape [B, L] of the ids of every forward pass, before it."""
    handle = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: hook(kwargs["input_ids"].shape), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def test_a_prompt_is_computed_once_for_all_its_samples(policy: Policy, prefixes: list[list[int]]) -> None:
    shapes: list[torch.Size] = []
    with watched(policy.model, shapes.append):
        TransformersEngine(policy).generate(requests_of(prefixes, 8), Sampling(max_tokens=2))
    # All but the last token of each prompt, from which the samples go on. One prompt is the beginning of another.
    assert shapes == [(3, max(map(len, prefixes)) - 1), (32, 1), (32, 1)]


def test_where_a_row_has_ended_the_next_one_takes_its_place(
    policy: Policy, prefixes: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Budgets of all lengths in eight places give what they give side by side, in few passes."""
    engine, budgets = TransformersEngine(policy), (2, 40, 5, 17)
    requests = [
        Request(request.prefix_ids, request.seeds, max_tokens=budget)
        for request, budget in zip(requests_of(prefixes, 8), budgets, strict=True)
    ]
    expected = engine.generate(requests, Sampling(max_tokens=40))
    monkeypatch.setattr(transformers_engine, "MAX_ROWS", 8)
    rows: list[int] = []
    with watched(policy.model, lambda shape: rows.append(shape[0] * shape[1])):
        found = engine.generate(requests, Sampling(max_tokens=40))
    assert ids_of(found) == ids_of(expected)
    assert [[each.finish_reason for each in group] for group in found] == [
        [each.finish_reason for each in group] for group in expected
    ]
    for short, long in zip(chain(*found), chain(*expected), strict=True):
        assert short.logprobs is not None
        assert long.logprobs is not None
        np.testing.assert_allclose(short.logprobs, long.logprobs, atol=1e-4)
    tokens = sum(len(completion.ids) for completion in chain(*found))
    assert max(each for each in rows if each <= 8) == 8
    decoded = sum(each for each in rows if each <= 8)
    assert decoded < 1.5 * tokens, "most places have a row most of the time"


def test_long_prefixes_are_computed_in_chunks_and_what_they_share_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    shared = [1, *rng.integers(20, 200, 120).tolist()]
    long = [[*shared, *rng.integers(20, 200, size).tolist()] for size in (1, 40, 200)]
    engine, requests = TransformersEngine(policy), requests_of(long, 2)
    alone = [engine.generate([request], Sampling(max_tokens=6))[0] for request in requests]
    monkeypatch.setattr(_prefixes, "CHUNK", 64)
    shapes: list[torch.Size] = []
    with watched(policy.model, shapes.append):
        together = engine.generate(requests, Sampling(max_tokens=6))
    assert ids_of(together) == ids_of(alone)
    prefill = [shape for shape in shapes if shape[1] > 1]
    assert max(shape[1] for shape in prefill) == 64
    assert prefill[0] == (1, 64), "the stem first, by itself"
    assert sum(shape[0] * shape[1] for shape in prefill) < sum(map(len, long))


def test_the_cache_is_no_longer_than_the_rows_in_it(
    policy: Policy, prefixes: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows have come and gone; a long one makes it longer only while it is there."""
    monkeypatch.setattr(transformers_engine, "MAX_ROWS", 16)  # so that the long row leaves a free place
    seen: list[tuple[int, int]] = []

    def look(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        layer = given[cache_argument(policy.model)].layers[0]
        if given["input_ids"].shape == (16, 1):
            seen.append((layer.get_seq_length(), layer._buffers[0].shape[2]))

    long = [1, *np.random.default_rng(0).integers(20, 200, 300).tolist()]
    requests = [Request(long, [0], max_tokens=4), Request(prefixes[0], list(range(480)), max_tokens=10)]
    handle = policy.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        TransformersEngine(policy).generate(requests, Sampling(max_tokens=10))
    finally:
        handle.remove()
    assert len(seen) > 200
    bound = len(prefixes[0]) + 10
    assert max(shown for shown, _ in seen[:4]) > 300
    assert max(shown for shown, _ in seen[4:]) <= bound
    assert max(held for _, held in seen[250:]) <= 2 * bound + 32


def test_on_the_cpu_fewer_rows_are_decoded_at_once(policy: Policy, prefixes: list[list[int]]) -> None:
    rows: list[int] = []
    with watched(policy.model, lambda shape: rows.append(shape[0])):
        TransformersEngine(policy).generate([Request(prefixes[0], list(range(300)))], Sampling(max_tokens=2))
    assert max(rows) == transformers_engine.CPU_MAX_ROWS


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_prefixes_and_budgets_gives_what_each_gives_alone(
    exact_policy: Policy, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    base = [1, *rng.integers(20, 200, 60).tolist()]
    requests = [
        Request(base[: rng.integers(1, 61)] + rng.integers(20, 200, rng.integers(0, 4)).tolist(),
                [int(each) for each in rng.integers(0, 1000, rng.integers(1, 5))], max_tokens=int(rng.integers(1, 12)))
        for _ in range(7)
    ]  # fmt: skip
    sampling = Sampling(max_tokens=12, temperature=1.3)
    engine = TransformersEngine(exact_policy)
    alone = [
        [engine.generate([Request(each.prefix_ids, [seed], each.max_tokens)], sampling)[0][0] for seed in each.seeds]
        for each in requests
    ]
    monkeypatch.setattr(transformers_engine, "MAX_ROWS", int(rng.integers(1, 6)))
    assert ids_of(engine.generate(requests, sampling)) == ids_of(alone)


def test_finished_rows_leave_the_batch(policy: Policy, prefixes: list[list[int]]) -> None:
    rows: list[int] = []
    with watched(policy.model, lambda shape: rows.append(shape[0])):
        completions = TransformersEngine(policy).generate(requests_of(prefixes, 8), Sampling(max_tokens=64))
    lengths = [len(completion.ids) for group in completions for completion in group]
    decoded = rows[1:]
    assert decoded == sorted(decoded, reverse=True)
    assert decoded[-1] < 8
    for step, batch in enumerate(decoded):
        live = sum(length > step for length in lengths)
        assert live <= batch <= live / 0.75 + 1e-9


def refuse_over(rows: int) -> Callable[[torch.Size], None]:
    def hook(shape: torch.Size) -> None:
        if shape[0] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return hook


def test_where_memory_runs_out_smaller_batches_give_the_same_samples(policy: Policy, prefixes: list[list[int]]) -> None:
    engine, sampling, reported = TransformersEngine(policy), Sampling(max_tokens=40), list[int]()
    expected = engine.generate(requests_of(prefixes, 8), sampling)
    with watched(policy.model, refuse_over(8)):
        found = engine.generate(requests_of(prefixes, 8), sampling, reported.append)
    assert ids_of(found) == ids_of(expected)
    assert sum(reported) == 32


def test_one_rollout_that_does_not_fit_the_memory_is_a_fault_of_one_line(
    policy: Policy, prefixes: list[list[int]]
) -> None:
    with (
        watched(policy.model, refuse_over(0)),
        pytest.raises(
            ApportionError, match=r"^out of memory on cpu with a single rollout; lower --max-tokens"
        ) as fault,
    ):
        TransformersEngine(policy).generate(requests_of(prefixes, 8), Sampling())
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "words",
    ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
     "[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory"],
)  # fmt: skip
def test_memory_runs_out_under_many_names(policy: Policy, prefixes: list[list[int]], words: str) -> None:
    def hook(shape: torch.Size) -> None:
        if shape[0] > 4:
            raise RuntimeError(words)

    engine, sampling = TransformersEngine(policy), Sampling(max_tokens=4)
    expected = engine.generate(requests_of(prefixes, 2), sampling)
    with watched(policy.model, hook):
        assert ids_of(engine.generate(requests_of(prefixes, 2), sampling)) == ids_of(expected)


@pytest.mark.parametrize("temperature", [1e-40, 1e-60])
def test_a_temperature_beyond_what_numbers_hold_is_refused(
    policy: Policy, prefixes: list[list[int]], temperature: float
) -> None:
    with pytest.raises(UsageError, match=r"must be 0 \(greedy\) or at least 1e-06, got"):
        TransformersEngine(policy).generate(requests_of(prefixes, 1), Sampling(temperature=temperature))
    cold, greedy = (
        TransformersEngine(policy).generate(requests_of(prefixes, 1), Sampling(max_tokens=8, temperature=each))
        for each in (1e-6, 0)
    )
    assert ids_of(cold) == ids_of(greedy)


def test_ends_that_the_model_does_not_have_are_left_out(prefixes: list[list[int]]) -> None:
    """As where a tokenizer was given tokens that the model was not resized for; several ends are fine."""
    model, tokenizer = blank_model(0)
    own: int = tokenizer.eos_token_id  # pyright: ignore[reportAssignmentType]
    model.generation_config.eos_token_id = [own, 21, 550, 99_999]
    policy = Policy(model.eval(), tokenizer, "odd", "0", None)
    found = TransformersEngine(policy).generate(requests_of(prefixes, 16), Sampling(max_tokens=200))
    ended = {
        int(each.ids[-1]) for group in found for each in group if each.finish_reason == "stop"
    }  # a model of random weights writes any token
    assert ended == {own, 21}
    assert not any({own, 21} & set(each.ids[:-1].tolist()) for group in found for each in group)
    tokenizer.eos_token = None
    model.generation_config.eos_token_id, model.config.eos_token_id = 550, None
    with pytest.raises(UsageError, match="model 'odd': no end-of-sequence token"):
        TransformersEngine(policy)


def test_weights_that_are_nan_are_a_fault_of_one_line() -> None:
    model, tokenizer = blank_model(0)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    engine = TransformersEngine(Policy(model.eval(), tokenizer, "broken", "0", None))
    with pytest.raises(ApportionError, match="logits are not finite") as fault:
        engine.generate([Request([1, 20], [0])], Sampling())
    assert "\n" not in str(fault.value)


PROBABILITIES = torch.tensor([0.3, 0.0, 0.2, 0.05, 0.25, 0.1, 0.1, 0.0])
EDGES = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)


def test_draws_follow_the_distribution() -> None:
    count = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(count))
    ids, _ = draw(PROBABILITIES.log().expand(count, -1), uniforms, Sampling())
    seen = torch.bincount(ids, minlength=8).double()
    expected = count * PROBABILITIES.double()
    assert seen[expected == 0].sum() == 0
    live = expected > 0
    chi_square = ((seen - expected)[live].square() / expected[live]).sum().item()
    assert chi_square < 20.515  # 5 degrees of freedom, upper 0.1 %


def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_possible_token() -> None:
    logits = torch.tensor([0.0, 0.0, 0.6, 0.4, 0.0]).log().expand(2, -1)
    ids, logprobs = draw(logits, EDGES, Sampling())
    assert ids.tolist() == [2, 3]
    np.testing.assert_allclose(logprobs, np.log([0.6, 0.4]), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_uniform_number_draws_a_token_of_probability_zero(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 50_000, generator=rng) * 5
    logits[0, torch.rand(50_000, generator=rng) < 0.5] = -torch.inf
    logits[0, :10] = logits[0, -10:] = -torch.inf
    ids, logprobs = draw(logits.expand(2, -1), EDGES, Sampling())
    assert torch.isfinite(logits[0, ids]).all()
    assert torch.isfinite(logprobs).all()


def test_top_k_keeps_the_most_likely() -> None:
    uniforms = torch.linspace(0, 1 - 2**-53, 1001, dtype=torch.float64)
    ids, logprobs = draw(PROBABILITIES.log().expand(1001, -1), uniforms, Sampling(top_k=2))
    assert set(ids.tolist()) == {0, 4}
    np.testing.assert_allclose(logprobs[ids == 4], np.log(0.25 / 0.55), rtol=1e-5)


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, {0}), (0.31, {0, 4}), (0.6, {0, 4, 2}), (1e-12, {0})])
def test_top_p_keeps_the_smallest_set_that_holds_that_much(top_p: float, kept: set[int]) -> None:
    uniforms = torch.linspace(0, 1 - 2**-53, 1001, dtype=torch.float64)
    ids, _ = draw(PROBABILITIES.log().expand(1001, -1), uniforms, Sampling(top_p=top_p))
    assert set(ids.tolist()) == kept


def test_a_temperature_sharpens_before_the_draw() -> None:
    _, logprobs = draw(torch.tensor([[0.2, 0.8]]).log(), EDGES[1:], Sampling(temperature=0.5))
    np.testing.assert_allclose(logprobs, [np.log(0.8**2 / (0.2**2 + 0.8**2))], rtol=1e-6)
