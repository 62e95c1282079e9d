"""`--fail-if`: a result is printed, and the command ends with 5 where a gate fails."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.errors import GateError, UsageError
from apportion.formats.gates import Gate, flatten_figures
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.eval.report import Report, report_figures
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("a < 2", True),
        ("a < 1", False),
        ("a <= 1 and b == 2", True),
        ("a > 1 and b == 2 or b >= 2", True),
        ("a > 1 or b != 2", False),
        ("0.5 < a", True),
        ("b > a", True),
        ("a == 100%", True),
        ("'c d' < -1e-3", True),
        ("pass@1.high < 0.6", True),
        ("pass@1 < .4", False),
    ],
)
def test_a_gate_fails_where_it_holds(text: str, fails: bool) -> None:
    figures = {"a": 1.0, "b": 2.0, "c d.value": -1.0, "pass_at.1.value": 0.4, "pass_at.1.high": 0.5}
    assert (Gate(text).fault(figures) is not None) is fails


@pytest.mark.parametrize(
    "text", ["", "a", "a < 1 and", "a = 1", "1 < 2", "a < b < 3", "a < 1 a < 2", "a < 'b", "a" * 2000]
)
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        Gate(text)


def test_an_undefined_figure_fails_its_gate() -> None:
    figures = flatten_figures({"gain": None, "mean": float("nan"), "n": 3})
    for name in ("gain", "mean"):
        fault = Gate(f"{name} < 0 or n < 0").fault(figures)
        assert isinstance(fault, GateError)
        assert str(fault) == f"gate: {name} is undefined, so '{name} < 0 or n < 0' cannot be told"


def test_the_figures_of_a_report_are_known_before_it_is_made(cli: Cli, scored_file: Path, tmp_path: Path) -> None:
    assert cli("eval", "rollouts", scored_file, "-o", tmp_path / "report.json").exit_code == 0
    assert set(Report.read(tmp_path / "report.json").figures()) == set(report_figures([1, 4]))


def test_the_result_is_printed_and_written_before_the_gate(cli: Cli, scored_file: Path, tmp_path: Path) -> None:
    result = cli("eval", "rollouts", scored_file, "--json", "--fail-if", "pass@1 < 0.6", "-o", tmp_path / "report.json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["pass_at"]["1"]["value"] == 0.5
    assert result.stderr.splitlines()[-1] == "error: gate: pass@1 is 0.5, fails 'pass@1 < 0.6'"
    assert json.loads((tmp_path / "report.json").read_text())["problems"] == 1


def test_a_gate_that_is_met_changes_nothing(cli: Cli, scored_file: Path) -> None:
    assert (
        cli("eval", "rollouts", scored_file, "--fail-if", "pass@1 < 0.5", "--fail-if", "truncated > 0").exit_code == 0
    )


def test_an_unknown_figure_is_named_before_anything_is_sampled(cli: Cli) -> None:
    result = cli("eval", "policy", "--model", "/nowhere", "--fail-if", "pas@1 < 0.5")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --fail-if 'pas@1 < 0.5': unknown figure 'pas@1'; did you mean 'pass@1'?\n",
    )


def test_the_gain_of_a_curve_has_a_gate(cli: Cli, scored_file: Path, tmp_path: Path) -> None:
    for at in (0, 1):
        cli("eval", "rollouts", scored_file, "--at", at, "--series", "mine", "-o", tmp_path / f"{at}.json")
    result = cli("eval", "curve", tmp_path / "0.json", tmp_path / "1.json", "--fail-if", "gain.mine <= 0")
    assert result.exit_code == 5
    assert "gain.mine is 0, fails" in result.stderr


def test_validate_has_the_figures_of_the_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "dead.parquet"
    write_rollouts(path, [rollouts_of([1.0, 1.0, 1.0, 0.0], groups=[0, 0, 1, 1])], Provenance())
    assert json.loads(cli("validate", path, "--json").stdout)["dead_group_share"] == 0.5
    result = cli("validate", path, "--fail-if", "dead_group_share > 0.4")
    assert result.exit_code == 5
    assert result.stdout == f"{path}: ok, 4 rollouts\n"
    assert result.stderr == "error: gate: dead_group_share is 0.5, fails 'dead_group_share > 0.4'\n"


def test_a_count_of_a_rule_that_nothing_breaks_is_zero(cli: Cli, scored_file: Path) -> None:
    assert cli("validate", scored_file, "--fail-if", "counts.singleton > 0").exit_code == 0


def test_a_file_without_rewards_fails_a_gate_on_dead_groups(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bare.parquet"
    write_rollouts(path, [Rollouts(rollouts_of([0.0, 1.0]).table.drop_columns("reward"))], Provenance())
    result = cli("validate", path, "--fail-if", "dead_group_share > 0.9")
    assert (result.exit_code, "dead_group_share is undefined" in result.stderr) == (5, True)


def test_defects_come_before_gates(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    write_rollouts(path, [rollouts_of([1.0])], Provenance())  # a singleton
    assert cli("validate", path, "--fail-if", "singleton_share > 0").exit_code == 3
    assert cli("validate", path, "--ignore", "singleton", "--fail-if", "singleton_share > 0").exit_code == 5
