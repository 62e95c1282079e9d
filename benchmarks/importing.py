"""Peak memory and time of `import` on NeMo-RL's lines, in files of 1, 4 and 20 times the size, each in a process of its own.

python benchmarks/importing.py [--rows 400] [--tokens 4000]

Rows of a group lie together, or as far apart as the file allows (--scattered, by a field).
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import peak_of

SIZE = 8  # rows of a group


def write_lines(path: Path, rows: int, tokens: int, *, scattered: bool) -> None:
    """Synthetic rows of `tokens` tokens, all of them the policy's but the first three."""
    random = np.random.default_rng(1)
    groups = rows // SIZE
    with path.open("w", encoding="utf-8") as stream:
        for row in range(groups * SIZE):
            group = row % groups if scattered else row // SIZE
            ids = [1, 2, group, *random.integers(0, 50_000, tokens - 3).tolist()]
            logprobs = [0.0] * 3 + np.round(-random.random(tokens - 3), 4).tolist()
            record = {
                "content": ["", ""], "rewards": float(row % 2), "input_lengths": tokens, "token_ids": ids, "group": group,
                "token_loss_mask": [0] * 3 + [1] * (tokens - 3), "sample_loss_mask": 1.0, "advantages": [0.125] * tokens,
                "generation_logprobs": logprobs, "prev_logprobs": logprobs, "idx": row,
            }  # fmt: skip
            stream.write(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--scattered", action="store_true")
    given = parser.parse_args()
    print(f"{'rows':>7s} {'source, MB':>11s} {'peak, MB':>9s} {'seconds':>8s}")
    for times in (1, 4, 20):
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "train_data_step1.jsonl"
            write_lines(source, given.rows * times, given.tokens, scattered=given.scattered)
            grouping = ["--group-by", "group"] if given.scattered else ["--group-size", str(SIZE)]
            out = str(Path(scratch) / "out.parquet")
            begun = time.perf_counter()
            peak = peak_of([sys.executable, "-m", "apportion", "import", str(source), *grouping, "-o", out])
            seconds = time.perf_counter() - begun
            print(
                f"{given.rows * times:7,} {source.stat().st_size / 1e6:11.0f} {peak / 1e6:9.0f} {seconds:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
