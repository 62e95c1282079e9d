"""Fixtures shared by all rooms."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.cli.main import app
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import CliRunner, Result

# The models here are so small that a second thread mostly waits; on a busy machine it does so twenty times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Run a command line in this process. A fault gives its exit code and line; a bug is raised."""
    runner = CliRunner()

    def run(*arguments: object) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


@pytest.fixture
def scored_file(tmp_path: Path) -> Path:
    """The rollouts of TEMPO's worked example, on disk."""
    path = tmp_path / "scored.parquet"
    tokens = [[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 4], [5, 7, 9, 3, 2]]
    write_rollouts(path, [rollouts_of([1.0, 0.0, 1.0, 0.0], tokens=tokens)], Provenance())
    return path
