"""How many tokens have to be generated for a trajectory that is not there yet: branching strategies against independent sampling.

    python benchmarks/branching.py [--model builtin:tiny] [--prompts 64] [--max-tokens 64]

Every strategy makes about 30 rollouts a prompt. Counted are the tokens generated (a branch has its first tokens from its parent), and the
distinct responses of a group; besides, the share of groups whose rewards differ, and of wrong answers among the distinct ones.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.sample import sample
from apportion.stages.score import score

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "independent, n = 30": ("independent", {}),
    "branch, 6 trees, 2 forks of 2": ("branch", {"initial": 6, "forks": 2, "continuations": 2}),
    "branch, 2 trees, 7 forks of 2": ("branch", {"initial": 2, "forks": 7, "continuations": 2}),
    "branch_schedule, 4·3·3 each 8 tokens": ("branch_schedule", {"factors": [4, 3, 3], "length": 8}),
    "rose, epsilon 0.5, rao": ("rose", {"epsilon": 0.5, "metric": "rao"}),
}


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
    given = parser.parse_args()
    print(
        "| strategy | rollouts | tokens generated | distinct | tokens a distinct one | live groups | right, of distinct |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (strategy, settings) in STRATEGIES.items():
            made, scored = Path(folder, "made"), Path(folder, "scored")
            sample(
                model=given.model, prompts=given.prompts, n=30, seed=1, max_tokens=given.max_tokens, strategy=strategy,
                settings=settings, out=made, force=True,
            )  # fmt: skip
            score(made, out=scored, force=True)
            rows, tokens, distinct, each, live, right = measured(RolloutFile(scored).read())
            print(
                f"| {name} | {rows:.1f} | {tokens:.0f} | {distinct:.1f} | {each:.1f} | {live:.0%} | {right:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
