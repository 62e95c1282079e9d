"""What a later version or another tool wrote into a file comes out of every stage as it went in."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit.kind import METHODS
from typer.testing import Result

Cli = Callable[..., Result]


def leaf(rollouts: Rollouts, axis: str, offset: float) -> pa.Array:
    """A value for every place of the ruler `axis` is on; the third list is missing."""
    sizes = rollouts.arrow(axis).value_lengths().to_pylist()
    lists = [[place + offset for place in range(size or 0)] for size in sizes]
    lists[2] = None  # type: ignore[call-overload]
    return pa.array(lists, pa.list_(pa.float64()))


@pytest.fixture(scope="module")
def annotated(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list]]:
    """A credited file with columns nobody knows on every ruler, on a ruler nobody knows, and their values."""
    rollouts = RolloutFile(chain / "credit.parquet").read()
    rows = len(rollouts)
    steps = [[0, size // 2] if size else [] for size in rollouts.tokens.sizes.tolist()]
    ends = [[size // 2, size] if size else [] for size in rollouts.tokens.sizes.tolist()]
    rollouts = rollouts.with_columns({"step.start": steps, "step.end": ends})
    extra = {
        "note": pa.array([None, *("ä" * (row % 3) for row in range(1, rows))]),
        "rewards.format": pa.array([None, *(row / 7 for row in range(1, rows))], pa.float64()),
        "nested": pa.array([[{"a": row, "b": [None, "x"]}] for row in range(rows)]),
        "token.noise": leaf(rollouts, "token.id", 0.1),
        "token.advantage_other": pa.array([None] * rows, pa.list_(pa.float32())),
        "step.noise": leaf(rollouts, "step.start", 0.2),
        "step.word": pa.array([["w"] * len(step) for step in steps]),
        "node.noise": leaf(rollouts, "node.id", 0.3),
        "wire.src": pa.array([list(range(row % 4)) for row in range(rows)], pa.list_(pa.int64())),
        "wire.dst": pa.array([None if row == 1 else ["to"] * (row % 4) for row in range(rows)]),
    }
    path = tmp_path_factory.mktemp("annotated") / "annotated.parquet"
    pq.write_table(rollouts.with_columns(extra).table, path, row_group_size=20)
    return path, {name: array.to_pylist() for name, array in extra.items()}


NEEDS_NO_MORE = [method.name for method in METHODS if set(method.needs) <= {"reward", "node.id", "token.logprob"}]
STAGES = [
    "tree-build",
    "score",
    "score --set truncated=0.5",
    *(f"assign-credit --method {name}" for name in NEEDS_NO_MORE if name in ("grpo", "rloo", "tempo")),
    "assign-credit --method grpo --as new",
    "upgrade",
    "filter --where length>=0",
    "merge",
]


@pytest.mark.parametrize("stage", STAGES)
def test_unknown_columns_survive(stage: str, annotated: tuple[Path, dict[str, list]], tmp_path: Path, cli: Cli) -> None:
    path, extra = annotated
    command, *options = stage.split()
    result = cli(command, path, *options, "-o", tmp_path / "out.parquet")
    assert result.exit_code == 0, result.output
    found = RolloutFile(tmp_path / "out.parquet").read()
    for name, values in extra.items():
        assert found.arrow(name).to_pylist() == values, name


def test_they_survive_the_whole_chain(annotated: tuple[Path, dict[str, list]], tmp_path: Path, cli: Cli) -> None:
    path, extra = annotated
    for number, stage in enumerate(STAGES):
        command, *options = stage.split()
        out = tmp_path / f"{number}.parquet"
        assert cli(command, path, *options, "-o", out).exit_code == 0
        path = out
    digests = {
        line.split()[0]
        for line in cli(
            "digest", annotated[0], path, *(word for name in extra for word in ("--columns", name))
        ).stdout.splitlines()
    }
    assert len(digests) == 1


def test_they_do_not_disturb_what_reads(annotated: tuple[Path, dict[str, list]], cli: Cli, tmp_path: Path) -> None:
    path, _ = annotated
    for line in ("validate", "eval rollouts", "log", "digest"):
        assert cli(*line.split(), path).exit_code == 0, line
    result = cli("train", path, "--lr", "1e-4", "--device", "cpu", "-o", tmp_path / "policy")
    assert result.exit_code == 0, result.output
