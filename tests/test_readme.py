"""What README.md shows is so."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.stages.core.kinds import kinds
from typer.testing import Result

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [code for name, code in re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL) if name == language]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def commands_of(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("apportion")]


def test_the_commands_by_hand_run_as_they_stand(
    cli: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline, and then the comparison of two methods on its rollouts, whose numbers are those on the page."""
    monkeypatch.chdir(place)
    pipeline, compared = (
        next(block for block in blocks("sh") if block.startswith(begin))
        for begin in ("apportion sample --prompts 64", "apportion assign-credit scored.parquet --method grpo")
    )
    said = ""
    for words in (*commands_of(pipeline), *commands_of(compared)):
        result = cli(*words)
        assert result.exit_code == 0, f"{words}\n{result.output}"
        said = result.stdout
    (table,) = (block for block in blocks("") if block.lstrip().startswith("tokens"))
    for line in table.splitlines():
        assert line.rstrip() in said, line


def test_the_python_blocks_run(cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first makes a file that `upgrade` takes and that many methods can be run on; the second gives credit."""
    monkeypatch.chdir(tmp_path)
    own, loop = blocks("python")
    exec(own, {})
    assert cli("upgrade", "mine.parquet", "-o", "rollouts.parquet").exit_code == 0
    assert cli("validate", "rollouts.parquet").exit_code == 0
    assert "grpo" in cli("list", "methods", "--for", "rollouts.parquet").stdout.partition("\n")[0]
    made: dict = {}
    exec(loop, made)
    assert made["credit"].shape == made["ids"].shape
    assert made["credit"][0, 0] > 0 > made["credit"][1, 1]


def test_it_is_short_and_names_at_most_ten_entries_of_a_kind() -> None:
    assert README.count("\n") < 180
    tables = re.findall(r"^\| .*\|$", README, flags=re.MULTILINE)
    named = re.findall(r"\]\(docs/(\w+)/(\w+)\.md\)", "\n".join(tables))
    for plural, kind in kinds().items():
        own = {name for folder, name in named if folder == plural}
        assert all(name in kind for name in own)
        assert len(own) <= 10
    assert f"{len(list(kinds()['methods']))} published credit methods" in README
