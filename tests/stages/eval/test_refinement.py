"""`eval refinement`: what a refiner changed, by hand and on files that strategy `refine` wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.eval._refinement import Refinement, refinement_of
from apportion.stages.sample import sample
from apportion.stages.score import score
from typer.testing import Result

from ..sample.conftest import scripted as scripted

Cli = Callable[..., Result]

# Two problems. name: (group, reward, α, steps kept, parent, fork, flags)
ROWS: dict[str, tuple[int, float | None, float | None, int | None, str | None, int | None, list[str]]] = {
    "a": (0, 1.0, 1.0, None, None, None, ["accepted"]),
    "b": (0, 0.0, 0.25, 1, None, None, []),
    "b/refined": (0, 1.0, None, None, "b", 2, ["refined"]),
    "c": (0, 0.0, 0.75, None, None, None, ["accepted"]),
    "d": (1, 1.0, 0.0, 0, None, None, []),
    "d/refined": (1, 0.0, None, None, "d", 0, ["refined"]),
    "e": (1, 0.0, 0.0, 2, None, None, []),
    "e/refined": (1, 1.0, None, None, "e", 3, ["refined"]),
}


def batch_of(rows: dict[str, Any]) -> Rollouts:
    names = sorted(rows, key=lambda name: rows[name][0])
    groups, rewards, alphas, cuts, parents, forks, flags = zip(*(rows[name] for name in names), strict=True)
    bare = rollouts_of([float("nan") if each is None else each for each in rewards], groups=list(groups))
    columns = {"accept_probability": alphas, "cut_step": cuts, "parent_id": parents, "fork": forks, "flags": flags}
    return bare.with_columns({"rollout_id": names} | {path: [*values] for path, values in columns.items()})


def report_of(**changed: Any) -> Refinement:
    return refinement_of(batch_of(ROWS | changed), 1.0, {})


def test_by_hand() -> None:
    found = report_of()
    assert (found.judged, found.accepted, found.replaced, found.samples, found.lost, found.problems) == (
        5,
        2,
        3,
        3,
        0,
        2,
    )
    assert found.volume.value == pytest.approx((0 + 0.75 + 0.25 + 1 + 1) / 5)
    assert found.share.value == pytest.approx(3 / 5)
    assert (found.before.value, found.after.value) == (pytest.approx(2 / 5), pytest.approx(3 / 5))
    assert found.gain is not None
    assert found.gain.value == pytest.approx((1 - 1 + 1) / 3)
    assert found.improvement.value == pytest.approx(found.share.value * found.gain.value)
    assert found.accepted_right is not None
    assert found.accepted_wrong is not None
    assert found.accepted_right.value == pytest.approx(1 / 2)  # a of a and d
    assert found.accepted_wrong.value == pytest.approx(1 / 3)  # c of b, c and e


def test_intervals_are_over_problems() -> None:
    # Of the four equally likely draws of two problems two have both; the other two have one of them twice.
    found = report_of()
    assert found.gain is not None
    assert (found.gain.low, found.gain.high) == (0.0, 1.0)  # d and e: (-1 + 1)/2; b: 1
    assert (found.improvement.low, found.improvement.high) == (0.0, pytest.approx(1 / 3))


def test_more_rests_of_the_same_place_are_averaged_and_those_of_others_are_not() -> None:
    probes = {f"p{at}": (0, reward, None, None, "b", 2, []) for at, reward in enumerate([0.0, 0.0, 1.0])}
    found = report_of(**probes, elsewhere=(0, 0.0, None, None, "b", 1, []), stranger=(0, 0.0, None, None, "x", 2, []))
    assert found.samples == 6
    assert found.gain is not None
    assert found.gain.value == pytest.approx((0.5 - 1 + 1) / 3)


def test_a_response_that_is_cut_where_nothing_can_follow_stays() -> None:
    found = refinement_of(batch_of({name: row for name, row in ROWS.items() if name != "e/refined"}), 1.0, {})
    assert (found.judged, found.accepted, found.replaced) == (5, 2, 2)
    assert found.after.value == pytest.approx((1 + 1 + 0 + 0 + 0) / 5)
    assert found.accepted_wrong is not None
    assert found.accepted_wrong.value == pytest.approx(1 / 3), "it was not accepted"


def test_a_second_revision_is_one_more_judgement() -> None:
    judged_again = (0, 1.0, 0.0, 1, "b", 2, ["refined"])
    found = report_of(
        **{"b/refined": judged_again, "b/refined/refined": (0, 0.0, None, None, "b/refined", 4, ["refined"])}
    )
    assert (found.judged, found.replaced) == (6, 4)
    assert found.gain is not None
    assert found.gain.value == pytest.approx((1 - 1 - 1 + 1) / 4)


def test_what_failed_is_left_out_and_counted() -> None:
    failed = (0, None, None, None, "b", 2, ["refined", "error"])
    found = report_of(**{"b/refined": failed})
    assert (found.judged, found.replaced, found.lost) == (4, 2, 1)
    assert found.before.value == pytest.approx(2 / 4)
    with pytest.raises(DataError, match="every replacement failed"):
        refinement_of(batch_of({"b": ROWS["b"], "b/refined": failed}), 1.0, {})


def test_nothing_cut_has_no_gain_and_nothing_right_no_share() -> None:
    found = refinement_of(batch_of({"c": ROWS["c"]}), 1.0, {})
    assert (found.gain, found.accepted_right) == (None, None)
    assert (found.volume.value, found.share.value, found.improvement.value) == (0.25, 0, 0)
    assert found.accepted_wrong is not None
    assert found.accepted_wrong.value == 1


def test_what_is_missing_is_named() -> None:
    with pytest.raises(
        DataError, match="no refiner has judged any response; run `apportion sample --from IN --strategy refine"
    ):
        refinement_of(batch_of({"p": (0, 1.0, None, None, None, None, [])}), 1.0, {})
    with pytest.raises(
        DataError,
        match=r"row 2, column 'reward': must be a finite number, got nan.*run `apportion score IN --with verify",
    ):
        report_of(**{"b/refined": (0, None, None, None, "b", 2, ["refined"])})


# ------------------------------------------------------------------------------------------ files of `refine`


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups of four, scored and split into steps."""
    folder = tmp_path_factory.mktemp("refinement")
    sample(prompts=3, n=4, seed=3, max_tokens=40, device="cpu", out=folder / "rollouts")
    score(folder / "rollouts", out=folder / "scored")
    score(folder / "scored", scorer="steps", out=folder / "stepped")
    return folder / "stepped"


def refined(stepped: Path, folder: Path, **options: Any) -> Path:
    settings = {"strategy": "refine", "rollouts": stepped, "seed": 4, "max_tokens": 40, "device": "cpu"}
    sample(**settings | options, out=folder / "refined", force=True)
    return folder / "refined"


def test_a_policy_that_cannot_judge_changes_nothing(stepped: Path, tmp_path: Path, cli: Cli) -> None:
    file = refined(stepped, tmp_path, settings={"refiner_tokens": 8})
    score(file, out=tmp_path / "scored")
    result = cli("eval", "refinement", tmp_path / "scored", "-o", tmp_path / "report.json", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "report.json").read_text())
    assert (found["judged"], found["replaced"], found["volume"]["value"], found["gain"]) == (12, 0, 0.0, None)
    assert found["improvement"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert cli("eval", "refinement", tmp_path / "scored", "-o", tmp_path / "report.json").exit_code == 2


def test_a_refiner_that_cuts_what_is_wrong(
    stepped: Path, tmp_path: Path, cli: Cli, scripted: Callable[..., Any]
) -> None:
    """It reads 'CUT 2' of all that have two steps or more and a wrong answer, and the numbers are those of the rows."""
    before = RolloutFile(stepped).read()
    wrong = {
        text for text, reward in zip(before.strings("text"), before.numbers("reward"), strict=True)
        if reward < 1 and text.count("\n") > 1
    }  # fmt: skip

    def reply(text: str) -> str | None:
        steps = text.partition("its steps numbered:\n")[2].partition("\n\n")[0]
        if not steps:
            return None
        lines = "".join(line.partition(". ")[2] + "\n" for line in steps.splitlines())
        return "CUT 2" if any(each.strip() == lines.strip() for each in wrong) else "ACCEPT"

    scripted(reply)
    file = refined(stepped, tmp_path, engine="scripted")
    refused = cli("eval", "refinement", file)
    assert refused.exit_code == 3
    assert (
        "column 'reward': must be a finite number, got nan; run `apportion score IN --with verify -o OUT`"
        in refused.stderr
    )
    score(file, out=tmp_path / "scored")
    result = cli("eval", "refinement", tmp_path / "scored", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {row["rollout_id"]: row for row in RolloutFile(tmp_path / "scored").read().table.to_pylist()}
    made = [row for row in rows.values() if "refined" in row["flags"]]
    assert (found["judged"], found["replaced"]) == (12, len(made))
    assert found["accepted_right"]["value"] == 1
    assert len(made) > 2
    assert found["gain"]["value"] == pytest.approx(np.mean([row["reward"] for row in made]))  # their parents had 0
    assert found["improvement"]["value"] == pytest.approx(sum(row["reward"] for row in made) / 12)
    shown = cli("eval", "refinement", tmp_path / "scored").stdout
    assert "accepted of right ones 1.000 [1.000, 1.000], of wrong ones" in shown
    assert "95 % intervals over problems" in shown


def test_a_file_without_verdicts_says_what_makes_them(stepped: Path, cli: Cli) -> None:
    result = cli("eval", "refinement", stepped)
    assert result.exit_code == 3
    assert result.stderr == (
        f"error: {stepped}: no column 'accept_probability', which eval refinement needs; "
        "run `apportion sample --from IN --strategy refine -o OUT` first, and score its output\n"
    )
