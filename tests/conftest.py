"""Fixtures shared by all rooms."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apportion.cli.main import app
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.core import plugin_files
from apportion.stages.core.kinds import kinds
from typer.testing import CliRunner, Result

# The models here are so small that a second thread mostly waits; on a busy machine it does so twenty times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "peers: compares with another library's own functions, where it is installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `long` run only where `-m` names the mark. Those with a real model come first, so that one worker has all
    of them, and the model is made once."""
    items.sort(key=lambda item: item.get_closest_marker("model") is None)
    if "long" in str(config.getoption("markexpr")):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Run a command line in this process. A fault gives its exit code and line; a bug is raised."""
    runner = CliRunner()

    def run(*arguments: object) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


@pytest.fixture
def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests load plugins into this process: take them out again."""
    monkeypatch.setattr(plugin_files, "_loaded", {})
    yield
    for each in kinds().values():
        for name in list(each.brought_by):
            each.remove(name)


@pytest.fixture
def scored_file(tmp_path: Path) -> Path:
    """The rollouts of TEMPO's worked example, on disk."""
    path = tmp_path / "scored.parquet"
    tokens = [[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 4], [5, 7, 9, 3, 2]]
    write_rollouts(path, [rollouts_of([1.0, 0.0, 1.0, 0.0], tokens=tokens)], Provenance())
    return path


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the real chain ran: rollouts, tree, scored, tempo and credit (grpo beside it), `.parquet` each.

    For reading only. Some responses are truncated, some groups dead.
    """
    folder = tmp_path_factory.mktemp("chain")
    runner = CliRunner()
    for line in (
        "sample --prompts 12 -n 4 --seed 3 --max-tokens 32 --device cpu -o rollouts.parquet",
        "tree-build rollouts.parquet -o tree.parquet",
        "score tree.parquet --set truncated=0.25 -o scored.parquet",
        "assign-credit scored.parquet --method tempo -o tempo.parquet",
        "assign-credit tempo.parquet --method grpo --as grpo -o credit.parquet",
    ):
        words = [f"{folder}/{word}" if word.endswith(".parquet") else word for word in line.split()]
        result = runner.invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}: {result.output}"
    return folder
