"""Tokens per second of the transformers engine against a plain `model.generate` on the same requests, in one run.

    python benchmarks/sampling.py [--model DIR] [--task T] [--prompts 64] [--n 8] [--max-tokens 64]

Counted are the tokens of responses, end-of-sequence included, padding excluded. `generate` gets all rows as one left-padded
batch with `num_return_sequences`; it returns no log-probabilities, the engine does.
"""

import argparse
import time
from collections.abc import Callable

import torch
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Request, Sampling
from apportion.stages.models.policy import ModelSource, render_prompt
from apportion.stages.models.transformers_engine import end_ids
from apportion.stages.tasks import open_task


def best(measured: Callable[[], int], repeats: int) -> float:
    """Tokens per second of the fastest repetition, after one to warm up."""
    rates = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        tokens = measured()
        rates.append(tokens / (time.perf_counter() - started))
    return max(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()

    source = ModelSource(given.model)
    policy = source.load()
    problems = open_task(given.task).problems("train", given.prompts, 0)
    prompts = [render_prompt(policy.tokenizer, problem.prompt) for problem in problems]
    engine = open_engine("transformers", source)
    ends = torch.tensor(end_ids(policy))

    def ours() -> int:
        requests = [Request(ids, list(range(given.n))) for ids in prompts]
        made = engine.generate(requests, Sampling(max_tokens=given.max_tokens))
        return sum(len(completion.ids) for group in made for completion in group)

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    attention = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    place = next(policy.model.parameters()).device

    def plain() -> int:
        with torch.inference_mode():
            rows = policy.model.generate(
                input_ids=ids.to(place), attention_mask=attention.to(place), do_sample=True, temperature=1.0,
                top_k=0, top_p=1.0, max_new_tokens=given.max_tokens, num_return_sequences=given.n,
                pad_token_id=int(ends[0]),
            )[:, longest:].cpu()  # fmt: skip
        ended = torch.isin(rows, ends)
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, rows.shape[1])
        return int(lengths.sum())

    plain_rate, our_rate = best(plain, given.repeats), best(ours, given.repeats)
    print(f"{given.model}: {given.prompts} prompts of {longest} tokens at most, {given.n} samples each, {place}")
    print(f"model.generate      {plain_rate:10,.0f} tokens/s")
    print(f"apportion engine    {our_rate:10,.0f} tokens/s   ratio {our_rate / plain_rate:.2f}")


if __name__ == "__main__":
    main()
