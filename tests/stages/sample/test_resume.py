"""Sampling that is told to stop, and goes on; test_resume_everywhere.py has every strategy."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from apportion.formats.errors import ApportionError, Stopped, UsageError
from apportion.formats.parquet import STREAM, RolloutFile
from apportion.stages.core import plugin_files
from apportion.stages.core.plugin_files import load_plugin
from apportion.stages.models.policy import load_policy
from apportion.stages.rows.digest import digest
from apportion.stages.sample import sample
from apportion.stages.sample.kind import STRATEGIES

PLUGIN = '''
"""Independent sampling that sends itself a signal in the middle of its second batch."""
import os, signal
from apportion.stages.sample.kind import STRATEGIES, strategy

@strategy(source="test")
def stopped(context, *, number: int = int(signal.SIGTERM), of: str = "independent", after: int = 1, times: int = 1):
    """Stop in the batch after `after` others."""
    for index, batch in enumerate(STRATEGIES[of].function(context, rows_at_once=8)):
        if index == after and os.environ.get("STOP") == "1":
            for _ in range(times):
                os.kill(os.getpid(), number)
        yield batch
    if os.environ.get("STOP") == "end":
        os.kill(os.getpid(), number)
'''


def content(path: Path) -> object:
    return digest([path]).to_json()[0]["digest"]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(plugin_files, "_loaded", {})  # or worker processes of later tests would load it, too
    path = tmp_path / "stopping.py"
    path.write_text(PLUGIN)
    load_plugin(path)
    yield path
    STRATEGIES.remove("stopped")


@pytest.fixture
def run(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def of(out: str, *, stop: bool | str, **options: Any) -> None:
        monkeypatch.setenv("STOP", stop if isinstance(stop, str) else str(int(stop)))
        given: dict[str, Any] = {
            "prompts": 8,
            "n": 4,
            "seed": 3,
            "max_tokens": 24,
            "device": "cpu",
            "strategy": "stopped",
        }
        given.update(options, out=STREAM if out == "-" else tmp_path / out)
        sample(**given)

    return of


def test_what_was_whole_is_kept_and_the_rest_makes_the_same_file(run: Callable[..., None], tmp_path: Path) -> None:
    run("whole", stop=False)
    with pytest.raises(Stopped) as stopped:
        run("parts", stop=True)
    assert stopped.value.exit_code == 143
    assert "4 groups are in" in str(stopped.value)
    assert not (tmp_path / "parts").exists()
    assert len(RolloutFile(tmp_path / "parts.partial").read()) == 16
    with pytest.raises(UsageError, match="--resume goes on with it"):
        run("parts", stop=False)
    run("parts", stop=False, resume=True)
    assert not (tmp_path / "parts.partial").exists()
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert RolloutFile(tmp_path / "parts").provenance.history[-1].counts["groups"] == 8


def test_it_may_be_stopped_again(run: Callable[..., None], tmp_path: Path) -> None:
    run("whole", stop=False)
    for groups in (4, 8):
        with pytest.raises(Stopped, match=f"{groups} groups"):
            run("parts", stop=True, resume=True)
    run("parts", stop=True, resume=True)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_another_command_does_not_go_on_with_it(run: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run("parts", stop=True)
    with pytest.raises(UsageError, match=r"made by another command \(n was 4, now 2\)"):
        run("parts", stop=False, resume=True, n=2)
    run("parts", stop=False, resume=True, force=True, n=2)
    assert len(RolloutFile(tmp_path / "parts").read()) == 16
    assert not (tmp_path / "parts.partial").exists()


def test_stopped_before_anything_was_whole(run: Callable[..., None], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        run("parts", stop=True, settings={"after": 0})
    assert (tmp_path / "parts.partial").exists(), "the batch in work was finished"
    (tmp_path / "parts.partial").unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_fails_keeps_what_was_whole(run: Callable[..., None], tmp_path: Path) -> None:
    run("whole", stop=False)
    passes = iter(range(1000))

    def out_of_memory(*_: Any) -> None:
        if next(passes) > 30:  # in the second batch
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = load_policy("builtin:tiny", device="cpu").model.register_forward_pre_hook(out_of_memory)
    try:
        for _ in range(2):
            with pytest.raises(ApportionError, match=r"out of memory on cpu with a single rollout.*2 groups are in"):
                run("parts", stop=False, resume=True)
    finally:
        hook.remove()
    assert len(RolloutFile(tmp_path / "parts.partial").read()) == 8
    run("parts", stop=False, resume=True)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_what_was_whole_is_kept_where_a_prompt_cannot_be_read(tmp_path: Path) -> None:
    questions = ["1+1", "2+1", "1+" * 900 + "1"]
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps({"question": each, "answer": "2"}) + "\n" for each in questions))

    def run(out: str, **options: Any) -> None:
        sample(
            task=str(problems), prompts=3, n=2, settings={"rows_at_once": 2}, max_tokens=8, device="cpu",
            out=tmp_path / out, **options,
        )  # fmt: skip

    with pytest.raises(
        UsageError, match=r"1,8\d\d tokens does not fit .*; 1 groups are in .*; --resume .* once the cause is fixed"
    ) as fault:
        run("parts")
    assert fault.value.exit_code == UsageError.exit_code
    assert len(RolloutFile(tmp_path / "parts.partial").read()) == 2
    with pytest.raises(UsageError, match="does not fit"):
        run("parts", resume=True)
    assert len(RolloutFile(tmp_path / "parts.partial").read()) == 2


def test_a_signal_when_all_is_there_loses_nothing(run: Callable[..., None], tmp_path: Path) -> None:
    run("whole", stop=False)
    for _ in range(2):
        with pytest.raises(Stopped, match="8 groups"):
            run("parts", stop="end", resume=True)
    run("parts", stop=False, resume=True)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_what_goes_to_standard_output_is_whole_or_absent(
    run: Callable[..., None], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with pytest.raises(Stopped, match="-: stopped by SIGTERM, nothing kept"):
        run("-", stop=True)
    assert capfdbinary.readouterr().out == b""
    run("-", stop=False)
    assert capfdbinary.readouterr().out.startswith(b"PAR1")


def test_a_process_says_what_happened_and_a_second_signal_ends_it(plugin: Path, tmp_path: Path) -> None:
    def process(*more: str) -> subprocess.CompletedProcess[str]:
        words = [
            "--plugin",
            str(plugin),
            "sample",
            "--prompts",
            "8",
            "-n",
            "4",
            "--max-tokens",
            "24",
            "--device",
            "cpu",
        ]
        return subprocess.run(
            [sys.executable, "-m", "apportion", *words, "--strategy", "stopped", "-o", str(tmp_path / "out"), *more],
            env=os.environ | {"STOP": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    once = process()
    assert once.returncode == 143
    assert once.stderr.splitlines() == [
        "SIGTERM: stopping after this batch; send it again to stop at once",
        f"error: {tmp_path}/out: stopped by SIGTERM, 4 groups are in {tmp_path}/out.partial; --resume goes on with them",
    ]
    twice = process("--force", "--set", "times=2")
    assert twice.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "out").exists()
