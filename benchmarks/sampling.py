"""Tokens per second of the transformers engine against plain `model.generate` on the same requests, in one run.

    python benchmarks/sampling.py [--model DIR] [--task T] [--prompts 64] [--n 8] [--max-tokens 64] [--mixed] [--sizes 16 32 64 128]
                                  [--long TOKENS] [--memory MIB]

Every row has a budget: `--max-tokens`, or with --mixed one drawn from a log-normal distribution with a median of a quarter of it,
so that few rows are much longer than most; and prompts are cut, or repeated, to lengths drawn from one around their own.
`generate` has one budget a batch; its batches are tried in several sizes, in the given order and sorted by budget, and the best
is compared. With --long one of the prompts is that long; with --memory the engine may hold no more keys and values than that.
Counted are the tokens of responses within their budgets, end-of-sequence included, padding excluded. `generate` returns no
log-probabilities, the engine does. Repetitions take turns; medians are given.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Request, Sampling
from apportion.stages.models.policy import ModelSource, render_prompt
from apportion.stages.models.transformers import _engine as transformers_engine
from apportion.stages.models.transformers._engine import end_ids
from apportion.stages.tasks import open_task


def rate(measured: Callable[[], int]) -> float:
    """Tokens per second of one repetition."""
    started = time.perf_counter()
    return measured() / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--mixed", action="store_true", help="prompts and budgets of very different lengths")
    parser.add_argument("--long", type=int, help="tokens of one prompt among the others")
    parser.add_argument("--memory", type=int, help="MiB of keys and values, on the CPU")
    parser.add_argument("--sizes", type=int, nargs="*", default=[16, 32, 64, 128], help="rows in a batch of generate")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()

    source = ModelSource(given.model)
    policy = source.load()
    problems = open_task(given.task).problems("train", given.prompts, 0)
    prompts = [render_prompt(policy.tokenizer, problem.prompt) for problem in problems]
    engine = open_engine("transformers", source)
    ends = torch.tensor(end_ids(policy))
    rng = np.random.default_rng(0)
    budgets = np.full((given.prompts, given.n), given.max_tokens)
    if given.mixed:
        drawn = rng.lognormal(np.log(given.max_tokens / 4), 0.9, budgets.shape)
        budgets = np.clip(drawn.round().astype(np.int64), 1, given.max_tokens)
        prompts = [np.resize(ids, max(2, round(len(ids) * rng.lognormal(0, 0.6)))).tolist() for ids in prompts]

    if given.long is not None:
        prompts[given.prompts // 2] = np.resize(prompts[0], given.long).tolist()
    if given.memory is not None:
        transformers_engine.CACHE_BYTES = given.memory << 20

    def ours() -> int:
        requests = [
            Request(ids, [row * given.n + sample], max_tokens=int(budgets[row, sample]))
            for row, ids in enumerate(prompts)
            for sample in range(given.n)
        ]
        made = engine.generate(requests, Sampling(max_tokens=given.max_tokens))
        return sum(len(completion.ids) for group in made for completion in group)

    place = next(policy.model.parameters()).device
    rows = [(ids, int(budgets[row, sample])) for row, ids in enumerate(prompts) for sample in range(given.n)]

    def plain(order: list[int], size: int) -> int:
        tokens = 0
        for first in range(0, len(order), size):
            batch = [rows[index] for index in order[first : first + size]]
            longest = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt, _ in batch])
            attention = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
            with torch.inference_mode():
                made = policy.model.generate(
                    ids.to(place), attention_mask=attention.to(place), max_new_tokens=max(each for _, each in batch),
                    do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
                )[:, longest:].cpu()  # fmt: skip
            is_end = torch.isin(made, ends)
            length = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, made.shape[1])
            limits = torch.tensor([each for _, each in batch])
            tokens += int(torch.minimum(length, limits).sum())
        return tokens

    in_order = list(range(len(rows)))
    by_budget = sorted(in_order, key=lambda index: rows[index][1])
    variants = {
        f"{name}, {size} rows": (order, size)
        for name, order in (("in order", in_order), *((("by budget", by_budget),) if given.mixed else ()))
        for size in sorted({min(size, len(rows)) for size in (*given.sizes, len(rows))})
    }
    tried = {name: rate(lambda of=of: plain(*of)) for name, of in variants.items()}
    best = max(tried, key=lambda name: tried[name])
    ours()
    found: dict[str, list[float]] = {"generate": [], "engine": []}
    for _ in range(given.repeats):
        found["generate"].append(rate(lambda: plain(*variants[best])))
        found["engine"].append(rate(ours))
    theirs, own = (statistics.median(found[name]) for name in ("generate", "engine"))
    lengths = sorted({len(prompt) for prompt in prompts})
    print(f"{given.model}, {len(rows)} rows, prompts of {lengths[0]} to {lengths[-1]} tokens, budgets of {budgets.min()} to "
          f"{budgets.max()} (median {np.median(budgets):.0f}); best of generate: {best}")  # fmt: skip
    print(f"generate {theirs:,.0f} tokens/s, engine {own:,.0f} tokens/s, ratio {own / theirs:.2f}")
    usage = engine.usage
    if usage is not None and usage.cached_share is not None:
        print(f"{usage.cached_share:.0%} of the engine's prompt tokens were computed for another sample")


if __name__ == "__main__":
    main()
