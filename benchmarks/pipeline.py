"""tree-build and assign-credit against pyarrow alone: the same columns read and written, in one run.

    python benchmarks/pipeline.py [--tokens 4000000] [--repeats 5]

The floor is `pyarrow.parquet.read_table` + `write_table` with the same encodings; a stage does that, checks the
invariants, computes, and records its history.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apportion.formats.parquet import encoding_of, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.segments import Segments
from apportion.stages.assign_credit import assign_credit
from apportion.stages.tree_build import tree_build


def synthetic(tokens: int, group: int = 8, mean: int = 512, vocabulary: int = 50_000, seed: int = 0) -> Rollouts:
    """Groups of rollouts of log-normal length that share log-normal prefixes with their siblings."""
    rng = np.random.default_rng(seed)
    count = tokens // mean // group * group
    sizes = np.clip(rng.lognormal(np.log(mean) - 0.18, 0.6, count), 8, 8 * mean).astype(np.int64)
    segments = Segments.of_sizes(sizes)
    ids = rng.zipf(1.3, int(segments.offsets[-1])) % vocabulary
    for row in range(count):
        if row % group:
            shared = min(int(rng.lognormal(3.5, 1.0)), int(sizes[row]), int(sizes[row - 1]))
            start, before = segments.offsets[row], segments.offsets[row - 1]
            ids[start : start + shared] = ids[before : before + shared]
    table = pa.table(
        {
            "rollout_id": [f"r{row}" for row in range(count)],
            "group_id": [f"g{row // group}" for row in range(count)],
            "reward": rng.integers(0, 2, count).astype(np.float64),
        }
    )
    ragged = Ragged(ids.astype(np.int32), segments.offsets)
    return Rollouts(table).with_columns(
        {
            "token.id": ragged,
            "token.mask": ragged.with_values(np.ones(len(ids), bool)),
            "token.logprob": ragged.with_values(-rng.exponential(0.5, len(ids)).astype(np.float32)),
        }
    )


def best(run: Callable[[], object], repeats: int) -> float:
    """Median seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, tree, credit, copy = (Path(folder, name) for name in ("plain", "tree", "credit", "copy"))
        rollouts = synthetic(arguments.tokens)
        write_rollouts(plain, [rollouts], Provenance())
        tree_build(plain, out=tree)
        assign_credit(tree, method="tempo", out=credit)

        def pyarrow_alone(result: Path) -> float:
            """Read a stage's input, write its output's columns: the least any implementation must do."""
            produced = pq.read_table(result)

            def run(source: Path) -> None:
                pq.read_table(source, page_checksum_verification=True)
                pq.write_table(produced, copy, **encoding_of(produced))

            return best(lambda: run(plain if result == tree else tree), arguments.repeats)

        print(f"{len(rollouts):,} rollouts, {rollouts.num_tokens:,} tokens; median of {arguments.repeats}")
        print(f"{'stage':<28}{'stage s':>10}{'pyarrow s':>11}{'ratio':>8}{'Mtok/s':>9}")
        rows: list[tuple[str, Callable[[], object], Path]] = [
            ("tree-build", lambda: tree_build(plain, out=tree, force=True), tree),
            ("assign-credit grpo", lambda: assign_credit(tree, method="grpo", out=credit, force=True), credit),
            ("assign-credit rloo", lambda: assign_credit(tree, method="rloo", out=credit, force=True), credit),
            ("assign-credit tempo", lambda: assign_credit(tree, method="tempo", out=credit, force=True), credit),
        ]
        for name, run, result in rows:
            seconds, floor = best(run, arguments.repeats), pyarrow_alone(result)
            speed = rollouts.num_tokens / seconds / 1e6
            print(f"{name:<28}{seconds:>10.3f}{floor:>11.3f}{seconds / floor:>8.2f}{speed:>9.1f}")


if __name__ == "__main__":
    main()
