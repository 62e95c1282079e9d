"""`apportion new`: the files it writes work as they are, and nobody's files are lost."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from apportion.stages.commands.new import What
from typer.testing import Result

KINDS = get_args(What)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an entry of each kind."""
    folder = tmp_path_factory.mktemp("new")
    code = "from apportion.plugin import run_command\n" + "".join(
        f"print(run_command('new', {kind!r}, 'my_{kind}', '--dir', {str(folder)!r}))\n" for kind in KINDS
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    return folder


def test_the_tests_it_writes_pass(written: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--doctest-modules", "."]
    ended = subprocess.run(command, cwd=written, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(list(written.glob("test_my_*.py"))) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_they_need_nothing_of_apportion_but_its_plugin_module(kind: str, written: Path) -> None:
    for name in (f"my_{kind}.py", f"test_my_{kind}.py"):
        text = (written / name).read_text()
        assert text.count("apportion.") == text.count("from apportion.plugin import")
        assert max(map(len, text.splitlines())) <= 120


def test_the_command_that_it_prints_knows_the_entry(written: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "apportion",
        "--plugin",
        str(written / "my_method.py"),
        "list",
        "my_method",
        "--json",
    ]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (found[0]["kind"], found[0]["options"]["scale"]["range"]) == ("credit method", "at least 0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method", "grpo"), "'grpo' is there already"),
        (("method", "my-method"), "a word in Python's syntax, such as my_method, got 'my-method'"),
        (("task", "class"), "got 'class'"),
        (("metod", "mine"), "did you mean 'method'"),
    ],
)
def test_a_bad_name_is_refused(
    words: tuple[str, str], message: str, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    result = cli("new", *words, "--dir", tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_files_that_exist_stay(tmp_path: Path, cli: Callable[..., Result]) -> None:
    (tmp_path / "test_mine.py").write_text("mine")
    result = cli("new", "scorer", "mine", "--dir", tmp_path)
    assert (result.exit_code, "--force overwrites it" in result.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]
    assert cli("new", "scorer", "mine", "--dir", tmp_path, "--force").exit_code == 0
    assert "mine" in (tmp_path / "test_mine.py").read_text() != "mine"
