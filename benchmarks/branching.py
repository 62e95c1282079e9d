"""How many tokens have to be generated for a trajectory that is not there yet: branching strategies against independent sampling.

    python benchmarks/branching.py [--model builtin:tiny] [--prompts 64] [--max-tokens 64] [--engine transformers] [--vine]

Every strategy makes about 30 rollouts a prompt. Counted are the tokens generated (a branch has its first tokens from its parent), and the
distinct responses of a group; besides, the share of groups whose rewards differ, and of right answers among the distinct ones. The last column
is how much of the prefixes (prompts, and what a branch begins with) the engine had not to compute: it begins every strategy with an empty cache.
With --vine there are also probes from the states of two rollouts of each prompt; its last column is of the probes alone.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.models import close_engines
from apportion.stages.models.engine import Usage
from apportion.stages.sample import sample
from apportion.stages.sample._failures import Sampled
from apportion.stages.score import score

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "independent, n = 30": ("independent", {}),
    "branch, 6 trees, 2 forks of 2": ("branch", {"initial": 6, "forks": 2, "continuations": 2}),
    "branch, 2 trees, 7 forks of 2": ("branch", {"initial": 2, "forks": 7, "continuations": 2}),
    "branch_schedule, 4·3·3 each 8 tokens": ("branch_schedule", {"factors": [4, 3, 3], "length": 8}),
    "rose, epsilon 0.5, rao": ("rose", {"epsilon": 0.5, "metric": "rao"}),
}


VINE = {"k": 7, "max_states": 2}


def measured(rollouts: Rollouts) -> list[float]:
    """Rollouts, tokens generated, distinct responses a prompt; tokens for a distinct one; shares of live groups and right."""
    fork = np.zeros(len(rollouts))
    if "fork" in rollouts:
        fork = rollouts.arrow("fork").cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    generated = float((rollouts.tokens.sizes - fork).sum())
    groups, reward = rollouts.groups, rollouts.numbers("reward")
    keys = {
        (int(groups.ids[row]), tuple(rollouts.token_ids[row].tolist())): reward[row] for row in range(len(rollouts))
    }
    count = len(groups)
    live = float(np.mean(~groups.constant(reward)))
    return [
        len(rollouts) / count, generated / count, len(keys) / count, generated / len(keys), live,
        float(np.mean(list(keys.values()))),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--vine", action="store_true")
    given = parser.parse_args()
    print(
        "| strategy | rollouts | tokens generated | distinct | tokens a distinct one | live groups | right, of distinct "
        "| prefix tokens cached |"
    )
    print("|---|---|---|---|---|---|---|---|")

    def sampled(out: Path, **options: Any) -> Sampled:
        close_engines()
        done = sample(
            **{"model": given.model, "prompts": given.prompts, "seed": 1, "max_tokens": given.max_tokens, "out": out}
            | {"engine": given.engine, "force": True}
            | options
        )
        assert isinstance(done, Sampled)
        return done

    with tempfile.TemporaryDirectory() as folder:
        made, stepped, scored = (Path(folder, name) for name in ("made", "stepped", "scored"))

        def report(name: str, usage: Usage | None) -> None:
            score(made, out=scored, force=True)
            rows, tokens, distinct, each, live, right = measured(RolloutFile(scored).read())
            share = None if usage is None else usage.cached_share
            print(
                f"| {name} | {rows:.1f} | {tokens:.0f} | {distinct:.1f} | {each:.1f} | {live:.0%} | {right:.0%} "
                f"| {'not known' if share is None else f'{share:.0%}'} |",
                flush=True,
            )

        for name, (strategy, settings) in STRATEGIES.items():
            report(name, sampled(made, n=30, strategy=strategy, settings=settings).usage)
        if given.vine:
            sampled(made, n=2)
            score(made, scorer="steps", out=stepped, force=True)
            report("vine, 2 rollouts, 7 probes of 2 states",
                   sampled(made, rollouts=stepped, strategy="vine", settings=VINE).usage)  # fmt: skip


if __name__ == "__main__":
    main()
