"""`apportion diff` of three or more columns of one file: every pair, undefined numbers, what the terminal shows."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]
TOKENS = [[5, 7, 9], [5, 7], [4]]
MASK = [[True, False, True], [True, True], [True]]  # the second token of r0 is an environment's
COLUMNS = {
    "token.advantage_a": [[2.0, 0.0, -2.0], [1.0, 3.0], None],
    "token.advantage_b": [[1.0, 0.0, 1.0], [1.0, 1.0], [1.0]],  # does not vary
    "token.advantage_c": [[-4.0, 0.0, 4.0], None, [1.0]],
    "token.advantage_none": [None, None, None],
}


@pytest.fixture
def four(tmp_path: Path) -> Path:
    batch = rollouts_of([1.0, 0.0, 1.0], tokens=TOKENS, mask=MASK)
    batch = batch.with_columns({name: pa.array(each, pa.list_(pa.float32())) for name, each in COLUMNS.items()})
    path = tmp_path / "four.parquet"
    write_rollouts(path, [batch], Provenance())
    return path


def found_by(cli: Cli, *arguments: object) -> dict:
    result = cli("diff", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def pairs_of(found: dict) -> dict[str, dict]:
    return {
        "".join(path.removeprefix("token.advantage_")[0] for path in pair["columns"]): pair for pair in found["pairs"]
    }


def test_every_pair_is_compared_where_both_assign_credit(cli: Cli, four: Path) -> None:
    found = found_by(cli, four, "-c", "a,b,c")
    assert found["columns"] == ["token.advantage_a", "token.advantage_b", "token.advantage_c"]
    assert (found["rollouts"], found["unassigned"]) == (3, [1, 0, 2])
    pairs = pairs_of(found)
    assert {name: pair["tokens"]["places"] for name, pair in pairs.items()} == {"ab": 4, "ac": 2, "bc": 3}
    assert {name: pair["by_rollout"]["places"] for name, pair in pairs.items()} == {"ab": 2, "ac": 1, "bc": 2}
    assert pairs["ac"]["tokens"] == {
        "places": 2, "same_sign": 0.0, "opposite": 1.0, "spearman": -1.0, "pearson": -1.0, "same_sign_mass": 0.0,
        "mean_difference": 2.0,
    }  # fmt: skip


def test_what_is_undefined_is_null(cli: Cli, four: Path) -> None:
    pairs = pairs_of(found_by(cli, four))
    assert (pairs["ab"]["tokens"]["spearman"], pairs["ab"]["tokens"]["same_sign"]) == (None, 0.75)
    assert set(pairs["an"]["tokens"].values()) == {0, None}
    assert set(pairs["an"]["by_rollout"].values()) == {0, None}


def test_the_pair_most_apart_is_what_diff_of_these_two_finds(cli: Cli, four: Path) -> None:
    found = found_by(cli, four, "--limit", 1)
    assert found["most_apart"] == found_by(cli, four, "-c", "a,c", "--limit", 1)
    assert [each["rollout_id"] for each in found["most_apart"]["most"]] == ["r0"]


def test_every_pair_is_that_of_two_columns(cli: Cli, chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "credit.parquet"
    assert cli("assign-credit", chain / "tempo.parquet", "--method", "grpo,rloo,dr_grpo", "-o", out).exit_code == 0
    names = ("grpo", "rloo", "dr_grpo")
    pairs = found_by(cli, out, "-c", ",".join(names))["pairs"]
    for pair, (one, other) in zip(pairs, combinations(names, 2), strict=True):
        alone = found_by(cli, out, "-c", f"{one},{other}")
        assert (pair["tokens"], pair["by_rollout"]) == (alone["tokens"], alone["by_rollout"])


def test_all_credit_columns_without_c(cli: Cli, four: Path) -> None:
    assert found_by(cli, four)["columns"] == list(COLUMNS)


def shown_lines(cli: Cli, *arguments: object) -> list[str]:
    result = cli("diff", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_a_matrix_a_measure_has_tokens_above_the_diagonal(
    cli: Cli, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = shown_lines(cli, four, "-c", "a,b,c")
    assert "tokens without credit: 1 in a, 2 in c" in lines
    place = lines.index("same sign")
    assert lines[place + 1 : place + 5] == [
        "a b c", "a 75.0% 0.0%", "b 50.0% 66.7%", "c 100.0% 50.0%",
    ]  # fmt: skip
    place = lines.index("Spearman")
    assert lines[place + 2 : place + 5] == ["a – -1.000", "b – –", "c – –"]
    assert "a: " + f"{four} token.advantage_a" in lines
    assert any(line.startswith("rollout r0") for line in lines)


@pytest.fixture
def six(four: Path, tmp_path: Path) -> Path:
    rollouts = RolloutFile(four).read()
    more = {f"token.advantage_{name}": rollouts.arrow("token.advantage_a") for name in "def"}
    path = tmp_path / "six.parquet"
    write_rollouts(path, [rollouts.with_columns(more)], Provenance())
    return path


def test_a_narrow_terminal_gets_a_list_of_pairs(cli: Cli, six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    lines = shown_lines(cli, six, "-c", "a,b,c,d,e,f")
    place = lines.index("a and c")
    # The one rollout with both has means of 0 and 0.
    assert lines[place + 1 : place + 5] == [
        "tokens rollouts", "same sign 0.0% 100.0%", "Spearman -1.000 –", "mean difference, scaled 2.000 0.000",
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "fits"), [(50, False), (54, False), (55, True), (56, True)])
def test_a_matrix_is_never_cut(cli: Cli, six: Path, monkeypatch: pytest.MonkeyPatch, width: int, fits: bool) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = cli("diff", six, "-c", "a,b,c,d,e,f").stdout
    assert ("above the diagonal" in text) == fits
    assert "…" not in text.split("\na: ")[0]


def test_hostile_names_do_nothing(cli: Cli, four: Path, tmp_path: Path) -> None:
    rollouts = RolloutFile(four).read()
    name = "token.advantage_\x1b[2J[red]\u202e"
    path = tmp_path / "hostile.parquet"
    write_rollouts(path, [rollouts.with_columns({name: rollouts.arrow("token.advantage_a")})], Provenance())
    result = cli("diff", path)
    assert result.exit_code == 0
    assert "\x1b[2J" not in result.stdout and "\u202e" not in result.stdout and "[red]" in result.stdout


FAULTS = {
    "a column twice": (("-c", "a,b,a"), 2, "--columns names 'token.advantage_a' twice"),
    "an unknown column": (("-c", "a,b,d"), 2, "unknown credit column 'd'"),
    "a limit below 0": (("-c", "a,b,c", "--limit", -1), 2, "--limit must be at least 0"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str, cli: Cli, four: Path) -> None:
    words, code, line = FAULTS[name]
    result = cli("diff", four, *words)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert line in result.stderr


def test_no_token_with_credit_of_two(cli: Cli, tmp_path: Path) -> None:
    batch = rollouts_of([1.0], tokens=[[5]])
    nulls = pa.array([None], pa.list_(pa.float32()))
    path = tmp_path / "nulls.parquet"
    columns = {f"token.advantage_{name}": nulls for name in "abc"}
    write_rollouts(path, [batch.with_columns(columns)], Provenance())
    result = cli("diff", path)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
    assert (
        "no token to which two of token.advantage_a, token.advantage_b, token.advantage_c assign credit"
        in result.stderr
    )
