"""What `apportion validate` says, and of what."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.rules import RULES
from apportion.formats.seal import seal
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]


def write(path: Path, rollouts: Rollouts) -> Path:
    """With pyarrow alone, which checks nothing."""
    pq.write_table(rollouts.table, path)
    seal(path)
    return path


def two_files(folder: Path, *, rollout: str = "s", group: str = "h") -> Path:
    """A data set of two files with one group of two each."""
    data_set = folder / "data"
    data_set.mkdir()
    batch = rollouts_of([1.0, 0.0])
    write_rollouts(data_set / "a.parquet", [batch], Provenance())
    names = {"rollout_id": [f"{rollout}{row}" for row in range(2)], "group_id": [f"{group}0"] * 2}
    write_rollouts(data_set / "b.parquet", [batch.with_columns(names)], Provenance())
    return data_set


def test_every_row_of_every_rule_is_named(tmp_path: Path, cli: Cli) -> None:
    rollouts = rollouts_of([np.nan, 1.0, np.inf], tokens=[[1, 2], [-3, 4], [5, 6]])
    positive = Ragged.from_lists([[0.5, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    path = write(tmp_path / "a.parquet", rollouts.with_columns({"token.logprob": positive}))
    result = cli("validate", path)
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        f"{path}: row 1, column 'token.id': -3 at position 0, expected 0 to 2147483647 [token_ids]",
        f"{path}: row 0, column 'reward': nan for rollout 'r0', expected a finite number [finite]",
        f"{path}: row 2, column 'reward': inf for rollout 'r2', expected a finite number [finite]",
        f"{path}: row 0, column 'token.logprob': 0.5 at position 0, expected <= 0 [logprob]",
        f"{path}: row 1, column 'token.logprob': 2.0 at position 1, expected <= 0 [logprob]",
        f"{path}: row 2, column 'token.logprob': 1.0 at position 0, expected <= 0 (2 places) [logprob]",
    ]
    assert result.stderr == f"error: {path}: 6 broken invariants\n"


def test_a_broken_row_does_not_hide_the_others(tmp_path: Path, cli: Cli) -> None:
    token = pa.array([{"id": [1, 2], "mask": [True]}, {"id": [1], "mask": [True]}, {"id": [-1], "mask": [True]}])
    table = rollouts_of([1.0, np.nan, 0.0]).table.drop_columns(["token"]).append_column("token", token)
    result = cli("validate", write(tmp_path / "a.parquet", Rollouts(table)), "--json")
    found = [(each["rule"], each["row"]) for each in json.loads(result.stdout)["findings"]]
    assert found == [("lengths", 0), ("token_ids", 2), ("finite", 1)]


def test_the_list_is_cut_and_says_what_it_leaves_out(tmp_path: Path, cli: Cli) -> None:
    path = write(tmp_path / "a.parquet", rollouts_of([np.nan] * 7))
    lines = cli("validate", path, "--limit", 2).stdout.splitlines()
    assert len(lines) == 3
    assert lines[2] == f"{path}: 5 more of [finite], 7 in all; --limit N lists more"
    content = json.loads(cli("validate", path, "--limit", 2, "--json").stdout)
    assert content["counts"] == {"finite": 7}
    assert [each["row"] for each in content["findings"]] == list(range(7))
    assert cli("validate", path, "--limit", -1).exit_code == 2


def test_rows_count_from_the_files_start(tmp_path: Path, cli: Cli) -> None:
    rollouts = rollouts_of([0.0, 1.0, 0.0, np.nan], groups=[0, 0, 1, 1])
    pq.write_table(rollouts.table, tmp_path / "a.parquet", row_group_size=2)
    assert "row 3, column 'reward'" in cli("validate", tmp_path / "a.parquet").stdout


def test_a_directory_is_one_data_set(tmp_path: Path, cli: Cli) -> None:
    assert cli("validate", two_files(tmp_path)).stdout == f"{tmp_path / 'data'}: ok, 4 rollouts\n"


@pytest.mark.parametrize(
    ("names", "rule", "rows"), [({"rollout": "r"}, "duplicate_rollout", [0, 1]), ({"group": "g"}, "split_group", [0])]
)
def test_names_are_used_once_in_a_directory(
    names: dict[str, str], rule: str, rows: list[int], tmp_path: Path, cli: Cli
) -> None:
    data_set = two_files(tmp_path, **names)
    found = json.loads(cli("validate", data_set, "--json").stdout)["findings"]
    assert [(each["rule"], each["row"], Path(each["file"]).name) for each in found] == [
        (rule, row, "b.parquet") for row in rows
    ]
    for command in ("tree-build", "assign-credit"):
        result = cli(
            command, data_set, *(["--method", "grpo"] if command != "tree-build" else []), "-o", tmp_path / "new"
        )
        assert result.exit_code == 3
        assert "occurs in two places" in result.stderr
        assert not (tmp_path / "new").exists()


def suspicious(folder: Path) -> Path:
    """A live group without credit, then a group of one."""
    zero = Ragged.from_lists([[0.0]] * 3, np.float32)
    rollouts = rollouts_of([1.0, 0.0, 1.0], groups=[0, 0, 1]).with_columns({"token.advantage": zero})
    write_rollouts(folder / "a.parquet", [rollouts], Provenance())  # no stage refuses it
    return folder / "a.parquet"


def test_suspicions_end_with_3_unless_ignored(tmp_path: Path, cli: Cli) -> None:
    path = suspicious(tmp_path)
    result = cli("validate", path)
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        f"{path}: row 2, column 'group_id': warning: rollout alone in group 'g1', without a sibling to be compared with [singleton]",
        f"{path}: row 0, column 'token.advantage': warning: all credit of group 'g0' is 0, but its rewards are 0 to 1 [zero_credit]",
    ]
    said = "2 warnings (where they are meant: --ignore zero_credit --ignore singleton)"
    assert result.stderr == f"error: {path}: {said}\n"
    result = cli("validate", path, "--ignore", "zero_credit", "--ignore", "singleton")
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok, 3 rollouts\n")


def test_an_unknown_rule_has_a_near_match(tmp_path: Path, cli: Cli) -> None:
    result = cli("validate", suspicious(tmp_path), "--ignore", "singletn")
    assert result.exit_code == 2
    assert result.stderr == "error: unknown rule 'singletn'; did you mean 'singleton'?\n"


def test_demonstrations_and_evals_need_no_sibling(tmp_path: Path, cli: Cli) -> None:
    alone = rollouts_of([1.0, 1.0], groups=[0, 1])
    for name, columns in {
        "demonstration": {"flags": [["demonstration"]] * 2},
        "eval": {"purpose": ["eval", "probe"]},
    }.items():
        path = write(tmp_path / f"{name}.parquet", alone.with_columns(columns))
        assert cli("validate", path).exit_code == 0


def test_help_lists_every_rule(cli: Cli) -> None:
    lines = cli("validate", "--help").stdout.splitlines()
    assert [line.split()[0] for line in lines if line.strip().split(" ")[0] in RULES] == list(RULES)


def test_parts_of_an_episode_that_do_not_fit_are_named(tmp_path: Path, cli: Cli) -> None:
    """a has a place twice and d a part without one; that b is in two groups, of two files, is a suspicion."""
    folder = tmp_path / "data"
    folder.mkdir()
    first = rollouts_of([1.0, 1.0, 0.0, 0.5, 1.0, 1.0], groups=[0, 0, 1, 1, 2, 2])
    names = {"episode_id": ["a", "a", "b", "c", "d", "d"], "part": pa.array([0, 0, 0, None, None, 0], pa.int32())}
    write(folder / "a.parquet", first.with_columns(names))
    others = {
        "rollout_id": ["x", "y"],
        "group_id": ["g9"] * 2,
        "episode_id": ["b", None],
        "part": pa.array([1, None], pa.int32()),
    }
    write(folder / "b.parquet", rollouts_of([1.0, 0.0]).with_columns(others))
    result = cli("validate", folder)
    assert result.exit_code == 3
    assert [line.partition(": ")[2] for line in result.stdout.splitlines()] == [
        "row 1, column 'part': 0, as another part of the same episode; expected the row's place in its episode [episode_parts]",
        "row 4, column 'part': missing (null); expected the row's place in its episode [episode_parts]",
        "row 0, column 'episode_id': warning: episode 'b' is in group 'g1', too; it counts once in each [split_episode]",
    ]
