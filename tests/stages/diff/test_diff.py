"""`apportion diff` on files: matching, nulls, what is shown, faults."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]
TOKENS = [[5, 7, 9], [5, 7], [4]]
# The second token of r0 is an environment's; r2 has no credit in the first column.
FIRST = [[2.0, 0.0, -2.0], [1.0, 3.0], None]
SECOND = [[1.0, 0.0, 1.0], [1.0, 1.0], [5.0]]


def column(values: list) -> pa.Array:
    return pa.array(values, pa.list_(pa.float32()))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    mask = [[True, False, True], [True, True], [True]]
    batch = rollouts_of([1.0, 0.0, 1.0], tokens=TOKENS, mask=mask)
    batch = batch.with_columns({"token.advantage": column(FIRST), "token.advantage_other": column(SECOND)})
    path = tmp_path / "two.parquet"
    write_rollouts(path, [batch], Provenance())
    return path


def found_by(cli: Cli, *arguments: object) -> dict:
    result = cli("diff", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_two_columns_by_hand(cli: Cli, two: Path) -> None:
    found = found_by(cli, two, "--columns", "advantage,other")
    assert found["columns"] == ["token.advantage", "token.advantage_other"]
    assert (found["rollouts"], found["first_unassigned"], found["second_unassigned"]) == (3, 1, 0)
    # Compared: a = 2, -2, 1, 3 and b = 1, 1, 1, 1; scaled by means 2 and 1: 1, -1, 0.5, 1.5 against 1.
    tokens = found["tokens"]
    assert (tokens["places"], tokens["same_sign"], tokens["opposite"]) == (4, 0.75, 0.25)
    assert tokens["mean_difference"] == pytest.approx((0 + 2 + 0.5 + 0.5) / 4)
    assert tokens["same_sign_mass"] == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert tokens["pearson"] is None  # b does not vary
    # Rollouts: a = 0, 2 and b = 1, 1; scaled by 1 and 1.
    rollouts = found["by_rollout"]
    assert (rollouts["places"], rollouts["same_sign"], rollouts["mean_difference"]) == (2, 0.5, 1.0)
    assert [(each["rollout_id"], each["mean_difference"]) for each in found["most"]] == [("r0", 1.0), ("r1", 0.5)]
    worst = found["most"][0]
    assert (worst["ids"], worst["first"], worst["second"]) == ([5, 7, 9], [2.0, None, -2.0], [1.0, None, 1.0])
    assert worst["texts"] == ["5 ", "7 ", "9 "]
    assert (worst["same_sign"], worst["reward"]) == (0.5, 1.0)


def test_limit(cli: Cli, two: Path) -> None:
    assert len(found_by(cli, two, "-c", "advantage", "-c", "other", "--limit", 1)["most"]) == 1
    assert found_by(cli, two, "-c", "advantage,other", "--limit", 0)["most"] == []


def test_rows_are_matched_by_id(cli: Cli, two: Path, tmp_path: Path) -> None:
    """The other file has the rollouts in another order, in other groups of rows, one less and one more."""
    rollouts = RolloutFile(two).read()
    other = rollouts.take(np.array([1, 0]))
    more = rollouts_of([1.0], tokens=[[3]]).with_columns({"rollout_id": ["new"], "group_id": ["h"]})
    more = more.with_columns({"token.advantage": column([[1.0]]), "token.advantage_other": column([[1.0]])})
    write_rollouts(tmp_path / "other.parquet", [Rollouts.concat([more, other])], Provenance())
    found = found_by(cli, two, tmp_path / "other.parquet", "--columns", "advantage,other")
    assert (found["rollouts"], found["only_first"], found["only_second"]) == (2, 1, 1)
    alone = found_by(cli, two, "--columns", "advantage,other")
    for part in ("tokens", "by_rollout", "most", "scales"):
        assert found[part] == alone[part]


def test_a_file_agrees_with_itself(cli: Cli, two: Path) -> None:
    found = found_by(cli, two, two)
    assert (found["tokens"]["same_sign"], found["tokens"]["pearson"], found["most"]) == (1.0, 1.0, [])
    assert "agree on every token" in cli("diff", two, two).stdout


def test_on_the_terminal(cli: Cli, two: Path) -> None:
    result = cli("diff", two, "--columns", "advantage,other")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "3 rollouts compared; tokens without credit: 1 in a, 0 in b" in lines
    assert "same sign 75.0% 50.0%" in lines
    assert lines[lines.index("token text a advantage b advantage_other") + 1 :][:3] == [
        "0 5 +2.000 +1.000", "1 7 – –", "2 9 -2.000 +1.000",
    ]  # fmt: skip


def test_in_colour(cli: Cli, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A background for what has credit, none for the environment's token."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = cli("diff", two, "--columns", "advantage,other", "--limit", 1).stdout
    (a, b) = (line for line in shown.splitlines() if "9 " in line and "5 " in line)
    assert a.count("48;2;") == 2 and b.count("48;2;") == 2
    assert a != b
    assert "\x1b[2;3m7 " in a


def test_methods_on_a_real_file(cli: Cli, chain: Path) -> None:
    found = found_by(cli, chain / "credit.parquet", "--columns", "advantage,grpo", "--limit", 2)
    assert found["tokens"]["places"] == int(RolloutFile(chain / "credit.parquet").read().mask.sum())
    assert 0.9 < found["tokens"]["pearson"] < 1
    assert found["by_rollout"]["same_sign"] > 0.9
    assert any(text.strip() and not text.strip().isdigit() for text in found["most"][0]["texts"])  # decoded
    assert cli("diff", chain / "tempo.parquet", chain / "credit.parquet", "-c", "advantage,grpo").exit_code == 0


def test_from_a_pipe_and_into_a_closed_one(two: Path) -> None:
    line = f"{sys.executable} -m apportion diff - -c advantage,other < {two} | head -1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("a: - token.advantage\n0\n".replace("- ", "-  "), "")


FAULTS = {
    "one file, one column": (("{two}",), 2, "leave nothing to compare; name a second file, or two columns"),
    "unknown column": (("{two}", "-c", "advantage,othr"), 2, "unknown credit column 'othr'"),
    "no signal": (("{two}", "-c", "advantage,mask"), 2, "unknown credit column 'mask'"),
    "three columns of two files": (("{two}", "{two}", "-c", "a,b,c"), 2, "leave the second file out"),
    "limit": (("{two}", "{two}", "--limit", -1), 2, "--limit must be at least 0, got -1"),
    "missing file": (("{two}", "nope.parquet"), 2, "nope.parquet: no such file"),
    "nothing in common": (("{two}", "{foreign}"), 3, "have no rollout_id in common"),
    "other tokens": (("{two}", "{retokenised}"), 3, "rollout 'r0' is not the same in both (other token ids or another mask)"),
    "other lengths": (("{two}", "{longer}"), 3, "rollout 'r0' is not the same in both (3 tokens and 4)"),
    "both from standard input": (("-", "-"), 2, "standard input can be read once"),
    "no credit": (("{two}", "{bare}"), 2, "bare.parquet: unknown credit column 'advantage'"),
    "none assigned": (("{two}", "{nulls}"), 3, "no token to which both assign credit"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str, cli: Cli, two: Path, tmp_path: Path) -> None:
    rollouts = RolloutFile(two).read()
    names = {"rollout_id": ["x", "y", "z"], "group_id": ["h"] * 3}
    made = {
        "foreign": rollouts.with_columns(names),
        "retokenised": rollouts.with_columns({"token.id": pa.array([[5, 7, 8], [5, 7], [4]])}),
        "longer": rollouts_of([1.0], tokens=[[5, 7, 9, 9]]).with_columns({"token.advantage": column([[1.0] * 4])}),
        "bare": rollouts_of([1.0, 0.0, 1.0], tokens=TOKENS),
        "nulls": rollouts.with_columns({"token.advantage": column([None] * 3)}),
    }
    for each, batch in made.items():
        pq.write_table(batch.table, tmp_path / f"{each}.parquet")
    places = {each: tmp_path / f"{each}.parquet" for each in made} | {"two": two}
    words, code, line = FAULTS[name]
    result = cli("diff", *(str(word).format(**places) for word in words))
    assert (result.exit_code, result.stdout) == (code, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
