"""One `assign-credit` with several methods against a command a method, in one run.

    python benchmarks/several_methods.py [--tokens 4000000] [--methods grpo,rloo,dr_grpo,tempo] [--repeats 3]

Rollouts are synthetic, with a prefix tree. The commands each read the file that the one before them wrote, with `--as METHOD`, as
one has to without the list; the last file has the same columns. `apart` writes a file a method from the same source instead. Both are
in this process, so that no start of Python counts. Given are medians, and how many times as long the commands take.
"""

import argparse
import tempfile
from pathlib import Path

from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit import assign_credit
from apportion.stages.structure.prefix_tree import add_prefix_tree
from pipeline import best, synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--methods", default="grpo,rloo,dr_grpo,tempo")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    names = given.methods.split(",")
    rollouts = add_prefix_tree(synthetic(given.tokens))
    print(f"{len(rollouts):,} rollouts, {rollouts.num_tokens:,} tokens; median of {given.repeats}")
    with tempfile.TemporaryDirectory() as folder:
        source, together = Path(folder, "source.parquet"), Path(folder, "together.parquet")
        write_rollouts(source, [rollouts], Provenance())
        files = [Path(folder, f"{name}.parquet") for name in names]

        def one_pass() -> None:
            assign_credit(source, method=names, out=together, force=True)

        def in_turn() -> None:
            for before, name, out in zip([source, *files], names, files, strict=False):
                assign_credit(before, method=name, column=name, out=out, force=True)

        def apart() -> None:
            for name, out in zip(names, files, strict=True):
                assign_credit(source, method=name, column=name, out=out, force=True)

        seconds = {"one pass": best(one_pass, given.repeats), "apart": best(apart, given.repeats)}
        seconds["in turn"] = best(in_turn, given.repeats)
        columns = [f"token.advantage_{name}" for name in names]
        first, last = RolloutFile(together).read(), RolloutFile(files[-1]).read()
        assert all(first.arrow(column).equals(last.arrow(column)) for column in columns)
    print(f"{'assign-credit':<14}{'s':>8}{'times one pass':>16}")
    for name, each in seconds.items():
        print(f"{name:<14}{each:>8.3f}{each / seconds['one pass']:>16.2f}", flush=True)


if __name__ == "__main__":
    main()
