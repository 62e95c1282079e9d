"""Every method's credit on the same rollouts, compared pair by pair.

    python benchmarks/agreement.py [--prompts 64] [--n 8] [--model builtin:tiny]

Rollouts of the built-in pair with steps, states, tree, entropies, a format reward, and probes: from every step boundary, from
unlikely tokens, and greedily from the prompt. Printed is a Markdown table: above the diagonal the Spearman correlation of token
credit, below it how often two methods agree on the sign where both are not 0. There is no critic and no judge of steps here;
measured values stand in for them: `token.value` is the step's `step.value` on all its tokens, `step.reward` how much `step.value`
changes over the step, and the last step's kind is `answer`.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from apportion.formats.errors import ApportionError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.segments import Array, Segments
from apportion.stages.assign_credit import assign_credit
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.diff.agreement import ranks


def rollouts(folder: Path, model: str, prompts: int, n: int) -> Path:
    """A file with everything that can be measured on it."""
    common = ["--max-tokens", "64", "--seed", "1"]
    vine = ["sample", "--from", "IN", "--strategy", "vine", "--model", model, *common]
    steps: list[list[str]] = [
        ["sample", "--model", model, "--prompts", str(prompts), "-n", str(n), *common],
        ["score", "--with", "steps", "--set", "by=newline"],
        [*vine, "--set", "k=8"],
        [*vine, "--set", "k=8", "--set", "at=unlikely", "--round", "1"],
        [*vine, "--set", "k=1", "--set", "max_states=1", "--temperature", "0", "--round", "2"],
        ["score", "--with", "verify"],
        ["score", "--with", "verify", "--set", "column=rewards.right"],
        ["score", "--with", "pattern", "--set", r"regex=([^\n]+=\d+\n?){3}"],
        ["score", "--with", "states", "--set", "window=line"],
        ["score", "--with", "entropy"],
        ["score", "--with", "values"],
        ["tree-build"],
    ]
    made: Path | None = None
    for number, step in enumerate(steps):
        out = folder / f"{number}.parquet"
        words = [str(made) if word == "IN" else word for word in step]
        if made is not None and "IN" not in step:
            words.insert(1, str(made))
        subprocess.run([sys.executable, "-m", "apportion", *words, "-o", str(out)], check=True)
        made = out
    assert made is not None
    return with_stand_ins(made, folder / "all.parquet")


def with_stand_ins(source: Path, out: Path) -> Path:
    """The file with the columns that a critic and a judge would write."""
    file = RolloutFile(source)

    def batches() -> Iterator[Rollouts]:
        for batch in file.batches():
            value, start, end = (batch.ragged(f"step.{leaf}") for leaf in ("value", "start", "end"))
            present = np.ones(len(batch), bool) if value.present is None else value.present
            steps = value.segments
            last = steps.positions == steps.spread(steps.sizes) - 1
            following = np.append(value.values[1:], 0.0)
            following[last] = steps.spread(batch.numbers("reward"))[last]
            inside = Segments.of_sizes((end.values - start.values).astype(np.int64))
            critic = np.zeros(batch.num_tokens)
            first = batch.tokens.starts[steps.ids] + start.values
            critic[inside.positions + inside.spread(first)] = inside.spread(value.values)
            kinds = iter(np.where(last, "answer", "step").tolist())
            yield batch.with_columns(
                {
                    "token.value": batch.token_ids.with_values(critic),
                    "step.reward": Ragged(following - value.values, value.offsets, present),
                    "step.kind": [
                        [next(kinds) for _ in range(size)] if here else None
                        for size, here in zip(steps.sizes.tolist(), present.tolist(), strict=True)
                    ],
                }
            )

    write_rollouts(out, batches(), file.provenance)
    return out


def credit_of(source: Path, method: str, out: Path) -> Array:
    """[T] credit of every policy token that got any, in the file's order."""
    assign_credit(source, method=method, out=out, force=True)
    rollouts = RolloutFile(out).read(["rollout_id", "group_id", "token.id", "token.mask", "token.advantage"])
    column = rollouts.ragged("token.advantage")
    present = np.ones(len(rollouts), bool) if column.present is None else column.present
    return column.values[rollouts.mask[rollouts.tokens.spread(present)]].astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--n", type=int, default=8)
    given = parser.parse_args()
    found: dict[str, Array] = {}
    left: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        source = rollouts(Path(scratch), given.model, given.prompts, given.n)
        for method in METHODS:
            try:
                values = credit_of(source, method.name, Path(scratch, "credit.parquet"))
                if np.ptp(values) > 0:
                    found[method.name] = values
                else:
                    left[method.name] = "all its credit is 0 on these rollouts"
            except ApportionError as error:
                left[method.name] = str(error).replace(scratch, "").lstrip("/")
    names = list(found)
    credit = np.stack([found[name] for name in names])
    rank = np.corrcoef(np.stack([ranks(row) for row in credit]))
    print(f"{credit.shape[1]:,} tokens\n")
    print("| | " + " | ".join(f"{number + 1}" for number in range(len(names))) + " |")
    print("|---|" + "---|" * len(names))
    for row, name in enumerate(names):
        cells = []
        for column in range(len(names)):
            both = (credit[row] != 0) & (credit[column] != 0)
            same = float((np.sign(credit[row]) == np.sign(credit[column]))[both].mean()) if both.any() else float("nan")
            cells.append("" if row == column else f"{rank[row, column]:.2f}" if column > row else f"{same:.0%}")
        print(f"| {row + 1} {name} | " + " | ".join(cells) + " |")
    print()
    for name, why in left.items():
        print(f"- {name}: {why}")


if __name__ == "__main__":
    main()
