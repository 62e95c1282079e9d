"""The vllm engine against vLLM called directly, on the same requests with the same loaded model, alternately.

    python benchmarks/vllm_overhead.py [--model DIR] [--task T] [--prompts 16] [--n 8] [--max-tokens 64] [--repeats 7]

Both make the same tokens (checked): the same prompts, row seeds, budget and end tokens, log-probabilities of the sampled
tokens. The engine's time includes making its `Completion` arrays. Every measurement begins with an empty prefix cache.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from apportion.stages.models import open_engine
from apportion.stages.models._guard import Guarded
from apportion.stages.models.engine import Request, Sampling
from apportion.stages.models.policy import ModelSource, render_prompt
from apportion.stages.models.vllm.engine import VllmEngine
from apportion.stages.tasks import open_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()

    source = ModelSource(given.model)
    opened = open_engine("vllm", source)
    assert isinstance(opened, Guarded)
    engine = opened.engine
    assert isinstance(engine, VllmEngine)
    # After the engine, which keeps vLLM quiet.
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.inputs import TokensPrompt  # pyright: ignore[reportMissingImports]

    llm, ends = engine._loaded.llm, engine._loaded.ends
    problems = open_task(given.task).problems("train", given.prompts, 0)
    prompts = [render_prompt(source.tokenizer, problem.prompt) for problem in problems]

    def ours() -> list[list[int]]:
        requests = [Request(ids, range(row * given.n, (row + 1) * given.n)) for row, ids in enumerate(prompts)]
        made = engine.generate(requests, Sampling(max_tokens=given.max_tokens))
        return [completion.ids.tolist() for group in made for completion in group]

    def direct() -> list[list[int]]:
        outputs = llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts for _ in range(given.n)],
            [
                SamplingParams(
                    max_tokens=given.max_tokens, seed=seed if engine.row_seeds else None, stop_token_ids=ends,
                    logprobs=0, detokenize=False,
                )
                for seed in range(len(prompts) * given.n)
            ],
            use_tqdm=False,
        )  # fmt: skip
        return [list(output.outputs[0].token_ids) for output in outputs]

    def seconds(measured: Callable[[], Any]) -> tuple[float, Any]:
        llm.reset_prefix_cache()
        started = time.perf_counter()
        made = measured()
        return time.perf_counter() - started, made

    same = [seconds(ours)[1], seconds(direct)[1]]
    assert not engine.row_seeds or same[0] == same[1], "the two made different tokens"
    tokens = sum(map(len, same[0]))
    times: dict[Callable[[], Any], list[float]] = {ours: [], direct: []}
    for repeat in range(given.repeats):
        for measured in (ours, direct) if repeat % 2 else (direct, ours):
            times[measured].append(seconds(measured)[0])
    our, plain = statistics.median(times[ours]), statistics.median(times[direct])
    pairs = sorted(a / b - 1 for a, b in zip(times[ours], times[direct], strict=True))
    print(f"{given.model}: {given.prompts} prompts of {max(map(len, prompts))} tokens at most, {given.n} samples each")
    print(f"vLLM directly      {tokens / plain:10,.0f} tokens/s   median of {given.repeats}: {plain:.3f} s")
    print(f"apportion engine   {tokens / our:10,.0f} tokens/s   median of {given.repeats}: {our:.3f} s")
    fastest = min(times[ours]) / min(times[direct]) - 1
    print(f"overhead {our / plain - 1:+.1%}, fastest runs {fastest:+.1%} (pairs {pairs[0]:+.1%} … {pairs[-1]:+.1%})")
    print(f"prefix cache hit share {engine.usage.cached_share or 0:.1%}")


if __name__ == "__main__":
    main()
