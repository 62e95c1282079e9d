"""Peak memory of assign-credit on files of 1, 4 and 16 times the size, each in a process of its own.

python benchmarks/memory.py [--tokens 1000000]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.tree_build import tree_build
from pipeline import synthetic


def parts(tokens: int, times: int) -> list[Rollouts]:
    """`times` batches of about `tokens` tokens each, with ids of their own."""
    batch = synthetic(tokens)
    return [
        batch.with_columns(
            {name: [f"{part}/{each}" for each in batch.strings(name)] for name in ("rollout_id", "group_id")}
        )
        for part in range(times)
    ]


def peak_of(command: list[str]) -> int:
    """Peak resident memory of a command, bytes."""
    watch = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    found = subprocess.run([sys.executable, "-c", watch, *command], check=True, capture_output=True, text=True)
    return int(found.stdout.split()[-1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"{'tokens':>12s} {'file, MB':>9s} {'peak, MB':>9s}")
        for times in (1, 4, 16):
            raw, tree = folder / "raw.parquet", folder / "tree.parquet"
            counts = write_rollouts(raw, parts(given.tokens, times), Provenance(), force=True)
            tree_build(raw, out=tree, force=True)
            apportion = [sys.executable, "-m", "apportion"]
            command = [
                *apportion,
                "assign-credit",
                str(tree),
                "--method",
                "tempo",
                "-o",
                str(folder / "credit.parquet"),
            ]
            peak = peak_of([*command, "--force"])
            print(f"{counts['tokens']:12,} {tree.stat().st_size / 1e6:9.1f} {peak / 1e6:9.1f}")


if __name__ == "__main__":
    main()
