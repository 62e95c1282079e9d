"""docs/walkthroughs.md: the files that it shows and the commands between them, run in order as they stand."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Cli = Callable[..., Result]
PAGE = (Path(__file__).parent.parent / "docs" / "walkthroughs.md").read_text()
FILE = re.compile(r"This is `([\w./-]+)`:\n\n```\w*\n(.*?)```", re.DOTALL)
pytestmark = pytest.mark.usefixtures("forget_plugins")


def section(title: str) -> str:
    """The section of the page with that title."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def write_files(text: str) -> None:
    """Write the files that a section shows."""
    for name, content in FILE.findall(text):
        Path(name).write_text(content)


def commands(text: str) -> list[list[str]]:
    """The commands of a section's shell blocks, without the first word."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("apportion ")]


def test_prompts_and_a_reward_become_a_picture_in_six_commands(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = section("From your prompts and your reward to a picture")
    write_files(text)
    lines = commands(text)
    assert len(lines) == 6
    for words in lines:
        result = cli(*words)
        assert result.exit_code == 0, (words, result.stderr)
    credit = RolloutFile(Path("credit.parquet"))
    rollouts = credit.read()
    assert len(rollouts) == 32
    texts = rollouts.strings("text")
    assert rollouts.numbers("reward").tolist() == [min(each.count("="), 3) / 3 for each in texts]
    assert rollouts.numbers("rewards.brief").tolist() == [float(len(each) <= 60) for each in texts]
    assert {"token.advantage_grpo", "token.advantage_tempo"} <= set(rollouts.paths)
    assert "plugin/reward.py" in credit.provenance.history[1].inputs
    assert "Use 3, 4 and 5 to make 12." in Path("credit.html").read_text()
