"""What a run tells a script: gates, JSON of every step, a line a step; and sweeps, and what a variable replaces."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.errors import GateError, UsageError
from apportion.formats.recipes import load_recipe
from apportion.stages.run import run
from apportion.stages.run.members import members_of
from typer.testing import Result

Cli = Callable[..., Result]
RECIPE = """
name: gated
vars: {limit: 0.0, part: 0.5, seed: 0, shares: [0.5, 0.5], source: SOURCE}
steps:
  - eval rollouts: {rollouts: "${source}", at: "${part}", out: first.json}
  - filter: {rollouts: "${source}", where: "reward >= ${part}", out: kept.parquet}
  - eval rollouts: {rollouts: "${source}", series: mine, out: report.json, fail_if: ["pass@1 < ${limit}"]}
  - validate: {path: "${latest('filter')}"}
"""


@pytest.fixture
def recipe(tmp_path: Path, scored_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gated.yaml"
    path.write_text(RECIPE.replace("SOURCE", str(scored_file)))
    return path


def statuses(result: Result) -> list[str]:
    return [each["status"] for each in json.loads(result.stdout)["by_step"]]


def test_a_run_lists_what_every_step_made(cli: Cli, recipe: Path) -> None:
    first = cli("run", recipe, "--json")
    assert first.exit_code == 0, first.stderr
    assert statuses(first) == ["ran"] * 4
    again = cli("run", recipe, "--json")
    assert statuses(again) == ["up to date"] * 4
    for result in (first, again):
        report = json.loads(result.stdout)["by_step"][2]
        assert report["outputs"] == {"out": "runs/gated/report.json"}
        assert report["figures"]["pass_at.1.value"] == 0.5


def test_a_run_without_a_terminal_prints_a_line_a_step(cli: Cli, recipe: Path) -> None:
    lines = [line.rpartition("  ")[0] for line in cli("run", recipe).stderr.splitlines() if line.startswith("[")]
    assert lines == [
        "[1/4] eval rollouts -> runs/gated/first.json  pass@1 0.5",
        "[2/4] filter -> runs/gated/kept.parquet  rollouts 4",
        "[3/4] eval rollouts -> runs/gated/report.json  pass@1 0.5",
        "[4/4] validate  rollouts 4",
    ]


def test_a_gate_stops_the_run_and_is_looked_at_again(cli: Cli, recipe: Path) -> None:
    failed = cli("run", recipe, "--json", "--set", "limit=0.6")
    assert failed.exit_code == 5
    assert statuses(failed) == ["ran", "ran", "failed"]
    told = "gated.yaml, step 3 (eval rollouts): gate: pass@1 is 0.5, fails 'pass@1 < 0.6'"
    assert json.loads(failed.stdout)["error"] == told
    assert failed.stderr.splitlines()[-1] == f"error: {told}"
    assert Path("runs/gated/report.json").is_file()
    again = cli("run", recipe, "--json", "--set", "limit=0.6")
    assert (again.exit_code, statuses(again)) == (5, ["up to date", "up to date", "failed"])
    met = cli("run", recipe, "--json", "--set", "limit=0.5")  # a gate is no part of what a step makes
    assert (met.exit_code, statuses(met)) == (0, ["up to date", "up to date", "up to date", "ran"])


def test_a_gate_prints_the_result_that_fails_it(cli: Cli, recipe: Path) -> None:
    result = cli("run", recipe, "--set", "limit=0.6")
    assert result.stdout.startswith("mine: pass@1 0.500")


def test_from_python_a_gate_raises(recipe: Path) -> None:
    with pytest.raises(GateError, match=r"pass@1 is 0\.5"):
        run(str(recipe), settings={"limit": 0.6})


def test_a_wrong_gate_is_refused_before_the_first_step(cli: Cli, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("pass@1 <", "pass@1 ="))
    result = cli("run", recipe)
    assert (result.exit_code, "step 3 (eval rollouts): --fail-if" in result.stderr) == (2, True)
    assert not Path("runs").exists()


def test_a_step_that_fails_is_in_the_json(cli: Cli, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("series: mine", "k: [9]"))
    result = cli("run", recipe, "--json")
    assert result.exit_code == 2
    assert statuses(result) == ["ran", "ran", "failed"]
    assert json.loads(result.stdout)["error"] in result.stderr


def test_a_changed_variable_says_what_it_replaces(cli: Cli, recipe: Path) -> None:
    assert "other variables" not in cli("run", recipe).stderr
    result = cli("run", recipe, "--set", "part=0.25")
    assert (
        "runs/gated: other variables than last time (part 0.5 -> 0.25): 3 of 4 steps run (eval rollouts, filter, validate), "
        "2 replace what is there"
    ) in result.stderr.splitlines()
    assert "other variables" not in cli("run", recipe, "--set", "part=0.25").stderr


def test_a_list_is_a_sweep_where_the_variable_is_none(cli: Cli, recipe: Path) -> None:
    result = cli("run", recipe, "--set", "part=[0.5,0.25]", "--set", "seed=[0,1]", "--json")
    assert result.exit_code == 0, result.stderr
    members = json.loads(result.stdout)["members"]
    assert [each["name"] for each in members] == [
        "part=0.5/seed=0", "part=0.5/seed=1", "part=0.25/seed=0", "part=0.25/seed=1",
    ]  # fmt: skip
    assert members[2]["settings"] == {"part": 0.25, "seed": 0}
    assert members[2]["run"]["folder"] == "runs/gated/part=0.25/seed=0"
    assert Path("runs/gated/part=0.25/seed=1/report.json").is_file()


def test_a_list_stays_one_where_the_variable_is_one(recipe: Path) -> None:
    (only,) = members_of(load_recipe(str(recipe)), {"shares": [1, 2], "seed": 3})
    assert (only.name, only.settings) == (".", {"shares": [1, 2], "seed": 3})


@pytest.mark.parametrize("values", [[], [[1], [2]], [1, 1]])
def test_a_list_that_makes_no_sweep_is_refused(recipe: Path, values: list) -> None:
    with pytest.raises(UsageError, match="sweep"):
        members_of(load_recipe(str(recipe)), {"seed": values})


def test_a_member_that_fails_does_not_keep_the_others_from_running(cli: Cli, recipe: Path) -> None:
    result = cli("run", recipe, "--set", "limit=[0.6,0.4]")
    assert result.exit_code == 5
    assert "error: 1 of 2 members failed (limit=0.6); the first: gated.yaml, step 3" in result.stderr
    assert Path("runs/gated/limit=0.4/kept.parquet").is_file()


def test_a_sweep_is_drawn_with_its_seeds_as_runs_of_one_curve(cli: Cli, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace(', at: "${part}"', ", series: mine"))
    assert cli("run", recipe, "--set", "part=[0.5,0.25]", "--set", "seed=[0,1]").exit_code == 0
    points = json.loads(cli("eval", "curve", "runs/gated", "--json").stdout)["points"]
    assert [(each["series"], len(each["each"])) for each in points] == [("part=0.25", 4), ("part=0.5", 4)]


def test_a_folder_without_reports_is_refused(cli: Cli, tmp_path: Path) -> None:
    result = cli("eval", "curve", tmp_path)
    assert (result.exit_code, "no reports of `eval policy` in it" in result.stderr) == (2, True)
