"""What a command reads and what it writes are different places."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.stages.core.options import typed_values
from apportion.stages.core.table import commands
from typer.testing import Result

Cli = Callable[..., Result]
READ = {"for", "from", "earlier"}  # options with a path that is read


def test_every_option_with_a_path_is_read_or_is_an_output() -> None:
    for command in commands().values():
        for key, option in command.options().items():
            if option.type in (Path, Path | None, list[Path], list[Path] | None):
                assert option.output is not None or option.positional or key in READ, f"{command.name} {key}"
            says_so = any(
                word in option.help
                for word in ("to write", "Write the ", "lso write", "lso save", "Folder for all outputs")
            )
            assert (option.output is not None) == says_so, f"{command.name} {key}"


@pytest.fixture
def place(tmp_path: Path, scored_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: scored.parquet, a data set `data`, a checkpoint `policy`, a link to the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.parquet").write_bytes(scored_file.read_bytes())
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/config.json").write_text("{}")
    (tmp_path / "link").symlink_to("scored.parquet")
    (tmp_path / "report.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("eval policy --keep x -o x", "x: named for --keep and for --out; choose two names"),
        ("eval policy --keep ./x -o x", "x: named for --keep and for --out"),
        ("eval policy --keep x/y -o x", "x/y and x: both are written, and one lies in the other"),
        ("inspect scored.parquet --svg x --html x", "x: named for --svg and for --html"),
        ("inspect scored.parquet --svg link --force", "link: an input, which --force does not replace"),
        ("train scored.parquet -o . --force", ".: the input scored.parquet lies in it"),
        ("train data -o data --force", "data: an input, which --force does not replace"),
        ("train data/a.parquet -o data --force", "data: the input data/a.parquet lies in it"),
        ("train scored.parquet --model policy -o policy --force", "policy: an input"),
        ("train scored.parquet --reference ./policy -o policy --force", "policy: an input"),
        ("score scored.parquet --set memory=report.json -o report.json --force", "report.json: an input"),
        ("eval curve report.json -o report.json --force", "report.json: an input, which --force does not replace"),
        (
            "eval rollouts scored.parquet -o scored.parquet --force",
            "scored.parquet: an input, which --force does not replace",
        ),
        (
            "remember scored.parquet -o scored.parquet --force",
            "scored.parquet: an input, which --force does not replace",
        ),
        ("remember scored.parquet --earlier m -o m --force", "m: an input, which --force does not replace"),
        ("assign-credit data --method grpo -o data --force", "data: an input, which --force does not replace"),
        ("merge data -o data/all.parquet", "data/all.parquet: lies in data, whose files are read"),
        (
            "merge data scored.parquet -o scored.parquet --force",
            "scored.parquet: an input, which --force does not replace",
        ),
        ("merge data scored.parquet -o link --force", "link: an input, which --force does not replace"),
    ],
)
def test_what_would_be_lost_is_said_before_any_work(place: Path, cli: Cli, line: str, told: str) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    result = cli(*line.split())
    assert result.exit_code == 2, result.output
    assert f"error: {told}" in result.stderr
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_train_keeps_the_working_directory(place: Path, cli: Cli) -> None:
    (place / "work").mkdir()
    os.chdir(place / "work")
    Path("notes.txt").write_text("mine")
    result = cli("train", "../scored.parquet", "-o", ".", "--force")
    assert (result.exit_code, Path("notes.txt").read_text()) == (2, "mine")
    assert "the working directory is in it" in result.stderr


def test_rollouts_may_be_replaced_by_the_same_with_more_in_them(place: Path, cli: Cli) -> None:
    assert cli("tree-build", "scored.parquet", "-o", "scored.parquet", "--force").exit_code == 0
    assert cli("assign-credit", "link", "--method", "grpo", "-o", "scored.parquet", "--force").exit_code == 0
    assert (place / "link").is_symlink()


def test_a_tilde_is_the_home_wherever_a_place_is_named(place: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    home = place / "home"
    home.mkdir()
    (home / "scored.parquet").write_bytes((place / "scored.parquet").read_bytes())
    monkeypatch.setenv("HOME", str(home))
    assert cli("tree-build", "~/scored.parquet", "--out=~/tree.parquet").exit_code == 0
    assert (home / "tree.parquet").is_file()
    assert cli("merge", "~/tree.parquet", "--out=~/merged.parquet").exit_code == 0
    recipe = home / "small.yaml"
    recipe.write_text("steps: [tree-build: {rollouts: ~/scored.parquet, out: tree.parquet}]")
    assert cli("run", "~/small.yaml", "--dir=~/run").exit_code == 0
    assert (home / "run/tree.parquet").is_file()
    assert not (place / "~").exists()
    missing = cli("train", "~/tree.parquet", "--model=~/none", "--out=~/policy")
    assert missing.exit_code in (2, 3)
    assert "~" not in missing.stderr
    given = typed_values({"memory": (Path, None), "text": (str, "")}, {"memory": "~/m", "text": "~/m"}, "scorer 'x'")
    assert given == {"memory": home / "m", "text": "~/m"}
