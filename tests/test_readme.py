"""What README.md shows is so."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from apportion.formats.recipes import recipe_names
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.core.table import commands
from typer.testing import Result

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_commands_by_hand_run_as_they_stand(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (chain,) = (block for block in blocks("sh") if block.startswith("apportion sample --prompts"))
    for line in chain.splitlines():
        result = cli(*shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    (query,) = blocks("sql")
    assert len(duckdb.connect().execute(query).fetchall()) == 5


def test_every_method_recipe_and_command_is_in_it() -> None:
    rows = re.findall(r"^\| (.*?) \|", README, flags=re.MULTILINE)
    listed = set(re.findall(r"`([^`]+)`", " ".join(rows)))
    assert {method.name for method in METHODS} <= listed
    assert set(recipe_names()) <= listed
    first_words = {name.split()[0] for name in listed}
    assert {name.split()[0] for name in commands()} <= first_words


def test_the_pictures_are_there() -> None:
    for path in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (Path(__file__).parent.parent / path).is_file(), path
