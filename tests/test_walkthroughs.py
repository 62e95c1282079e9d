"""docs/walkthroughs.md: the files that it shows and the commands between them, run in order as they stand."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
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


def process(*words: str) -> "subprocess.Popen[str]":
    """A shell command in the current folder, with this interpreter's apportion."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


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


def test_a_recipe_in_ci_is_killed_goes_on_and_meets_its_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(section("A recipe in CI, with gates"))
    killed = process("sh", "-c", "exec apportion run ci.yaml")
    for _ in range(600):
        if Path("runs/nightly/scored.parquet").exists() or killed.poll() is not None:
            break
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    said, _ = (again := process("sh", "ci.sh")).communicate()
    assert again.returncode == 0, said
    lines = said.splitlines()
    assert lines[0] == "up to date\tsample\truns/nightly/rollouts.parquet"
    assert lines[-1] == "all gates passed"
    assert [step["command"] for step in json.loads(Path("run.json").read_text())["by_step"]] == [
        "sample", "score", "validate", "assign-credit", "eval rollouts",
    ]  # fmt: skip
    said, told = (gated := process("sh", "ci.sh", "--set", "floor=0.99")).communicate()
    assert gated.returncode == 5
    assert said.splitlines()[-1].startswith("ci.yaml, step 5 (eval rollouts): gate: pass@1 is ")
    assert told.splitlines()[-1].startswith("error: ci.yaml, step 5 (eval rollouts): gate: pass@1 is ")
    assert {line.split("\t")[0] for line in said.splitlines()[:4]} == {"up to date"}
