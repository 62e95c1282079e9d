"""Directories as data sets: one stage over many files, in one process or in several."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        rewards = [1.0, 0.0, float(number % 2)]
        batch = rollouts_of(rewards, tokens=[[1, 2, number], [1, 3], [1, 2, 9]])
        names = {
            column: [f"{number}-{each}" for each in batch.strings(column)] for column in ("rollout_id", "group_id")
        }
        write_rollouts(folder / f"{number}.parquet", [batch.with_columns(names)], Provenance())
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_directory_is_mapped_file_by_file(
    workers: int, cli: Callable[..., Result], data_set: Path, tmp_path: Path
) -> None:
    trees, credit = tmp_path / "trees", tmp_path / "credit"
    assert cli("tree-build", data_set, "-o", trees, "--workers", workers).exit_code == 0
    result = cli("assign-credit", trees, "--method", "tempo", "-o", credit, "--workers", workers, "--json")
    assert result.exit_code == 0, result.output
    assert '"rollouts": 15' in result.stdout
    assert sorted(path.name for path in credit.iterdir()) == [f"{number}.parquet" for number in range(5)]
    for number in range(5):
        one = tmp_path / f"one-{number}.parquet"
        assert cli("assign-credit", trees / f"{number}.parquet", "--method", "tempo", "-o", one).exit_code == 0
        assert pq.read_table(credit / f"{number}.parquet").equals(pq.read_table(one))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_in_one_file_leaves_nothing(
    workers: int, cli: Callable[..., Result], data_set: Path, tmp_path: Path
) -> None:
    broken = data_set / "3.parquet"
    broken.write_bytes(broken.read_bytes()[:-40])
    before = sorted(tmp_path.iterdir())
    result = cli("tree-build", data_set, "-o", tmp_path / "trees", "--workers", workers)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {broken}")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_directory_cannot_go_into_a_pipe(cli: Callable[..., Result], data_set: Path) -> None:
    result = cli("tree-build", data_set, "-o", "-")
    assert result.exit_code == 2
    assert "name a directory" in result.stderr


def test_workers_are_at_least_one(cli: Callable[..., Result], data_set: Path, tmp_path: Path) -> None:
    result = cli("tree-build", data_set, "-o", tmp_path / "trees", "--workers", 0)
    assert result.exit_code == 2
    assert "workers" in result.stderr


KILLER = """
import os
from apportion.stages.assign_credit.kind import credit_method

@credit_method(source="test", granularity="rollout", methodology="monte-carlo", evidence="guess")
def dies(credit):
    os._exit(9)
"""


def test_a_worker_that_is_killed_is_one_line_and_nothing_is_written(data_set: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "killer.py"
    plugin.write_text(KILLER)
    words = [
        "--plugin",
        plugin,
        "assign-credit",
        data_set,
        "--method",
        "dies",
        "-o",
        tmp_path / "out",
        "--workers",
        "2",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "apportion", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: a worker process was ended from outside")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
