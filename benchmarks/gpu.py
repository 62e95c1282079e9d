"""Everything that is different on a GPU, checked on one, in less than 8 minutes. Without a CUDA device it says so and ends with 0.

    python benchmarks/gpu.py [--only engine,train] [--size small|large] [--json FILE]

Every check compares CUDA with the CPU, or measures a ratio side by side in this run. A check prints one line: `ok`, `FAILED`
or `skipped`, what it measured, and how long it took. The last line counts them; a failure makes the exit code 1.

The speed checks use a model with random weights: 16 layers, 1.1 billion parameters (--size large, the default), or 0.1
billion (small). What its tokens are does not matter for speed.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from apportion.formats.parquet import RolloutFile
from apportion.stages.assign_credit import assign_credit, credit_tokens
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.eval import policy as eval_policy
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Completion, Request, Sampling
from apportion.stages.models.policy import ModelSource, render_prompt
from apportion.stages.sample import sample
from apportion.stages.score import score
from apportion.stages.tasks import open_task
from apportion.stages.train import train
from apportion.stages.tree_build import tree_build

SIZES = {"large": (2048, 16, 16), "small": (768, 12, 12), "least": (128, 2, 2)}  # width, layers, heads
DEVICE = "cuda"


class Skipped(Exception):
    """The check cannot be made on this machine; the message says why."""


Check = Callable[["Place"], str]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


class Place:
    """A folder for files, the size of the large model, and rollouts that several checks read."""

    def __init__(self, folder: Path, size: str):
        self.folder = folder
        self.size = size

    @cache  # noqa: B019 - one place a run
    def credited(self, dtype: str) -> Path:
        """Rollouts sampled on CUDA in `dtype`, with TEMPO's credit."""
        raw, tree, scored, out = (
            self.folder / f"{name}-{dtype}.parquet" for name in ("raw", "tree", "scored", "credit")
        )
        sample(prompts=64, n=8, seed=1, engine="transformers", device=DEVICE, dtype=dtype, out=raw)
        tree_build(raw, out=tree)
        score(tree, scorer="verify", out=scored)
        assign_credit(scored, method="tempo", out=out)
        return out

    @cache  # noqa: B019 - as above
    def large(self) -> Path:
        """A checkpoint with random weights and the tokenizer of builtin:tiny."""
        from apportion.stages.models.tiny.blank import blank_tokenizer
        from transformers import LlamaConfig, LlamaForCausalLM

        width, layers, heads = SIZES[self.size]
        tokenizer = blank_tokenizer()
        config = LlamaConfig(
            vocab_size=32_000, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=4096, bos_token_id=1,
            eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(DEVICE):
            model = LlamaForCausalLM(config).bfloat16()
        folder = self.folder / "large"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder


def prompts_of(count: int, source: ModelSource) -> list[list[int]]:
    return [
        render_prompt(source.tokenizer, problem.prompt)
        for problem in open_task("arithmetic").problems("test", count, 0)
    ]


def generate(device: str, dtype: str, requests: list[Request], sampling: Sampling) -> list[Completion]:
    made = open_engine("transformers", ModelSource("builtin:tiny", device, dtype)).generate(requests, sampling)
    return [completion for group in made for completion in group]


def logprobs(completions: list[Completion]) -> Any:
    """Of all their tokens, one after another."""
    return np.concatenate([one.logprobs for one in completions if one.logprobs is not None])


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    made = function()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, made


@contextmanager
def memory_limit(gigabytes: float) -> Iterator[None]:
    """This process gets no more of the GPU's memory."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(gigabytes * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@check
def engine_equals_cpu(place: Place) -> str:
    """Greedy responses are the CPU's, log-probabilities too; sampled ones nearly all, since rounding decides few tokens."""
    prompts = prompts_of(64, ModelSource("builtin:tiny"))
    greedy = [Request(ids, [0]) for ids in prompts]
    drawn = [Request(ids, range(8 * row, 8 * row + 8)) for row, ids in enumerate(prompts)]
    here, there = (generate(device, "float32", greedy, Sampling(temperature=0)) for device in ("cpu", DEVICE))
    assert [one.ids.tolist() for one in here] == [one.ids.tolist() for one in there], "greedy responses differ"
    gap = float(np.abs(logprobs(here) - logprobs(there)).max())
    assert gap < 1e-3, f"log-probabilities differ by {gap:.1e} nat"
    here, there = (generate(device, "float32", drawn, Sampling()) for device in ("cpu", DEVICE))
    same = np.mean([a.ids.tolist() == b.ids.tolist() for a, b in zip(here, there, strict=True)])
    assert same > 0.98, f"only {same:.1%} of sampled responses are the CPU's"
    alone = generate(DEVICE, "float32", drawn[:1], Sampling())
    apart = np.mean([a.ids.tolist() == b.ids.tolist() for a, b in zip(alone, there, strict=False)])
    assert apart >= 7 / 8, f"row seeds: {apart:.0%} of a group are the same without the rest of the batch"
    return f"greedy equal, log-probabilities within {gap:.0e} nat, {same:.1%} of 512 samples equal"


@check
def engine_in_bfloat16(place: Place) -> str:
    """What the engine records in bfloat16 is near what float32 says of the same tokens."""
    rollouts = RolloutFile(place.credited("bfloat16")).read()
    score(place.credited("bfloat16"), scorer="entropy", settings={"model": "builtin:tiny", "dtype": "float32", "device": DEVICE}, out=place.folder / "entropy.parquet")  # fmt: skip
    from apportion.stages.models.examples import to_examples
    from apportion.stages.models.policy import load_policy
    from apportion.stages.train._loop import all_logprobs

    examples = to_examples(rollouts, credit=None, old_logprobs=True)
    exact = all_logprobs(load_policy("builtin:tiny", device=DEVICE, dtype="float32").model, examples, 0, torch.float32)
    assert examples.old_logprob is not None
    gap = np.abs(exact - examples.old_logprob)[examples.mask.values]
    assert np.isfinite(gap).all() and gap.mean() < 0.05, f"mean difference {gap.mean():.3f} nat"
    return f"mean difference {gap.mean():.4f} nat, 99th percentile {np.quantile(gap, 0.99):.3f}"


@check
def engine_out_of_memory(place: Place) -> str:
    """With a tenth of the memory the batch is halved until it fits, and all responses are there."""
    if DEVICE != "cuda":
        raise Skipped("no CUDA device")
    source = ModelSource(str(place.large()), DEVICE, "bfloat16")
    requests = [Request(np.random.default_rng(row).integers(3, 500, 900).tolist(), range(16)) for row in range(16)]
    engine = open_engine("transformers", source)
    size = torch.cuda.memory_allocated() / 2**30
    with memory_limit(size * 1.6 + 3):
        took, made = seconds(lambda: engine.generate(requests, Sampling(max_tokens=64)))
    counts = {len(completion.ids) > 0 for group in made for completion in group}
    assert counts == {True}, "responses are missing"
    return f"256 rows of 964 tokens in {size * 1.6 + 3:.1f} GiB, the model being {size:.1f} GiB, {took:.1f} s"


@check
def engine_speed(place: Place) -> str:
    """Tokens per second against `model.generate` in batches of several sizes, on requests with budgets of different lengths."""
    source = ModelSource(str(place.large()), DEVICE, "bfloat16")
    engine, model = open_engine("transformers", source), source.load().model
    rng = np.random.default_rng(0)
    budgets = np.clip(rng.lognormal(np.log(64), 0.9, 256).round().astype(int), 4, 256)
    prompts = [rng.integers(3, 500, 128).tolist() for _ in range(32)]
    rows = [(prompts[row // 8], int(budget)) for row, budget in enumerate(budgets)]
    model.generation_config.eos_token_id = None  # random weights: the budget alone ends a response

    def ours() -> int:
        requests = [Request(ids, [row], max_tokens=budget) for row, (ids, budget) in enumerate(rows)]
        return sum(len(one.ids) for group in engine.generate(requests, Sampling(max_tokens=256)) for one in group)

    def plain(size: int) -> int:
        ordered, tokens = sorted(rows, key=lambda row: row[1]), 0
        for first in range(0, len(ordered), size):
            batch = ordered[first : first + size]
            ids = torch.tensor([ids for ids, _ in batch], device=DEVICE)
            longest = max(budget for _, budget in batch)
            with torch.inference_mode():
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=longest,
                    pad_token_id=0,
                )
            tokens += sum(budget for _, budget in batch)
        return tokens

    ours()  # warm up
    plain(64)
    tries = {size: seconds(lambda size=size: plain(size)) for size in (64, 128, 256)}
    best = min(tries, key=lambda size: tries[size][0])
    theirs = min(tries[best][0], seconds(lambda: plain(best))[0])
    own, made = min((seconds(ours) for _ in range(2)), key=lambda each: each[0])
    return f"{made / own:,.0f} tokens/s, generate {tries[best][1] / theirs:,.0f} (batches of {best}, sorted): {theirs / own * made / tries[best][1]:.2f} times"


@check
def credit_on_cuda(place: Place) -> str:
    """Every method that takes a padded batch gives the same credit for CUDA tensors as for NumPy arrays."""
    rng = np.random.default_rng(0)
    rows, longest = 64, 40
    sizes = rng.integers(5, longest, rows)
    mask = np.arange(longest) < sizes[:, None]
    ids = np.where(mask, rng.integers(1, 4, (rows, longest)), 0)
    signals = {"token.logprob": np.where(mask, -rng.random((rows, longest)), 0), "token.entropy": rng.random((rows, longest)),
               "token.value": rng.random((rows, longest))}  # fmt: skip
    given: dict[str, Any] = {"reward": rng.integers(0, 2, rows).astype(float), "group": np.repeat(np.arange(8), 8)}
    done: list[str] = []
    for method in METHODS:
        try:
            here = credit_tokens(method.name, token_ids=ids, mask=mask, signals=signals, **given)
        except Exception as error:
            if any(word in str(error) for word in ("signals", "steps", "probe", "reward")):
                continue
            raise
        cuda = {name: torch.from_numpy(values).to(DEVICE) for name, values in signals.items()}
        there = credit_tokens(
            method.name, token_ids=torch.from_numpy(ids).to(DEVICE), mask=torch.from_numpy(mask).to(DEVICE), signals=cuda,
            reward=torch.from_numpy(given["reward"]).to(DEVICE), group=torch.from_numpy(given["group"]).to(DEVICE),
        )  # fmt: skip
        assert there.device.type == DEVICE, method.name
        assert np.allclose(here, there.cpu().numpy(), atol=1e-6), method.name
        done.append(method.name)
    assert len(done) > 10, done
    return f"{len(done)} methods"


@check
def entropy_equals_cpu(place: Place) -> str:
    found: dict[str, Any] = {}
    for device in ("cpu", DEVICE):
        out = place.folder / f"entropy-{device}.parquet"
        score(place.credited("float32"), scorer="entropy", settings={"model": "builtin:tiny", "device": device, "dtype": "float32"}, out=out)  # fmt: skip
        found[device] = RolloutFile(out).read().ragged("token.entropy").values
    gap = float(np.abs(found["cpu"] - found[DEVICE]).max())
    assert gap < 1e-3, f"{gap:.1e} nat"
    return f"within {gap:.0e} nat"


@check
def train_equals_cpu(place: Place) -> str:
    """The same rollouts, one update in float32 on either device: the same loss, gradient and weights."""
    logs: dict[str, Any] = {}
    for device in ("cpu", DEVICE):
        out = place.folder / f"trained-{device}"
        train(place.credited("float32"), lr=1e-3, device=device, dtype="float32", settings={"clip_high": 0.28}, out=out)
        logs[device] = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("loss", "grad_norm", "ratio"):
        assert np.isclose(logs["cpu"][name], logs[DEVICE][name], rtol=1e-3, atol=1e-5), (name, logs)
    here, there = (weights(place.folder / f"trained-{device}") for device in ("cpu", DEVICE))
    gap = max(float((here[name] - there[name]).abs().max()) for name in here)
    assert gap < 2.1e-3, f"weights differ by {gap:.1e}"  # two steps of AdamW: at most 2 lr where a gradient is about 0
    typical = float(np.mean([float((here[name] - there[name]).abs().mean()) for name in here]))
    assert typical < 2e-5, f"weights differ by {typical:.1e} on average"
    return f"loss {logs[DEVICE]['loss']:.5f}, gradient norm {logs[DEVICE]['grad_norm']:.4f}, weights within {gap:.0e} (mean {typical:.0e})"


@check
def train_in_bfloat16(place: Place) -> str:
    """The first update on rollouts that were sampled in bfloat16: ratios are near 1, weights finite and in float32."""
    out = place.folder / "trained-bf16"
    train(place.credited("bfloat16"), lr=3e-4, device=DEVICE, dtype="bfloat16", out=out)
    entry = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert abs(entry["ratio"] - 1) < 0.02, entry
    assert all(bool(each.isfinite().all()) and each.dtype == torch.float32 for each in weights(out).values())
    return f"mean ratio {entry['ratio']:.4f}, KL to the sampler {entry['kl_old']:.1e}"


@check
def train_speed(place: Place) -> str:
    """Trained tokens per second of the large model in bfloat16 (thirteen epochs less one, so without loading and saving), and
    the memory it needs."""
    raw, scored, out = (place.folder / f"large-{name}.parquet" for name in ("raw", "scored", "credit"))
    model = str(place.large())
    sample(model=model, prompts=16, n=8, max_tokens=256, engine="transformers", device=DEVICE, out=raw)
    score(raw, scorer="pattern", settings={"regex": "[02468a-f]", "whole": False, "column": "reward"}, out=scored)
    assign_credit(scored, method="grpo", out=out)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    few, many, target = 1, 13, place.folder / "large-trained"
    took: dict[int, float] = {}
    tokens = 0
    for epochs in (few, few, many):  # the first to warm up
        took[epochs], made = seconds(
            lambda epochs=epochs: train(out, model=model, epochs=epochs, device=DEVICE, out=target, force=True)
        )
        tokens = made.tokens
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else 0.0
    rate = (many - few) * tokens / (took[many] - took[few])
    return f"{rate:,.0f} tokens/s, {took[few]:.0f} s for loading, one epoch and saving, {peak:.1f} GiB at most"


@check
def learns(place: Place) -> str:
    """Six iterations on CUDA in bfloat16 improve the built-in policy, as they do on the CPU."""
    model, first = "builtin:tiny", eval_policy(model="builtin:tiny", prompts=128, device=DEVICE)
    for round in range(6):
        raw, tree, scored, credit = (
            place.folder / f"loop-{name}-{round}.parquet" for name in ("raw", "tree", "scored", "credit")
        )
        sample(model=model, prompts=64, n=8, round=round, engine="transformers", device=DEVICE, out=raw)
        tree_build(raw, out=tree)
        score(tree, scorer="verify", out=scored)
        assign_credit(scored, method="tempo", out=credit)
        train(credit, model=model, lr=3e-4, device=DEVICE, out=place.folder / f"loop-{round}")
        model = str(place.folder / f"loop-{round}")
    last = eval_policy(model=model, prompts=128, device=DEVICE)
    before, after = (report.pass_at[1].value for report in (first, last))
    assert after > before + 0.1, (before, after)
    return f"pass@1 {before:.3f} -> {after:.3f}"


@check
def vllm_equals_transformers(place: Place) -> str:
    """Greedy responses of vLLM are those of the transformers engine but for rounding, with the same log-probabilities."""
    if find_spec("vllm") is None:
        raise Skipped("vllm is not installed")
    prompts = prompts_of(64, ModelSource("builtin:tiny"))
    greedy = [Request(ids, [0]) for ids in prompts]
    source = ModelSource("builtin:tiny", DEVICE, "bfloat16")
    there = [group[0] for group in open_engine("vllm", source).generate(greedy, Sampling(temperature=0))]
    here = generate(DEVICE, "bfloat16", greedy, Sampling(temperature=0))
    same = np.mean([a.ids.tolist() == b.ids.tolist() for a, b in zip(here, there, strict=True)])
    assert same > 0.8, f"{same:.0%} of greedy responses are equal"
    return f"{same:.0%} of greedy responses are equal"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="checks whose names begin with one of these, separated by commas")
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--on", default="cuda", help="cpu tries this script itself; what needs CUDA is skipped")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    global DEVICE
    DEVICE = given.on
    if DEVICE == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing is checked")
        return 0
    import transformers

    transformers.logging.disable_progress_bar()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE
    print(f"{device}, torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
    results: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        place = Place(Path(folder), given.size)
        for name, function in CHECKS.items():
            if given.only and not name.startswith(tuple(given.only.split(","))):
                continue
            started = time.perf_counter()
            try:
                state, said = "ok", function(place)
            except Skipped as reason:
                state, said = "skipped", str(reason)
            except Exception as error:
                state, said = "FAILED", f"{type(error).__name__}: {error}"
                traceback.print_exc()
            took = time.perf_counter() - started
            results.append({"check": name, "state": state, "said": said, "seconds": round(took, 1)})
            print(f"{state:8}{name}: {said}  ({took:.1f} s)", flush=True)
    counts = {state: sum(each["state"] == state for each in results) for state in ("ok", "FAILED", "skipped")}
    print(f"gpu: {counts['ok']} passed, {counts['FAILED']} failed, {counts['skipped']} skipped")
    if given.json is not None:
        given.json.write_text(json.dumps({"device": device, "results": results}, indent=1) + "\n")
    return int(counts["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
