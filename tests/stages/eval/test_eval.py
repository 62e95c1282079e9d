"""`eval policy`, `eval rollouts` and `eval curve` on the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.eval.accuracy import Estimate
from apportion.stages.eval.curves import curve_of
from apportion.stages.eval.report import Report, report_on
from typer.testing import Result

Cli = Callable[..., Result]


def scored(path: Path, groups: list[list[float]]) -> Path:
    """A rollout file with these rewards, a list for each problem."""
    rewards = [reward for group in groups for reward in group]
    members = [index for index, group in enumerate(groups) for _ in group]
    write_rollouts(path, [rollouts_of(rewards, groups=members)], Provenance())
    return path


def json_of(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ---------------------------------------------------------------------------------------------- eval rollouts


def test_rollouts_by_hand(cli: Cli, tmp_path: Path) -> None:
    file = scored(tmp_path / "scored.parquet", [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    report = json_of(cli("eval", "rollouts", file, "--k", 1, "--k", 2, "--json"))
    assert report["pass_at"]["1"]["value"] == pytest.approx((0.25 + 0.5 + 0) / 3)
    # two of four: 1 - C(3,2)/C(4,2) = 1/2 and 1 - C(2,2)/C(4,2) = 5/6
    assert report["pass_at"]["2"]["value"] == pytest.approx((1 / 2 + 5 / 6 + 0) / 3)
    assert report["per_problem"] == {"g0": [4, 1], "g1": [4, 2], "g2": [4, 0]}
    assert (report["problems"], report["rollouts"], report["mean_tokens"]) == (3, 12, 1)


def test_the_default_is_pass_at_1_and_at_the_smallest_group(cli: Cli, tmp_path: Path) -> None:
    file = scored(tmp_path / "scored.parquet", [[1, 0, 0, 0], [1, 1, 0]])
    assert list(json_of(cli("eval", "rollouts", file, "--json"))["pass_at"]) == ["1", "3"]


@pytest.mark.parametrize("option", ["--threshold", "--at"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_without_a_meaning_are_refused(cli: Cli, tmp_path: Path, option: str, value: str) -> None:
    file = scored(tmp_path / "scored.parquet", [[0.6, 0.4]])
    for command in (("rollouts", file), ("policy", "--device", "cpu")):
        result = cli("eval", *command, option, value)
        assert (result.exit_code, result.stderr) == (2, f"error: {option} must be finite, got {value}\n")


def test_the_threshold_says_what_is_right(cli: Cli, tmp_path: Path) -> None:
    file = scored(tmp_path / "scored.parquet", [[0.6, 0.4], [0.6, 0.5]])
    found = json_of(cli("eval", "rollouts", file, "--threshold", 0.5, "--json"))
    assert found["pass_at"]["1"]["value"] == 0.75
    assert found["mean_reward"]["value"] == pytest.approx(0.525)


def test_without_json_a_line_for_people(cli: Cli, tmp_path: Path) -> None:
    result = cli("eval", "rollouts", scored(tmp_path / "scored.parquet", [[1, 0], [1, 0]]))
    assert result.exit_code == 0
    assert result.stdout == (
        "rollouts: pass@1 0.500 [0.500, 0.500]  pass@2 1.000 [1.000, 1.000]  "
        "(2 problems, 4 rollouts, 95 % intervals over problems)\n"
    )


def test_the_interval_is_over_problems_not_rollouts() -> None:
    """More samples of the same problems make no narrower interval where the problems are what differs."""
    few = rollouts_of([1.0] * 2 * 10 + [0.0] * 2 * 10, groups=[index // 2 for index in range(40)])
    many = rollouts_of([1.0] * 20 * 10 + [0.0] * 20 * 10, groups=[index // 20 for index in range(400)])
    reports = [report_on(each, [1], 1.0, at=0, series="", about={}) for each in (few, many)]
    assert reports[0].pass_at[1] == reports[1].pass_at[1]
    assert reports[0].pass_at[1].high - reports[0].pass_at[1].low > 0.3


def test_a_problem_asked_in_two_groups_is_not_lost() -> None:
    rollouts = rollouts_of([1.0, 0.0, 0.0, 0.0], groups=[0, 0, 1, 1]).with_columns({"problem_id": ["p"] * 4})
    report = report_on(rollouts, [1], 1.0, at=0, series="", about={})
    assert sum(samples for samples, _ in report.per_problem.values()) == report.rollouts == 4
    assert len(report.per_problem) == report.problems


def test_truncated_responses_are_counted() -> None:
    rollouts = rollouts_of([1.0, 0.0, 0.0, 0.0]).with_flag("truncated", np.array([False, True, False, False]))
    assert report_on(rollouts, [1], 1.0, at=0, series="", about={}).truncated == 0.25


@pytest.mark.parametrize("k", [0, 3])
def test_k_beyond_the_smallest_group_is_refused(cli: Cli, tmp_path: Path, k: int) -> None:
    result = cli("eval", "rollouts", scored(tmp_path / "scored.parquet", [[1, 0], [1, 0, 0]]), "--k", k)
    assert result.exit_code == 2
    assert result.stderr == f"error: --k must be between 1 and 2, the number of rollouts per problem, got {k}\n"


def test_rollouts_without_rewards_say_which_stage_gives_them(cli: Cli, tmp_path: Path) -> None:
    cli("sample", "--prompts", 2, "-n", 2, "--max-tokens", 2, "-o", tmp_path / "raw.parquet")
    result = cli("eval", "rollouts", tmp_path / "raw.parquet")
    assert result.exit_code == 3
    assert "no column 'reward', which eval rollouts needs; run `apportion score" in result.stderr


# ------------------------------------------------------------------------------------------------ eval policy


def test_policy_reports_what_its_rollouts_say(cli: Cli, tmp_path: Path) -> None:
    report, kept = tmp_path / "report.json", tmp_path / "kept.parquet"
    asked = ("--prompts", 16, "-n", 4, "--max-tokens", 40, "--seed", 5)
    found = json_of(cli("eval", "policy", *asked, "-o", report, "--keep", kept, "--json"))
    assert json.loads(report.read_text()) == found
    again = json_of(cli("eval", "rollouts", kept, "--k", 1, "--k", 4, "--json"))
    for name in ("pass_at", "per_problem", "mean_reward", "mean_tokens", "truncated"):
        assert found[name] == again[name], name
    rollouts = RolloutFile(kept).read()
    assert set(rollouts.strings("purpose")) == {"eval"}
    assert found["about"]["policy"] == rollouts.strings("policy")[0]


def test_policy_is_evaluated_on_the_test_split(cli: Cli, tmp_path: Path) -> None:
    from apportion.stages.tasks import open_task

    found = json_of(cli("eval", "policy", "--prompts", 16, "-n", 1, "--max-tokens", 2, "--json"))
    train = {problem.problem_id for problem in open_task("arithmetic").problems("train", 500, 0)}
    assert len(found["per_problem"]) == 16
    assert not train & found["per_problem"].keys()


def test_policy_without_json_prints_an_estimate_and_writes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("eval", "policy", "--prompts", 4, "-n", 2, "--max-tokens", 4, "--series", "base")
    assert result.exit_code == 0
    assert result.stdout == (
        "base: pass@1 0.000 [0.000, 0.000]  pass@2 0.000 [0.000, 0.000]  "
        "(4 problems, 8 rollouts, 95 % intervals over problems)\n"
    )
    assert not list(tmp_path.iterdir())


def test_greedy_evaluation_is_the_same_for_every_sample(cli: Cli) -> None:
    found = json_of(cli("eval", "policy", "--prompts", 8, "-n", 2, "--temperature", 0, "--max-tokens", 40, "--json"))
    assert all(correct in (0, samples) for samples, correct in found["per_problem"].values())


# ------------------------------------------------------------------------------------------------- eval curve


def report_of(correct: list[int], *, at: float, series: str = "tempo", names: str = "abcd") -> Report:
    """Four samples of each problem."""
    rates = np.array(correct) / 4
    return Report(
        pass_at={1: Estimate(rates.mean(), rates.mean(), rates.mean())},
        mean_reward=Estimate(rates.mean(), rates.mean(), rates.mean()),
        mean_tokens=1,
        truncated=0,
        problems=len(correct),
        rollouts=4 * len(correct),
        threshold=1,
        per_problem={name: (4, right) for name, right in zip(names, correct, strict=True)},
        at=at,
        series=series,
    )


def test_the_gain_pairs_problems() -> None:
    """Every problem gains exactly 1/4, so the gain has no width, however different the problems are."""
    curve = curve_of([report_of([0, 1, 2, 3], at=0), report_of([1, 2, 3, 4], at=64)], "rollouts")
    assert curve.gain["tempo"] == Estimate(0.25, 0.25, 0.25)
    assert [point.estimate.value for point in curve.points] == [0.375, 0.625]


def test_points_stand_in_the_order_of_their_places() -> None:
    reports = [report_of([4, 4, 4, 4], at=100), report_of([0, 0, 0, 0], at=0), report_of([2, 2, 2, 2], at=20)]
    curve = curve_of(reports, "rollouts")
    assert [point.at for point in curve.of("tempo")] == [0, 20, 100]
    assert curve.gain["tempo"].value == 1


def test_runs_of_one_series_at_one_place_are_averaged() -> None:
    curve = curve_of([report_of([0, 0, 4, 4], at=0), report_of([0, 4, 4, 4], at=0)], "rollouts")
    [point] = curve.points
    assert (point.runs, point.estimate.value) == (2, 0.625)


@pytest.mark.parametrize("at", [0.0, 64.0])
def test_reports_of_different_problems_are_refused(at: float) -> None:
    with pytest.raises(UsageError, match="its reports are on different problems"):
        curve_of([report_of([0, 0], at=0, names="ab"), report_of([0, 0], at=at, names="ac")], "rollouts")


@pytest.fixture
def report_files(tmp_path: Path) -> list[Path]:
    reports = [
        report_of([0, 1, 2, 3], at=0),
        report_of([1, 2, 3, 4], at=64),
        report_of([0, 1, 2, 3], at=0, series="a < b & 'c'"),
        report_of([0, 1, 2, 2], at=64, series="a < b & 'c'"),
    ]
    paths = [tmp_path / f"report-{index}.json" for index in range(len(reports))]
    for path, report in zip(paths, reports, strict=True):
        report.write(path, force=False)
    return paths


def test_a_report_reads_back_as_it_was_written(report_files: list[Path]) -> None:
    assert Report.read(report_files[1]) == report_of([1, 2, 3, 4], at=64)


def test_the_picture_is_well_formed_and_names_every_series(cli: Cli, tmp_path: Path, report_files: list[Path]) -> None:
    picture = tmp_path / "curve.svg"
    result = cli("eval", "curve", *report_files, "--axis", "tokens <seen>", "-o", picture)
    assert result.exit_code == 0, result.output
    root = ElementTree.fromstring(picture.read_text())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"tempo", "a < b & 'c'", "tokens <seen>"} <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 4


def test_a_picture_of_one_report(cli: Cli, tmp_path: Path, report_files: list[Path]) -> None:
    result = cli("eval", "curve", report_files[0], "-o", tmp_path / "one.svg")
    assert result.exit_code == 0, result.output
    ElementTree.fromstring((tmp_path / "one.svg").read_text())


def test_without_json_the_terminal_shows_marks_and_gains(cli: Cli, report_files: list[Path]) -> None:
    result = cli("eval", "curve", *report_files)
    assert result.exit_code == 0
    assert "●" in result.stdout
    assert "held-out pass@1 0.375 -> 0.625: +0.250, 95 % interval [+0.250, +0.250] over problems" in result.stdout


def test_with_json_points_and_gains(cli: Cli, report_files: list[Path]) -> None:
    found = json_of(cli("eval", "curve", *report_files, "--json"))
    assert found["gain"]["tempo"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert len(found["points"]) == 4


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 99}', "null"])
def test_a_file_that_is_no_report_is_a_line(cli: Cli, tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    result = cli("eval", "curve", path)
    assert result.exit_code == 3, result.output
    assert result.stderr.startswith(f"error: {path}: ")
    assert result.stderr.count("\n") == 1


def test_a_report_that_is_missing_is_a_line(cli: Cli, tmp_path: Path) -> None:
    result = cli("eval", "curve", tmp_path / "none.json")
    assert (result.exit_code, result.stderr) == (2, f"error: {tmp_path / 'none.json'}: no such file\n")


def test_a_series_without_a_name_is_called_after_its_model() -> None:
    report = replace(report_of([1, 1], at=0, series="", names="ab"), about={"model": "builtin:tiny"})
    assert curve_of([report], "rollouts").series() == ["builtin:tiny"]


def test_the_commands_are_still_functions_after_they_were_used(cli: Cli, report_files: list[Path]) -> None:
    """A module of a command's name would take its place in the package as soon as it is imported."""
    from apportion.stages.core.table import commands

    assert cli("eval", "curve", *report_files).exit_code == 0
    assert all(callable(command.function) for command in commands().values())


def test_a_series_leads_the_first_one_problem_by_problem(cli: Callable[..., Result], tmp_path: Path) -> None:
    better = [replace(report_of([4, 2, 2, 4], at=at), series="tempo") for at in (0, 64)]
    base = [replace(report_of([3, 1, 1, 3], at=at), series="grpo") for at in (0, 64)]
    curve = curve_of([*better, *base], "rollouts")
    assert [point.lead for point in curve.of("grpo")] == [None, None]
    assert [point.lead for point in curve.of("tempo")] == [Estimate(0.25, 0.25, 0.25)] * 2
    for number, report in enumerate([*better, *base]):
        report.write(tmp_path / f"{number}.json", force=False)
    table = cli("eval", "curve", *sorted(tmp_path.glob("*.json"))).stdout
    assert "tempo - grpo" in table
    assert "+0.250 [+0.250, +0.250]" in table


def test_parts_of_an_episode_are_one_rollout(cli: Cli, tmp_path: Path) -> None:
    rows = RolloutFile(scored(tmp_path / "rows.parquet", [[1, 1, 0], [0, 0, 1]])).read()
    parts = rows.with_columns({"episode_id": ["a", "a", None, "b", "b", None], "part": [0, 1, None, 0, 1, None]})
    write_rollouts(tmp_path / "parts.parquet", [parts], Provenance())
    report = json_of(cli("eval", "rollouts", tmp_path / "parts.parquet", "--json"))
    assert (report["rollouts"], report["per_problem"]) == (4, {"g0": [2, 1], "g1": [2, 1]})
    assert report["mean_reward"]["value"] == 0.5
