"""How many rows are decoded at once, where the memory bounds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from apportion.stages.models.engine import Completion, Request, Sampling, Usage
from apportion.stages.models.policy import Policy, load_policy, render_prompt
from apportion.stages.models.transformers import _engine as transformers_engine
from apportion.stages.models.transformers._cache import cache_argument
from apportion.stages.models.transformers._decode import Room
from apportion.stages.models.transformers._engine import TransformersEngine
from apportion.stages.models.transformers._record import Samples, bytes_kept

SHORT = 10  # budget of most rows


@pytest.fixture(scope="module")
def policy() -> Policy:
    """It never ends a response by itself, so every row is as long as its budget; in float64, so nothing is rounding."""
    policy = load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False)
    policy.model.double()

    def go_on(_module: Any, _args: Any, output: Any) -> None:
        output.logits[..., policy.tokenizer.eos_token_id] = -1e4

    policy.model.register_forward_hook(go_on)
    return policy


@pytest.fixture(scope="module")
def prefix(policy: Policy) -> list[int]:
    return render_prompt(policy.tokenizer, [{"role": "user", "content": "7+2*5"}])


@pytest.fixture
def columns(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many columns of keys and values, and what is kept of as many tokens, are all the memory there is."""
    count = 1500
    engine = TransformersEngine(policy)
    monkeypatch.setattr(
        transformers_engine, "CACHE_BYTES", count * (engine._bytes_per_token() + bytes_kept(Sampling()))
    )
    return count


@dataclass
class Passes:
    """Of every pass that decoded one token a row: rows, columns that the model sees, places times columns of buffers."""

    seen: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def rows(self) -> list[int]:
        return [rows for rows, _, _ in self.seen]


@contextmanager
def watched(policy: Policy, refuse_above: int | None = None) -> Iterator[Passes]:
    """Out of memory where rows times columns are more than `refuse_above`."""
    passes = Passes()

    def hook(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        rows, added = given["input_ids"].shape
        layer = given[cache_argument(policy.model)].layers[0]
        seen = layer.get_seq_length() + added
        if refuse_above is not None and rows * seen > refuse_above:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if added == 1:
            held = 0 if layer._buffers is None else layer._buffers[0].shape[0] * layer._buffers[0].shape[2]
            passes.seen.append((rows, seen, held))

    handle = policy.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in completions]


def one_long_among(prefix: list[int], others: int, *, budget: int = 4, length: int = 300) -> list[Request]:
    long = [1, *np.random.default_rng(0).integers(20, 200, length - 1).tolist()]
    requests = [Request(prefix, [seed], max_tokens=SHORT) for seed in range(others)]
    return [*requests[: others // 2], Request(long, [7], max_tokens=budget), *requests[others // 2 :]]


def test_room_is_for_rows_as_large_as_the_largest_of_them() -> None:
    room = Room(rows=64, bytes=10_000, per_column=10, per_token=2)
    assert room.rows_of(80, 50) == 11  # a row: 80 · 10 + 50 · 2 = 900 bytes
    assert room.rows_of(10, 5) == 64  # 110 bytes, 90 rows
    assert room.rows_of(5_000, 50) == 1, "one row is tried, whatever it takes"


def test_half_of_the_room_is_half_of_what_did_not_fit() -> None:
    room = Room(rows=64, bytes=10_000, per_column=10, per_token=2)
    assert room.halved(11, 80, 50) == Room(64, 4_950, 10, 2)
    assert room.halved(11, 80, 50).rows_of(80, 50) == 5
    assert room.halved(20, 80, 50) == Room(64, 5_000, 10, 2), "there was no more"


def test_a_long_row_makes_others_few_only_while_it_is_there(policy: Policy, prefix: list[int], columns: int) -> None:
    requests = one_long_among(prefix, 100)
    need = len(prefix) - 1 + SHORT
    with watched(policy) as passes:
        TransformersEngine(policy).generate(requests, Sampling(max_tokens=SHORT))
    assert passes.rows[:4] == [columns // 304] * 4, "the long one comes first"
    assert max(passes.rows) == columns // need > 10 * passes.rows[0]
    assert len(passes.seen) < 4 + 2 * SHORT * 100 / passes.rows[5]
    assert max(rows * seen for rows, seen, _ in passes.seen) <= columns
    # Buffers have half as many columns again to grow into; none has those of the long row times the rows after it.
    assert max(held for _, _, held in passes.seen) <= columns * 3 // 2 + 32 * max(passes.rows)


def test_what_the_memory_bounds_is_the_same_as_without_a_bound(
    policy: Policy, prefix: list[int], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, sampling = one_long_among(prefix, 60), Sampling(max_tokens=SHORT, temperature=1.3, alternatives=2)
    bounded = TransformersEngine(policy).generate(requests, sampling)
    monkeypatch.undo()
    free = TransformersEngine(policy).generate(requests, sampling)
    assert ids_of(bounded) == ids_of(free)
    for [ours], [theirs] in zip(bounded, free, strict=True):
        assert ours.finish_reason == theirs.finish_reason == "length"
        assert ours.raw_logprobs is not None
        assert theirs.raw_logprobs is not None
        np.testing.assert_allclose(ours.raw_logprobs, theirs.raw_logprobs, atol=1e-5)
        assert ours.alternatives is not None
        assert theirs.alternatives is not None
        assert ours.alternatives.ids.tolist() == theirs.alternatives.ids.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_any_mix_in_any_memory_gives_what_each_gives_alone(
    policy: Policy, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    base = [1, *rng.integers(20, 200, 80).tolist()]
    requests = [
        Request(base[: rng.integers(1, 81)], rng.integers(0, 1000, rng.integers(1, 5)).tolist(),
                max_tokens=int(rng.integers(0, 25)))
        for _ in range(12)
    ]  # fmt: skip
    sampling, engine = Sampling(max_tokens=24), TransformersEngine(policy)
    alone = [
        [engine.generate([Request(each.prefix_ids, [seed], each.max_tokens)], sampling)[0][0] for seed in each.seeds]
        for each in requests
    ]
    monkeypatch.setattr(transformers_engine, "CACHE_BYTES", int(rng.integers(50, 600)) * engine._bytes_per_token())
    with watched(policy) as passes:
        assert ids_of(engine.generate(requests, sampling)) == ids_of(alone)
    assert len(set(passes.rows)) > 2


def test_a_row_that_needs_more_than_there_is_goes_alone(policy: Policy, prefix: list[int], columns: int) -> None:
    """The bound is ours, not the machine's: what is beyond it is tried by itself."""
    requests = one_long_among(prefix, 20, length=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_engine, "CACHE_BYTES", 1)
        with watched(policy) as passes:
            found = TransformersEngine(policy).generate(requests, Sampling(max_tokens=SHORT))
    assert set(passes.rows) == {1}
    assert [len(completion.ids) for [completion] in found] == [4 if at == 10 else SHORT for at in range(21)]


def test_out_of_memory_with_a_long_row_leaves_the_short_ones_many(policy: Policy, prefix: list[int]) -> None:
    """They are not to go in as few rows as fitted beside the long one."""
    requests, sampling = one_long_among(prefix, 100), Sampling(max_tokens=SHORT)
    expected = TransformersEngine(policy).generate(requests, sampling)
    engine, reported = TransformersEngine(policy), list[int]()
    with watched(policy, refuse_above=1500) as passes:
        found = engine.generate(requests, sampling, reported.append)
    assert ids_of(found) == ids_of(expected)
    assert sum(reported) == 101
    assert passes.rows[0] < 5
    assert max(passes.rows) > 20
    assert engine.usage.generated_tokens == 4 + 100 * SHORT


def test_the_record_grows_and_shrinks_with_the_budgets_in_the_batch() -> None:
    record = Samples(Sampling(temperature=0, alternatives=2), torch.device("cpu"))
    record.fit(1, 3)
    record.begin(0, 5, 3)
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    for made in range(3):
        assert record.draw(logits, np.array([made])).tolist() == [1]
    for places, width in ((2, 3), (2, 50), (4, 50), (4, 4), (4, 3)):
        record.fit(places, width)
        [kept] = record.completions(np.array([0]), np.array([3]), ["length"])
        assert kept.ids.tolist() == [1, 1, 1]
        assert kept.logprobs is not None
        np.testing.assert_allclose(kept.logprobs, [-0.4401897] * 3, rtol=1e-6)  # 2 - log(1 + e² + e + e⁻¹)
        assert kept.alternatives is not None
        assert kept.alternatives.ids.tolist() == [[1, 2]] * 3
        assert {held.shape[0] for held in record._held.values()} == {places}
        assert width <= record._held["ids"].shape[1] <= 2 * width


def test_usage_counts_the_prefix_tokens_that_were_not_computed_again(policy: Policy) -> None:
    rng = np.random.default_rng(3)
    stem = [1, *rng.integers(20, 200, 63).tolist()]
    requests = [
        Request([*stem, 30, 31], range(8)),  # 8 · 66 tokens
        Request([*stem, 40, 41, 42], range(4)),  # 4 · 67
        Request(stem[:10], [0]),  # the beginning of the others
        Request(stem, [0, 1], max_tokens=0),  # nothing is done
    ]
    engine = TransformersEngine(policy)
    assert engine.usage == Usage(0, 0, 0)
    engine.generate(requests, Sampling(max_tokens=5))
    given = 8 * 66 + 4 * 67 + 10
    # Computed: the stem, one and two tokens behind it (the last but one of each prefix), and each sample's last token.
    computed = 64 + 1 + 2 + 13
    assert engine.usage == Usage(given, given - computed, 13 * 5)
    assert engine.usage.cached_share == (given - computed) / given
    engine.generate(requests, Sampling(max_tokens=5))
    assert engine.usage == Usage(2 * given, 2 * (given - computed), 2 * 13 * 5)


def test_what_is_computed_again_after_a_fault_is_not_called_cached(policy: Policy, prefix: list[int]) -> None:
    requests, sampling = [Request(prefix, range(64))], Sampling(max_tokens=SHORT)
    plain, again = TransformersEngine(policy), TransformersEngine(policy)
    plain.generate(requests, sampling)
    with watched(policy, refuse_above=16 * (len(prefix) + SHORT)):
        again.generate(requests, sampling)
    assert plain.usage.prompt_tokens == again.usage.prompt_tokens == 64 * len(prefix)
    assert plain.usage.cached_tokens == 64 * len(prefix) - (len(prefix) - 1) - 64
    assert again.usage.cached_tokens is not None
    assert again.usage.cached_tokens < 64 * len(prefix) - (len(prefix) - 1) - 64


def test_usage_of_an_engine_that_does_not_know_its_cache_is_not_known() -> None:
    assert Usage(10, 4, 5) + Usage(2, 1, 3) == Usage(12, 5, 8)
    assert Usage(10, None, 5) + Usage(2, 1, 3) == Usage(12, None, 8)
    assert (Usage(0, 0, 0).cached_share, Usage(5, None, 0).cached_share, Usage(8, 2, 1).cached_share) == (
        None,
        None,
        0.25,
    )
