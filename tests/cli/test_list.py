"""`list NAME` shows one entry whole; `list KIND --for FILE` and a plan say what a file can take."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.stages.core.kinds import kinds
from typer.testing import Result

Cli = Callable[..., Result]


def test_one_entry_whole(cli: Cli) -> None:
    result = cli("list", "rloo")
    assert (result.exit_code, result.stderr) == (0, "")
    for part in (
        "A_i = R_i - 1/(n-1)",
        "--method rloo",
        "singleton",
        "--preset verl",
        "arXiv:2402.14740",
        "Departures:",
    ):
        assert part in result.stdout
    (entry,) = json.loads(cli("list", "mcts", "--json").stdout)
    assert entry["options"]["decay"] == {
        "type": "a number", "range": "between 0 and 1", "default": 0.9, "meaning": entry["options"]["decay"]["meaning"],
    }  # fmt: skip
    assert "step.search_value" in entry["makes"]


def test_a_name_of_two_kinds_shows_both(cli: Cli) -> None:
    assert [entry["kind"] for entry in json.loads(cli("list", "rose", "--json").stdout)] == [
        "credit method", "strategy", "recipe",
    ]  # fmt: skip


@pytest.mark.parametrize("plural", ["methods", "scorers", "strategies", "memories", "objectives", "engines"])
def test_every_entry_can_be_shown(plural: str, cli: Cli) -> None:
    for entry in kinds()[plural]:
        result = cli("list", entry.name)
        assert result.exit_code == 0, entry.name
        assert entry.summary in result.stdout


def test_what_a_file_can_take(cli: Cli, scored_file: Path) -> None:
    listed = {each["name"]: each for each in json.loads(cli("list", "methods", "--for", scored_file, "--json").stdout)}
    assert listed["grpo"]["ready"]
    assert listed["tempo"]["lacks"]["node.id"] == "run `apportion tree-build IN -o OUT` first"
    shown = cli("list", "methods", "--for", scored_file).stdout
    assert "grpo" in shown.splitlines()[0]
    assert "no node.id, node.start, node.end: run `apportion tree-build IN -o OUT` first" in shown
    assert cli("list", "engines", "--for", scored_file).exit_code == 2
    refused = cli("assign-credit", scored_file, "--method", "tempo", "-o", scored_file.with_name("out"))
    assert refused.exit_code == 3
    assert f"`apportion list methods --for {scored_file}` shows what this file can take" in refused.stderr


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            "sample: {out: a}; assign-credit: {rollouts: a, method: grpo, out: b}",
            "step 2 (assign-credit): no step before it makes column 'reward', which grpo needs; run `apportion score IN --with verify",
        ),
        (
            "sample: {out: a}; score: {rollouts: a, with: verify, out: b}; assign-credit: {rollouts: b, method: grpo, out: c}",
            "",
        ),
        ("sample: {task: env/frozen_lake, out: a}; assign-credit: {rollouts: a, method: grpo, out: b}", ""),
        ("assign-credit: {rollouts: not-there-yet, method: tempo, out: b}", ""),
        (
            "sample: {out: a}; score: {rollouts: a, with: verify, out: b}; train: {rollouts: b, out: p}",
            "step 3 (train): no step before it makes column 'token.advantage'",
        ),
        (
            "sample: {strategy: rose, set: {epsilon: 3}, out: a}",
            "strategy rose: epsilon must be between 0 and 1, got 3",
        ),
    ],
)
def test_a_plan_is_checked_along_the_whole_chain(
    steps: str, message: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "\n".join(f"  - {step.strip()}" for step in steps.split(";"))
    (tmp_path / "recipe.yaml").write_text(f"name: it\nabout: it\nsteps:\n{lines}\n")
    result = cli("run", "recipe.yaml", "--dry-run")
    assert result.exit_code == (2 if message else 0), result.stderr
    assert message in result.stderr


def test_a_plan_takes_credit_by_its_short_name(
    cli: Cli, scored_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    credit = tmp_path / "credit.parquet"
    assert cli("assign-credit", scored_file, "--method", "grpo", "--as", "mine", "-o", credit).exit_code == 0
    for name, code in (("mine", 0), ("advantage_mine", 0), ("other", 2)):
        step = f"train: {{rollouts: {credit}, credit: {name}, old_logprobs: recompute, out: p}}"
        (tmp_path / "recipe.yaml").write_text(f"name: it\nabout: it\nsteps:\n  - {step}\n")
        assert cli("run", "recipe.yaml", "--dry-run").exit_code == code
