"""Sample with vLLM in this process: token ids in and out, shared prefixes computed once.

vLLM is imported when an engine is opened. One engine is held at a time. Opening the same weights with the same options
returns the loaded engine; anything else closes it first. `close_loaded` closes it at once, for a stage that needs its
memory. On a GPU the model lives in a process of vLLM's own, on the CPU in this one, unless the environment variable
VLLM_ENABLE_V1_MULTIPROCESSING says otherwise. vLLM's messages are kept off our output unless VLLM_LOGGING_LEVEL is set.
"""

import atexit
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ....formats.errors import ApportionError, UsageError
from ....formats.provenance import digest_of, digest_of_file
from ...core.trust import remote_code_is_trusted
from ..engine import Alternatives, Completion, Request, Sampling, Usage
from ..kind import engine
from ..policy import ModelSource, Policy
from ._guest import Random, fault, first_line, package, quiet, words

CPU_CACHE_GIB = 2.0  # keys and values; left alone, vLLM would take nearly all of the machine's memory
CPU_BLOCK = 32  # tokens, the unit of prefix sharing; vLLM's default on the CPU, 128, is longer than most prompts
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM can make room for
COLDEST = 0.01  # vLLM silently raises a temperature below this


@dataclass
class _Loaded:
    """vLLM with a policy's weights. random: its state of the process-wide generators. folder: weights made here."""

    key: tuple[Any, ...]
    llm: Any
    lora: Any
    ends: list[int]
    row_seeds: bool
    random: Random
    folder: Any = None
    closed: bool = field(default=False)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with quiet():
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            import_module("vllm.distributed").cleanup_dist_env_and_memory()
        if self.folder is not None:
            self.folder.cleanup()


_held: list[_Loaded] = []  # at most one


def close_loaded() -> None:
    """Free the loaded engine's memory. Engines that were opened on it can no longer generate."""
    while _held:
        _held.pop().close()


class VllmEngine:
    """Each sample is a request of its own, with its own seed if the backend takes one (tested when it is opened)."""

    name = "vllm"
    tokens_exact = True
    can_fail = False

    def __init__(self, loaded: _Loaded, identity: str, *, raw: bool):
        self.version: str = import_module("vllm").__version__
        self.identity = identity
        self.row_seeds = loaded.row_seeds
        self.usage = Usage()
        self.context: int = loaded.llm.model_config.max_model_len
        self._loaded, self._raw = loaded, raw

    def forget(self) -> None:
        """Do nothing: vLLM evicts what it caches by itself."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. UsageError for a prefix beyond the context and for what vLLM cannot sample.

        If the sampling distribution is not the policy's own, raw log-probabilities come from a second pass over the
        finished rows, unless the option `raw` is off. The last position of the context then stays unused.
        """
        if self._loaded.closed:
            raise ApportionError(
                "this vllm engine is closed, since another was opened or its memory was needed; open it again"
            )
        twice = self._raw and not sampling.is_raw and sampling.temperature > 0
        limits = [self._limit(request, sampling, spare=int(twice)) for request in requests]
        wanted = [
            (request, limit, seed)
            for request, limit in zip(requests, limits, strict=True)
            for seed in request.seeds
            if limit > 0
        ]
        params = [
            _params(sampling, limit, seed if self.row_seeds else None, self._loaded.ends) for _, limit, seed in wanted
        ]
        prompts = [[int(token) for token in request.prefix_ids] for request, _, _ in wanted]
        outputs = self._run(prompts, params, on_progress)
        made = [_completion(output.outputs[0], sampling) for output in outputs]
        self.usage += Usage(
            sum(map(len, prompts)),
            sum(output.num_cached_tokens or 0 for output in outputs),
            sum(len(completion.ids) for completion in made),
        )
        if twice:
            made = self._with_raw(prompts, made, sampling.alternatives)
        rows, nothing = iter(made), _nothing(sampling, with_raw=twice or sampling.temperature == 0)
        if on_progress is not None and (left := sum(len(request.seeds) for request in requests) - len(made)):
            on_progress(left)
        return [
            [next(rows) if limit > 0 else nothing for _ in request.seeds]
            for request, limit in zip(requests, limits, strict=True)
        ]

    def _limit(self, request: Request, sampling: Sampling, *, spare: int) -> int:
        size, context = len(request.prefix_ids), self.context
        if size == 0:
            raise UsageError("an empty prefix: a model needs at least one token to continue")
        if size + spare >= context:
            raise UsageError(f"a prompt of {size:,} tokens does not fit the model's context of {context:,}")
        limit = sampling.max_tokens if request.max_tokens is None else min(request.max_tokens, sampling.max_tokens)
        return min(limit, context - size - spare)

    def _run(
        self, prompts: Sequence[list[int]], params: Sequence[Any], on_progress: Callable[[int], None] | None = None
    ) -> list[Any]:
        """vLLM's outputs in the order of the prompts."""
        if not prompts:
            return []
        try:
            return _run(self._loaded, prompts, params, on_progress)
        except Exception as error:
            if "EngineDead" not in type(error).__name__ and "memory" not in str(error).lower():
                raise
            close_loaded()
            raise fault("failed while sampling", error, 0) from error

    def _with_raw(
        self, prompts: Sequence[list[int]], made: Sequence[Completion], alternatives: int
    ) -> list[Completion]:
        """The completions with the policy's own log-probabilities, at temperature 1 and with all tokens kept."""
        whole = [prompt + completion.ids.tolist() for prompt, completion in zip(prompts, made, strict=True)]
        score = import_module("vllm").SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=alternatives, flat_logprobs=True, detokenize=False
        )
        found: list[Completion] = []
        for prompt, completion, output in zip(prompts, made, self._run(whole, [score] * len(whole)), strict=True):
            logprobs, others = _report(output.prompt_logprobs, len(prompt), len(completion.ids), alternatives)
            found.append(completion._replace(raw_logprobs=logprobs, alternatives=others))
        return found


def _run(
    loaded: _Loaded, prompts: Sequence[list[int]], params: Sequence[Any],
    on_progress: Callable[[int], None] | None = None,
) -> list[Any]:  # fmt: skip
    prompt_of = import_module("vllm.inputs").TokensPrompt
    with loaded.random.inside(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loaded.llm.generate(
            [prompt_of(prompt_token_ids=prompt) for prompt in prompts],
            list(params),
            use_tqdm=partial(_Bar, on_progress) if on_progress is not None else False,
            lora_request=loaded.lora,
        )


def _params(sampling: Sampling, limit: int, seed: int | None, ends: list[int]) -> Any:
    """vLLM's sampling parameters, with no default that changes the distribution left to vLLM."""
    if 0 < sampling.temperature < COLDEST:
        raise UsageError(
            f"--temperature must be 0 (greedy) or at least {COLDEST} with vllm, got {sampling.temperature}"
        )
    try:
        return import_module("vllm").SamplingParams(
            max_tokens=limit, temperature=sampling.temperature, top_p=max(sampling.top_p, 1e-9), top_k=sampling.top_k,
            seed=None if sampling.temperature == 0 else seed, stop=list(sampling.stop) or None, stop_token_ids=ends,
            logprobs=sampling.alternatives, flat_logprobs=True, detokenize=bool(sampling.stop),
        )  # fmt: skip
    except Exception as error:  # nothing has been computed yet, so it can only object to the request
        raise UsageError(f"vllm: {first_line(str(error))}") from error


def _completion(output: Any, sampling: Sampling) -> Completion:
    ids = np.asarray(output.token_ids, np.int32)
    logprobs, others = _report(output.logprobs, 0, len(ids), sampling.alternatives)
    reason = "length" if output.finish_reason == "length" else "stop"
    if isinstance(output.stop_reason, str):
        reason = "stop_text"
    greedy = sampling.temperature == 0  # vLLM then reports the policy's own at temperature 1, as we do
    return Completion(ids, logprobs, reason, logprobs if greedy else None, others)


def _nothing(sampling: Sampling, *, with_raw: bool) -> Completion:
    """The completion of a request without a budget, since vLLM refuses to generate zero tokens."""
    none = np.empty(0, np.float32)
    shape = (0, sampling.alternatives)
    likely = Alternatives(np.empty(shape, np.int32), np.empty(shape, np.float32)) if sampling.alternatives else None
    return Completion(np.empty(0, np.int32), none, "length", none if with_raw else None, likely)


def _report(
    flat: Any, first: int, count: int, alternatives: int
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], Alternatives | None]:
    """For `count` positions starting at `first`: each token's own log-probability, and those of the most likely tokens.

    At every position vLLM lists the token that is there, then the most likely ones.
    """
    starts = np.asarray(flat.start_indices[first : first + count], np.int64)
    values = np.asarray(flat.logprobs, np.float32)
    own = values[starts]
    if not alternatives:
        return own, None
    places = starts[:, None] + 1 + np.arange(alternatives)
    ids, logprobs = np.asarray(flat.token_ids, np.int32)[places], values[places]
    return own, Alternatives(np.where(np.isneginf(logprobs), np.int32(-1), ids), logprobs)


class _Bar:
    """The part of a tqdm bar that `LLM.generate` uses, without the bar."""

    def __init__(self, report: Callable[[int], None], iterable: Any = None, **_: Any):
        self.n, self.postfix, self.format_dict = 0, "", {"elapsed": 1.0}
        self._report, self._iterable = report, iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    def update(self, count: int) -> None:
        self.n += count
        self._report(count)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass


@engine("vllm", needs=("vllm",), close=lambda: close_loaded())
def _open(
    source: ModelSource,
    seed: int,
    *,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float = 0.9,
    kv_cache_gib: float | None = None,
    max_model_len: int | None = None,
    enforce_eager: bool | None = None,
    quantization: str | None = None,
    lora: Path | None = None,
    raw: bool = True,
) -> VllmEngine:
    """A vLLM engine in this process, on CUDA or CPU, with shared prefixes cached.

    Opens vLLM with the weights of a policy.

    Args:
        tensor_parallel_size: number of GPUs that share the model.
        gpu_memory_utilization: share of each GPU's memory for weights and cache.
        kv_cache_gib: size of the cache of keys and values, GiB, in place of what that share leaves; None is 2 on the
            CPU.
        max_model_len: longest prefix and response together, tokens; None is the model's context.
        enforce_eager: skip compilation; None is true on the CPU, where compiling takes a minute.
        quantization: vLLM's name of a quantisation method, e.g. fp8; None is what the weights say.
        lora: directory of an adapter (PEFT) applied to the weights.
        raw: also report log-probabilities of the policy at temperature 1 if another distribution is sampled. Costs a
            second pass over the finished rows.
    """
    vllm = package()
    platform = import_module("vllm.platforms").current_platform
    on_cpu = bool(platform.is_cpu())
    _check_device(source.device, "cpu" if on_cpu else str(platform.device_type))
    if source.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UsageError(f"--dtype {source.dtype}: choose from auto, float32, bfloat16, float16")
    identity, rank = _identity(source, quantization, lora)
    arguments: dict[str, Any] = {
        "dtype": ("float32" if on_cpu else "bfloat16") if source.dtype == "auto" else source.dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "gpu_memory_utilization": gpu_memory_utilization,
        "max_model_len": max_model_len,
        "enforce_eager": on_cpu if enforce_eager is None else enforce_eager,
        "quantization": quantization,
        "trust_remote_code": remote_code_is_trusted(),
    }
    if on_cpu:
        # Off: to split a seeded row's prompt over steps, vLLM rewinds its generator, which fails on the CPU.
        arguments |= {"block_size": CPU_BLOCK, "enable_chunked_prefill": False}
        if kv_cache_gib is None and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            kv_cache_gib = CPU_CACHE_GIB
    if kv_cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_cache_gib * 2**30)
    if lora is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": rank}
    key = (identity, source.spec, str(lora), *sorted(arguments.items(), key=lambda item: item[0]))
    if _held and _held[0].key == key and _held[0].row_seeds:
        return VllmEngine(_held[0], identity, raw=raw)
    close_loaded()
    adapter = None if lora is None else import_module("vllm.lora.request").LoRARequest("adapter", 1, str(lora))
    loaded = _load(vllm, source, seed, key, arguments, adapter)
    _held.append(loaded)
    return VllmEngine(loaded, identity, raw=raw)


def _load(
    vllm: Any, source: ModelSource, seed: int, key: tuple[Any, ...], arguments: dict[str, Any], adapter: Any
) -> _Loaded:
    import torch

    folder = None
    path = source.spec if source.directory is None else str(source.directory)
    if source.spec.startswith("builtin:") and source.directory is None:
        folder = tempfile.TemporaryDirectory(prefix="apportion-")
        path = folder.name
        source.load().save(Path(path))
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    state, start = Random(), words().tell()
    try:
        with quiet(), state.inside():
            # Not the weights' generation_config.json: vLLM would sample with that file's temperature and top_p.
            llm = vllm.LLM(
                model=path, seed=seed, generation_config="vllm", logprobs_mode="processed_logprobs", max_logprobs=-1,
                enable_prefix_caching=True, use_tqdm_on_load=False, disable_log_stats=True, **arguments,
            )  # fmt: skip
    except Exception as error:
        raise fault(f"could not open {source.spec!r}", error, start) from error
    finally:
        torch.set_num_threads = set_threads  # on the CPU vLLM turns it into a no-op for the whole process
        torch.set_num_threads(threads)
    loaded = _Loaded(key, llm, adapter, _ends(llm, source), True, state, folder)
    loaded.row_seeds = _takes_seeds(vllm, loaded)
    return loaded


def _takes_seeds(vllm: Any, loaded: _Loaded) -> bool:
    """Whether four requests with one seed agree, at a temperature where they would hardly agree without it."""
    try:
        params = vllm.SamplingParams(
            max_tokens=8, temperature=2.0, seed=2**62 + 1, stop_token_ids=loaded.ends, detokenize=False
        )
        with quiet():
            outputs = _run(loaded, [[loaded.ends[0]]] * 4, [params] * 4)
    except Exception:
        return False
    return len({tuple(output.outputs[0].token_ids) for output in outputs}) == 1


def _ends(llm: Any, source: ModelSource) -> list[int]:
    """The tokens that end a response, by the same rule as in the transformers engine."""
    from ..transformers._engine import end_ids

    config = llm.model_config
    model = SimpleNamespace(
        config=config.hf_config, generation_config=SimpleNamespace(**(config.try_get_generation_config() or {}))
    )
    return end_ids(Policy(model, source.tokenizer, source.spec, "", None))


def _identity(source: ModelSource, quantization: str | None, lora: Path | None) -> tuple[str, int]:
    """Digest of the policy as it samples, and the rank that vLLM must make room for."""
    parts: list[Any] = [source.identity]
    if quantization is not None:
        parts.append(f"quantization={quantization}")
    rank = LORA_RANKS[0]
    if lora is not None:
        weights = sorted(lora.glob("adapter_model.*"))
        if not (lora / "adapter_config.json").is_file() or not weights:
            raise UsageError(
                f"lora {lora}: no adapter_config.json with adapter_model.safetensors; name the directory of a PEFT adapter"
            )
        import json

        config = lora / "adapter_config.json"
        wanted = int(json.loads(config.read_text())["r"])
        if wanted > LORA_RANKS[-1]:
            raise UsageError(f"lora {lora}: rank must be at most {LORA_RANKS[-1]} for vllm, got {wanted}")
        rank = next(each for each in LORA_RANKS if each >= wanted)
        parts.append([digest_of_file(path) for path in (config, *weights)])
    return (source.identity if len(parts) == 1 else digest_of(parts)), rank


def _check_device(asked: str, own: str) -> None:
    if asked not in ("auto", own):
        hint = "; choose the GPU with CUDA_VISIBLE_DEVICES" if asked.startswith(f"{own}:") else ""
        raise UsageError(f"--device {asked}: this vllm runs on {own}{hint}")


atexit.register(close_loaded)
