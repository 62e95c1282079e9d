"""The vllm engine, with vLLM itself: the built-in model on the CPU, in float32. Skipped where vllm is not installed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import ApportionError, UsageError
from apportion.stages.models import open_engine
from apportion.stages.models._guard import Guarded
from apportion.stages.models.engine import Completion, Floats, Request, Sampling
from apportion.stages.models.policy import ModelSource, Policy, load_policy
from apportion.stages.models.transformers._engine import TransformersEngine
from apportion.stages.models.vllm.engine import VllmEngine, close_loaded
from safetensors.torch import save_file
from typer.testing import Result

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
pytestmark = pytest.mark.vllm
SOURCE = ModelSource("builtin:tiny", "cpu", "float32")
CACHE = {"kv_cache_gib": 0.25}


@pytest.fixture(scope="module", autouse=True)
def freed() -> Iterator[None]:
    yield
    close_loaded()


@pytest.fixture
def engine() -> VllmEngine:
    """Loaded once: opening the same again gives the same."""
    found = open_engine("vllm", SOURCE, options=CACHE)
    assert isinstance(found, Guarded)
    assert isinstance(found.engine, VllmEngine)
    return found.engine


def requests_of(prefixes: list[list[int]], samples: int) -> list[Request]:
    return [Request(prefix, [1000 * row + sample for sample in range(samples)]) for row, prefix in enumerate(prefixes)]


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in completions]


def logits_of(policy: Policy, prefix: list[int], completion: Completion) -> torch.Tensor:
    """[T, V] of one pass over prefix and response, without a cache."""
    with torch.inference_mode():
        return policy.model(torch.tensor([[*prefix, *completion.ids.tolist()]])).logits[0, len(prefix) - 1 : -1]


def known(values: Floats | None) -> Floats:
    assert values is not None
    return values


def own(logprobs: torch.Tensor, completion: Completion) -> Any:
    return logprobs.gather(1, torch.tensor(completion.ids, dtype=torch.int64)[:, None])[:, 0].numpy()


@needs_vllm
def test_greedy_is_the_transformers_engines(engine: VllmEngine, policy: Policy, prefixes: list[list[int]]) -> None:
    sampling = Sampling(max_tokens=40, temperature=0)
    found = engine.generate(requests_of(prefixes, 1), sampling)
    expected = TransformersEngine(policy).generate(requests_of(prefixes, 1), sampling)
    assert ids_of(found) == ids_of(expected)
    for [ours], [theirs] in zip(found, expected, strict=True):
        np.testing.assert_allclose(known(ours.logprobs), known(theirs.logprobs), atol=1e-3)
        np.testing.assert_array_equal(known(ours.raw_logprobs), known(ours.logprobs))
        assert ours.finish_reason == theirs.finish_reason


@needs_vllm
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=24),
        Sampling(max_tokens=24, temperature=1.5),
        Sampling(max_tokens=24, temperature=1.5, top_k=3),
        Sampling(max_tokens=24, temperature=1.3, top_p=0.8),
    ],
    ids=str,
)
def test_logprobs_are_those_of_the_distribution_and_of_the_policy(
    engine: VllmEngine, policy: Policy, prefixes: list[list[int]], sampling: Sampling
) -> None:
    for prefix, group in zip(prefixes, engine.generate(requests_of(prefixes, 3), sampling), strict=True):
        for completion in group:
            raw = torch.log_softmax(logits_of(policy, prefix, completion), -1)
            tempered = logits_of(policy, prefix, completion) / sampling.temperature
            if sampling.top_k:
                tempered[tempered < tempered.topk(sampling.top_k, -1).values[:, -1:]] = -torch.inf
            if sampling.top_p < 1:
                ordered, order = tempered.softmax(-1).sort(dim=-1, descending=True)
                beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
                tempered[torch.zeros_like(beyond).scatter(1, order, beyond)] = -torch.inf
            np.testing.assert_allclose(
                known(completion.logprobs), own(torch.log_softmax(tempered, -1), completion), atol=1e-3
            )
            if sampling.is_raw:
                assert completion.raw_logprobs is None
            else:
                np.testing.assert_allclose(known(completion.raw_logprobs), own(raw, completion), atol=1e-3)


@needs_vllm
def test_alternatives_are_the_policys_most_likely(
    engine: VllmEngine, policy: Policy, prefixes: list[list[int]]
) -> None:
    for sampling in (
        Sampling(max_tokens=8, alternatives=3),
        Sampling(max_tokens=8, alternatives=3, temperature=0.7, top_k=2),
    ):
        [[completion]] = engine.generate([Request(prefixes[0], [4])], sampling)
        expected = torch.log_softmax(logits_of(policy, prefixes[0], completion), -1).topk(3, -1)
        assert completion.alternatives is not None
        assert completion.alternatives.ids.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(completion.alternatives.logprobs, expected.values.numpy(), atol=1e-3)


@needs_vllm
def test_without_a_second_pass_alternatives_end_where_the_distribution_does(prefixes: list[list[int]]) -> None:
    engine = open_engine("vllm", SOURCE, options={**CACHE, "raw": False})
    sampling = Sampling(max_tokens=4, alternatives=3, temperature=0.7, top_k=2)
    [[completion]] = engine.generate([Request(prefixes[0], [4])], sampling)
    assert completion.raw_logprobs is None
    assert completion.alternatives is not None
    assert np.isneginf(completion.alternatives.logprobs).tolist() == [[False, False, True]] * len(completion.ids)
    assert set(completion.alternatives.ids[:, 2].tolist()) == {-1}


@needs_vllm
def test_every_request_has_its_own_limit(engine: VllmEngine, prefixes: list[list[int]]) -> None:
    requests = [Request(prefixes[3], [1, 2], max_tokens=limit) for limit in (1, 3, 99)]
    found = engine.generate(requests, Sampling(max_tokens=6, temperature=1.5))
    for limit, group in zip((1, 3, 6), found, strict=True):
        for completion in group:
            assert len(completion.ids) <= limit
            assert (completion.finish_reason == "length") == (completion.ids[-1] != 2)
            assert completion.finish_reason == "stop" or len(completion.ids) == limit


@needs_vllm
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0), Sampling(top_k=3, alternatives=2)], ids=str)
def test_a_request_without_a_budget_gets_nothing(
    engine: VllmEngine, prefixes: list[list[int]], sampling: Sampling
) -> None:
    reported: list[int] = []
    requests = [Request(prefixes[0], [1, 2], max_tokens=0), Request(prefixes[1], [3], max_tokens=2)]
    nothing, [some] = engine.generate(requests, sampling, reported.append)
    assert [(len(each.ids), each.finish_reason) for each in nothing] == [(0, "length")] * 2
    assert [each.raw_logprobs is None for each in nothing] == [some.raw_logprobs is None] * 2
    assert [each.alternatives is None for each in nothing] == [some.alternatives is None] * 2
    assert (len(some.ids), sum(reported)) == (2, 3)
    [[alone]] = engine.generate([Request(prefixes[0], [1], max_tokens=0)], sampling)
    assert len(alone.ids) == 0


@needs_vllm
def test_a_stop_text_ends_a_response_with_the_token_that_completes_it(
    engine: VllmEngine, policy: Policy, prefixes: list[list[int]]
) -> None:
    [[whole]] = engine.generate([Request(prefixes[1], [1])], Sampling(max_tokens=40, temperature=0))
    texts = [policy.tokenizer.decode(whole.ids[: size + 1], skip_special_tokens=True) for size in range(len(whole.ids))]
    stop = texts[-1].strip()[2:4]
    size = next(size for size, text in enumerate(texts, 1) if stop in text)
    [[cut]] = engine.generate([Request(prefixes[1], [1])], Sampling(max_tokens=40, temperature=0, stop=("§", stop)))
    assert (cut.ids.tolist(), cut.finish_reason) == (whole.ids[:size].tolist(), "stop_text")
    assert len(known(cut.logprobs)) == size < len(whole.ids)


@needs_vllm
def test_row_seeds_decide_the_samples(engine: VllmEngine, prefixes: list[list[int]]) -> None:
    assert engine.row_seeds
    sampling = Sampling(max_tokens=24, temperature=1.5)
    first, again = (engine.generate(requests_of(prefixes, 4), sampling) for _ in range(2))
    alone = engine.generate(requests_of(prefixes, 4)[2:3], sampling)
    assert ids_of(first) == ids_of(again)
    assert ids_of(first)[2:3] == ids_of(alone)
    assert all(len({tuple(ids) for ids in group}) > 1 for group in ids_of(first))


@needs_vllm
def test_prompts_longer_together_than_a_step_keep_their_seeds(engine: VllmEngine) -> None:
    rng = np.random.default_rng(0)
    requests = [Request([1, *rng.integers(20, 200, 400).tolist()], [row]) for row in range(24)]
    scheduler = engine._loaded.llm.llm_engine.vllm_config.scheduler_config
    assert sum(len(request.prefix_ids) for request in requests) > 2 * scheduler.max_num_batched_tokens
    together = engine.generate(requests, Sampling(max_tokens=6, temperature=1.5))
    alone = engine.generate(requests[20:21], Sampling(max_tokens=6, temperature=1.5))
    assert ids_of(together)[20:21] == ids_of(alone)


@needs_vllm
def test_a_backend_that_refuses_row_seeds_repeats_a_run_with_the_engines_seed(prefixes: list[list[int]]) -> None:
    """The same backend, told not to use them: what is left is the engine's seed."""
    sampling, runs = Sampling(max_tokens=24, temperature=1.5), list[list[list[list[int]]]]()
    for seed in (5, 5, 6):
        close_loaded()
        found = open_engine("vllm", SOURCE, seed=seed, options=CACHE)
        assert isinstance(found, Guarded)
        found.engine.row_seeds = False
        torch.manual_seed(int(torch.randint(1 << 30, ())))  # what the rest of the process draws does not matter
        runs.append(
            [
                *ids_of(found.generate(requests_of(prefixes, 4), sampling)),
                *ids_of(found.generate(requests_of(prefixes, 2), sampling)),
            ]
        )
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@needs_vllm
def test_shared_prefixes_are_found_in_the_cache_and_counted(engine: VllmEngine) -> None:
    requests = [Request([1] + [20 + row] * 69, range(8)) for row in range(2)]  # two blocks of 32, and six tokens
    engine.generate(requests, Sampling(max_tokens=2))
    usage = engine.usage
    assert (usage.prompt_tokens, usage.generated_tokens) == (16 * 70, 16 * 2)
    assert usage.cached_tokens is not None
    assert 14 * 64 <= usage.cached_tokens <= 16 * 64
    assert usage.cached_share == usage.cached_tokens / usage.prompt_tokens


@needs_vllm
def test_progress_counts_every_sample_once(engine: VllmEngine, prefixes: list[list[int]]) -> None:
    seen: list[int] = []
    engine.generate(requests_of(prefixes, 3), Sampling(max_tokens=4, temperature=0.9), seen.append)
    assert sum(seen) == 12
    assert engine.generate([], Sampling()) == []


@needs_vllm
@pytest.mark.parametrize("length", [512, 600])
def test_a_prefix_beyond_the_context_is_refused(engine: VllmEngine, length: int) -> None:
    with pytest.raises(UsageError, match=f"a prompt of {length} tokens does not fit the model's context of 512"):
        engine.generate([Request([20] * length, [0])], Sampling())


@needs_vllm
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_the_context_ends_a_response(engine: VllmEngine, temperature: float) -> None:
    [[completion]] = engine.generate([Request([1, *[20] * 507], [3])], Sampling(max_tokens=64, temperature=temperature))
    assert 1 <= len(completion.ids) <= 4


@needs_vllm
def test_what_vllm_cannot_sample_is_a_fault_of_one_line(engine: VllmEngine, prefixes: list[list[int]]) -> None:
    for temperature in (0.001, 9.0):
        with pytest.raises(UsageError) as fault:
            engine.generate([Request(prefixes[0], [0])], Sampling(temperature=temperature))
        assert "\n" not in str(fault.value)
    with pytest.raises(UsageError, match="an empty prefix"):
        engine.generate([Request([], [0])], Sampling())


@needs_vllm
def test_the_process_keeps_its_threads_and_random_numbers(prefixes: list[list[int]]) -> None:
    close_loaded()
    torch.manual_seed(3)
    np.random.seed(3)
    expected, threads = (torch.rand(()).item(), np.random.random()), torch.get_num_threads()
    torch.manual_seed(3)
    np.random.seed(3)
    open_engine("vllm", SOURCE, options=CACHE).generate([Request(prefixes[0], [0])], Sampling(max_tokens=2))
    assert (torch.rand(()).item(), np.random.random()) == expected
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


@needs_vllm
def test_memory_that_is_not_there_is_a_fault_of_one_line() -> None:
    with pytest.raises(ApportionError, match=r"memory.*; lower max_model_len, .*kv_cache_gib") as fault:
        open_engine("vllm", SOURCE, options={"kv_cache_gib": 1e5})
    assert "\n" not in str(fault.value)


@needs_vllm
def test_another_model_closes_the_one_before(prefixes: list[list[int]]) -> None:
    first = open_engine("vllm", SOURCE, options=CACHE)
    blank = open_engine("vllm", ModelSource("builtin:tiny-blank", "cpu", "float32"), options=CACHE)
    assert blank.identity != first.identity
    blank.generate([Request(prefixes[0], [0])], Sampling(max_tokens=2))
    with pytest.raises(ApportionError, match="this vllm engine is closed"):
        first.generate([Request(prefixes[0], [0])], Sampling(max_tokens=2))


@needs_vllm
def test_a_generation_config_does_not_change_the_distribution(tmp_path: Path, prefixes: list[list[int]]) -> None:
    """Its end tokens count, its temperature and top_k do not."""
    folder = tmp_path / "model"
    load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False).save(folder)
    (folder / "generation_config.json").write_text(
        json.dumps(
            {"eos_token_id": [2, 19], "do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 2.0}
        )
    )
    found = open_engine("vllm", ModelSource(str(folder), "cpu", "float32"), options=CACHE)
    plain = open_engine("transformers", ModelSource(str(folder), "cpu", "float32"))
    completions = found.generate(requests_of(prefixes, 4), Sampling(max_tokens=16, temperature=0))
    assert ids_of(completions) == ids_of(
        plain.generate(requests_of(prefixes, 4), Sampling(max_tokens=16, temperature=0))
    )
    drawn = found.generate(requests_of(prefixes, 8), Sampling(max_tokens=16, temperature=1.5))
    assert all(len({tuple(ids) for ids in group}) > 1 for group in ids_of(drawn))


@needs_vllm
def test_an_adapter_changes_the_policy_and_its_identity(tmp_path: Path, prefixes: list[list[int]]) -> None:
    policy, rng = (
        load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False),
        torch.Generator().manual_seed(0),
    )
    weights, names = {}, ("q_proj", "v_proj")
    for index, layer in enumerate(policy.model.model.layers):
        for name in names:
            low, high = torch.randn(4, 128, generator=rng) * 0.1, torch.randn(128, 4, generator=rng) * 0.1
            prefix = f"base_model.model.model.layers.{index}.self_attn.{name}"
            weights |= {f"{prefix}.lora_A.weight": low, f"{prefix}.lora_B.weight": high}
            with torch.no_grad():
                getattr(layer.self_attn, name).weight += 2.0 * high @ low  # lora_alpha / r
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(names), "bias": "none"})
    )
    sampling = Sampling(max_tokens=16, temperature=0)
    plain = open_engine("vllm", SOURCE, options=CACHE)
    without = plain.generate(requests_of(prefixes, 1), sampling)
    adapted = open_engine("vllm", SOURCE, options={**CACHE, "lora": str(tmp_path)})
    found = adapted.generate(requests_of(prefixes, 1), sampling)
    expected = TransformersEngine(policy).generate(requests_of(prefixes, 1), sampling)
    assert ids_of(found) == ids_of(expected) != ids_of(without)
    for [ours], [theirs] in zip(found, expected, strict=True):
        np.testing.assert_allclose(known(ours.logprobs), known(theirs.logprobs), atol=1e-3)
    assert adapted.identity != plain.identity


@needs_vllm
def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no adapter_config\.json with adapter_model\.safetensors"):
        open_engine("vllm", SOURCE, options={"lora": str(tmp_path)})


@needs_vllm
def test_a_device_that_this_vllm_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="--device tpu: this vllm runs on"):
        open_engine("vllm", ModelSource("builtin:tiny", "tpu"))


@needs_vllm
def test_sample_makes_a_file_that_validates(cli: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "rollouts.parquet"
    line = ("sample", "--prompts", 4, "-n", 4, "--max-tokens", 24, "--temperature", 1.2, "--device", "cpu", "-o", out)
    result = cli(*line, "--engine", "vllm", "--engine-set", "kv_cache_gib=0.25")
    assert result.exit_code == 0, result.output
    result = cli("validate", out)
    assert result.exit_code == 0, result.output


@needs_vllm
def test_vllm_says_nothing_on_our_output() -> None:
    code = (
        "from apportion.stages.models import open_engine\n"
        "from apportion.stages.models.engine import Request, Sampling\n"
        "from apportion.stages.models.policy import ModelSource\n"
        "engine = open_engine('vllm', ModelSource('builtin:tiny'), options={'kv_cache_gib': 0.25})\n"
        "engine.generate([Request([1, 20], [0])], Sampling(max_tokens=2))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_engine_is_listed_and_says_how_to_install_it(cli: Callable[..., Result]) -> None:
    assert "vllm" in cli("list", "engines").output
    with pytest.raises(UsageError, match=r"pip install 'apportion\[vllm\]'"):
        open_engine("vllm", SOURCE)
