"""What it saves the transformers engine to keep the keys and values of rollouts that are continued, in one run.

    python benchmarks/continued.py [--model builtin:tiny] [--task arithmetic] [--prompts 32] [--max-tokens 64] [--repeats 3] [--only lake rose …]

Games are played turn by turn, tree strategies come back to what they began: every call of the engine has prefixes that begin with what an
earlier one computed. Each is sampled with room for 1 GiB of it and with none, in turn. Given are the seconds within the engine, medians,
and how many of the prefix tokens were not computed. The samples are the same but for rounding.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from apportion.stages.models.transformers import _engine as transformers_engine
from apportion.stages.models.transformers._engine import TransformersEngine
from apportion.stages.sample import sample
from apportion.stages.sample._failures import Sampled

ROOM = 1 << 30
LAKE = {"task": "env/frozen_lake", "n": 16, "max_tokens": 460, "temperature": 2.0}
GAMES: dict[str, dict[str, Any]] = {
    "lake, 12 turns of a token": {"task_settings": {"size": 3, "render": "compact", "actions": "modulo", "turn_tokens": 1}},
    "lake in words, 8 turns of 4 tokens": {"task_settings": {"size": 3, "turn_tokens": 4, "max_turns": 8}, "n": 4, "max_tokens": 900},
}  # fmt: skip
TREES: dict[str, dict[str, Any]] = {
    "rose, n = 16": {"n": 16, "strategy": "rose"},
    "branch": {"strategy": "branch"},
    "branch_schedule": {"strategy": "branch_schedule"},
    "truncate": {"strategy": "truncate"},
}


class Clock:
    """Seconds within the engine."""

    def __init__(self) -> None:
        self.seconds = 0.0
        generate = TransformersEngine.generate

        def timed(engine: TransformersEngine, *given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            made = generate(engine, *given, **named)
            self.seconds += time.perf_counter() - started
            return made

        TransformersEngine.generate = timed  # pyright: ignore[reportAttributeAccessIssue]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--task", default="arithmetic", help="of the strategies; games are FrozenLake")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64, help="of the strategies")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="what a name begins with")
    given = parser.parse_args()
    clock = Clock()
    cases = {name: LAKE | each for name, each in GAMES.items()}
    cases |= {name: {"task": given.task, "max_tokens": given.max_tokens} | each for name, each in TREES.items()}
    if given.only:
        cases = {name: each for name, each in cases.items() if name.startswith(tuple(given.only))}

    def measured(case: dict[str, Any], room: int, out: Path) -> tuple[float, float]:
        transformers_engine.KEPT_BYTES = room
        before = clock.seconds
        fixed = {"model": given.model, "prompts": given.prompts, "seed": 1, "engine": "transformers"}
        done = sample(**fixed | case, out=out, force=True)
        assert isinstance(done, Sampled)
        assert done.usage is not None
        return clock.seconds - before, done.usage.cached_share or 0.0

    print("| | anew, s | kept, s | ratio | prefix tokens not computed: anew | kept |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rollouts.parquet")
        for name, case in cases.items():
            measured(case, ROOM, out)
            pairs = [(measured(case, 0, out), measured(case, ROOM, out)) for _ in range(given.repeats)]
            anew, kept = (statistics.median(pair[place][0] for pair in pairs) for place in (0, 1))
            shares = [f"{share:.0%}" for _, share in pairs[0]]
            print(f"| {name} | {anew:.2f} | {kept:.2f} | {anew / kept:.2f} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
