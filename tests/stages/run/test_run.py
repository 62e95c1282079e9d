"""Running a recipe: once, again, changed, killed, and by hand."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from apportion.stages.run import run
from apportion.stages.run._run import Ran
from typer.testing import Result

Cli = Callable[..., Result]
STEPS = 12  # 2 × (sample, tree-build, score, assign-credit, train), eval policy, eval curve


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe_text: str) -> Path:
    """The folder of an uninterrupted run; tests work on copies."""
    recipe = tmp_path_factory.mktemp("recipe") / "small.yaml"
    recipe.write_text(recipe_text)
    folder = tmp_path_factory.mktemp("run") / "small"
    ran = run(str(recipe), folder=folder)
    assert isinstance(ran, Ran)
    assert (ran.steps, ran.ran, ran.skipped) == (STEPS, STEPS, 0)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The finished run, for a test to change; put back as it was afterwards.

    A copy would not do: paths are part of a step's options, so a run in another folder is another run.
    """
    backup = tmp_path / "backup"
    shutil.copytree(finished, backup, copy_function=shutil.copy2)
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(backup, finished, copy_function=shutil.copy2)


def json_of(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_output_is_there(finished: Path) -> None:
    for name in ("rollouts.parquet", "tree.parquet", "scored.parquet", "credit.parquet", "policy/model.safetensors"):
        assert (finished / "round-0" / name).is_file()
        assert (finished / "round-1" / name).is_file()
    assert json.loads((finished / "eval.json").read_text())["problems"] == 8
    assert (finished / "curve.svg").is_file()
    assert len((finished / "journal.jsonl").read_text().splitlines()) == STEPS


def test_iterations_have_problems_of_their_own(finished: Path) -> None:
    first, second = (
        set(pq.read_table(finished / f"round-{round}/rollouts.parquet").column("problem_id").to_pylist())
        for round in (0, 1)
    )
    assert len(first) == len(second) == 8
    assert not first & second


def test_a_second_run_has_only_the_curve_to_print(cli: Cli, copied: Path, recipe_file: Path) -> None:
    started = time.monotonic()
    ran = json_of(cli("run", recipe_file, "--dir", copied, "--json"))
    assert (ran["ran"], ran["skipped"]) == (1, STEPS - 1)
    assert time.monotonic() - started < 2


def test_a_changed_setting_runs_again_what_depends_on_it(cli: Cli, copied: Path, recipe_file: Path) -> None:
    first = (copied / "round-0/credit.parquet").stat().st_mtime_ns
    ran = json_of(cli("run", recipe_file, "--dir", copied, "--set", "lr=2e-4", "--json"))
    assert ran["skipped"] == 4  # sample … assign-credit of the first iteration, which saw no training yet
    assert (copied / "round-0/credit.parquet").stat().st_mtime_ns == first


def test_a_changed_setting_that_only_the_last_round_uses(cli: Cli, copied: Path, recipe_file: Path) -> None:
    plan = json_of(cli("run", recipe_file, "--dir", copied, "--set", "rounds=3", "--dry-run", "--json"))["plan"]
    states = [line.split("  ")[0].strip() for line in plan]
    assert states == ["up to date"] * 10 + ["to run"] * 7


def test_a_file_named_in_a_setting_is_an_input(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        """
vars: {iterations: 2}
steps:
  - sample: {prompts: 2, n: 2, max_tokens: 8, device: cpu, out: rollouts.parquet}
  - score: {rollouts: rollouts.parquet, out: scored.parquet}
  - remember: {rollouts: scored.parquet, set: {iterations: "${iterations}"}, out: memory.parquet}
  - score: {rollouts: scored.parquet, with: problems, set: {memory: memory.parquet}, out: known.parquet}
"""
    )
    command = ("run", recipe, "--dir", tmp_path / "run", "--json")
    assert json_of(cli(*command))["ran"] == 4
    assert json_of(cli(*command))["ran"] == 0
    assert json_of(cli(*command, "--set", "iterations=3"))["ran"] == 2


def test_an_empty_text_names_no_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the run's own outputs appear
    (tmp_path / "problems.jsonl").write_text('{"question": "1+1", "answer": "2", "split": "train"}\n')
    (tmp_path / "small.yaml").write_text(
        """
steps:
  - sample: {task: problems.jsonl, task_set: {instruction: ""}, prompts: 1, n: 2, max_tokens: 8, device: cpu, out: a.parquet}
  - eval policy: {prompts: 1, n: 1, max_tokens: 8, device: cpu, out: report.json}
"""
    )
    assert json_of(cli("run", "small.yaml", "--json"))["ran"] == 2
    assert json_of(cli("run", "small.yaml", "--json"))["ran"] == 0
    (tmp_path / "problems.jsonl").write_text('{"question": "1+2", "answer": "3", "split": "train"}\n')
    assert json_of(cli("run", "small.yaml", "--json"))["ran"] == 1


def test_a_deleted_output_is_made_again_and_is_the_same(cli: Cli, copied: Path, recipe_file: Path) -> None:
    target = copied / "round-0/scored.parquet"
    before = pq.read_table(target)
    target.unlink()
    ran = json_of(cli("run", recipe_file, "--dir", copied, "--json"))
    assert ran["ran"] == 2  # score, and the curve
    assert pq.read_table(target).equals(before)


def test_a_damaged_checkpoint_is_made_again(cli: Cli, copied: Path, recipe_file: Path) -> None:
    weights = copied / "round-1/policy/model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:1000])
    assert json_of(cli("run", recipe_file, "--dir", copied, "--json"))["ran"] == 2  # train, and the curve
    assert weights.read_bytes() == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(cli: Cli, tmp_path: Path, recipe_file: Path) -> None:
    result = cli("run", recipe_file, "--dir", tmp_path / "run", "--dry-run")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == STEPS
    assert all(line.startswith("to run      apportion ") for line in lines)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_finished_run_says_so(cli: Cli, finished: Path, recipe_file: Path) -> None:
    result = cli("run", recipe_file, "--dir", finished, "--dry-run")
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["up to date"] * STEPS


def test_a_fault_in_a_step_says_which_step(cli: Cli, tmp_path: Path, recipe_file: Path) -> None:
    result = cli("run", recipe_file, "--dir", tmp_path / "run", "--set", "model=./nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: small.yaml, step 1, step 1 (sample): model './nowhere': no such directory")


# ------------------------------------------------------------------------------------------------ by hand


def shell(line: str, folder: Path) -> None:
    """Run one line in bash, with this interpreter's `apportion` first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line], cwd=folder, env={**os.environ, "PATH": path}, check=True,
        capture_output=True,
    )  # fmt: skip


def test_the_shell_commands_make_the_same_files(cli: Cli, finished: Path, tmp_path: Path, recipe_file: Path) -> None:
    lines = cli("run", recipe_file, "--dir", tmp_path / "by-hand", "--shell").stdout.splitlines()
    assert len(lines) == STEPS
    shell("\n".join(lines[:4]), tmp_path)
    for name in ("rollouts", "tree", "scored", "credit"):
        by_hand = pq.read_table(tmp_path / f"by-hand/round-0/{name}.parquet")
        assert by_hand.equals(pq.read_table(finished / f"round-0/{name}.parquet"))


def test_stages_in_a_pipe_make_the_same_file(finished: Path, tmp_path: Path) -> None:
    shell(
        "apportion sample --prompts 8 -n 4 --seed 1 --max-tokens 32 --device cpu -o - | apportion tree-build - -o - "
        "| apportion score - --with verify -o - | apportion assign-credit - --method tempo -o credit.parquet",
        tmp_path,
    )
    piped, expected = (pq.read_table(folder / "credit.parquet") for folder in (tmp_path, finished / "round-0"))
    assert piped.column_names == expected.column_names
    assert piped.equals(expected)


# ------------------------------------------------------------------------------------------------ killed


@pytest.mark.parametrize(("done", "delay"), [(0, 0.05), (4, 0.2), (7, 0.0)])
def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(
    cli: Cli, finished: Path, tmp_path: Path, recipe_file: Path, assert_same_run: Callable[..., None], done: int,
    delay: float,
) -> None:  # fmt: skip
    folder, journal = tmp_path / "run", tmp_path / "run/journal.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "apportion", "run", str(recipe_file), "--dir", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder.exists() if done == 0 else journal.exists() and journal.read_text().count("\n") >= done):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = journal.read_text().count("\n") if journal.exists() else 0
    assert done <= kept < STEPS

    ran = json_of(cli("run", recipe_file, "--dir", folder, "--json"))
    assert ran["ran"] == STEPS - kept
    assert_same_run(folder, finished)


def test_what_a_killed_step_left_behind_is_removed(cli: Cli, copied: Path, recipe_file: Path) -> None:
    leftovers = [
        copied / "round-0/.scored.parquet.4711.tmp",
        copied / "round-1/.policy.4711.tmp/model.safetensors",
    ]
    for left in leftovers:
        left.parent.mkdir(exist_ok=True)
        left.touch()
    (copied / "round-0/scored.parquet").unlink()
    before = (copied / "round-1/policy/model.safetensors").read_bytes()
    (copied / "round-1/policy").rename(copied / "round-1/.policy.4711.old")
    json_of(cli("run", recipe_file, "--dir", copied, "--json"))
    assert not [path for path in copied.rglob(".*")]
    assert (copied / "round-1/policy/model.safetensors").read_bytes() == before


def test_half_a_line_in_the_journal_is_passed_over(cli: Cli, copied: Path, recipe_file: Path) -> None:
    journal = copied / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:40])
    assert json_of(cli("run", recipe_file, "--dir", copied, "--json"))["ran"] == 2
    assert json_of(cli("run", recipe_file, "--dir", copied, "--json"))["ran"] == 1
