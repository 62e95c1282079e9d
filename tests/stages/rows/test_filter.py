"""`apportion filter`: flags, drops, whole groups; what `train` makes of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.errors import DataError
from apportion.formats.flags import FILTERED, UNTRAINED
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.rows._filter import recount_visits
from apportion.stages.structure.prefix_tree import add_prefix_tree
from apportion.stages.structure.state_groups import add_state_groups
from apportion.stages.train._run import _trainable
from apportion.stages.train.kind import OBJECTIVES
from typer.testing import Result

Cli = Callable[..., Result]


def flags_of(path: Path) -> list:
    return RolloutFile(path).read().strings("flags")


def test_the_others_are_flagged_and_nothing_is_dropped(cli: Cli, four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = cli("filter", four, "--where", "reward > 0", "-o", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{out}: 4 of 8 rollouts match, 4 flagged 'filtered'\n"
    assert flags_of(out) == [["truncated"], ["filtered"]] * 4
    before, after = RolloutFile(four).read().table, RolloutFile(out).read().table
    assert after.drop_columns(["flags"]).equals(before.drop_columns(["flags"]))


def test_the_history_says_what_was_asked_and_how_many_matched(cli: Cli, four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert cli("filter", four, "--where", "reward > 0", "-o", out).exit_code == 0
    first, record = RolloutFile(out).provenance.history
    assert first == RolloutFile(four).provenance.history[0]
    assert record.stage == "filter"
    assert record.parameters == {"where": "reward > 0", "drop": False, "flag": "filtered", "groups": None}
    assert record.inputs == {"rollouts": RolloutFile(four).digest()}
    assert record.counts == {"rollouts": 8, "groups": 4, "tokens": 12, "matched": 4, "others": 4}
    assert RolloutFile(out).provenance.facts == {"tokens_exact": True}
    assert cli("log", out, "--shell").stdout.splitlines()[-1].endswith(
        "filter rollouts.parquet --where 'reward > 0' --flag filtered -o out.parquet"
    )  # fmt: skip


def test_flags_add_up_and_are_set_once(cli: Cli, four: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1.parquet", tmp_path / "2.parquet"
    assert cli("filter", four, "--where", "reward > 0", "-o", one).exit_code == 0
    assert cli("filter", one, "--where", "row < 2", "--flag", "late", "-o", two).exit_code == 0
    assert flags_of(two)[:4] == [["truncated"], ["filtered"], ["truncated", "late"], ["filtered", "late"]]
    three = tmp_path / "3.parquet"
    assert cli("filter", two, "--where", "False", "-o", three).exit_code == 0
    assert flags_of(three)[1] == ["filtered"]


def test_drop(cli: Cli, four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = cli("filter", four, "--drop", "--where", "'truncated' in flags and row > 0", "-o", out, "--json")
    assert json.loads(result.stdout) == {
        "out": str(out), "rollouts": 3, "groups": 3, "tokens": 6, "matched": 3, "others": 5, "dropped": True, "flag": None,
    }  # fmt: skip
    assert RolloutFile(out).read().strings("rollout_id") == ["r2", "r4", "r6"]
    assert flags_of(out) == [["truncated"]] * 3
    assert RolloutFile(out).provenance.history[-1].counts["others"] == 5


@pytest.mark.parametrize(
    ("groups", "where", "kept"),
    [("any", "reward > 0 and row < 3", 4), ("all", "row < 3", 2), ("all", "reward >= 0", 8), ("any", "length == 1", 8)],
)
def test_whole_groups(groups: str, where: str, kept: int, cli: Cli, four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert cli("filter", four, "--where", where, "--groups", groups, "--drop", "-o", out).exit_code == 0
    assert RolloutFile(out).read().strings("rollout_id") == [f"r{row}" for row in range(kept)]
    assert cli("validate", out).exit_code == 0


def test_rows_count_over_row_groups(cli: Cli, four: Path, tmp_path: Path) -> None:
    """Two rows a row group, and a group of its own straddling none."""
    small, out = tmp_path / "small.parquet", tmp_path / "out.parquet"
    pq.write_table(RolloutFile(four).read().table, small, row_group_size=2)
    assert cli("filter", small, "--where", "row in [3, 6]", "--drop", "-o", out).exit_code == 0
    assert RolloutFile(out).read().strings("rollout_id") == ["r3", "r6"]


def test_a_file_without_flags_gets_them(cli: Cli, scored_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert cli("filter", scored_file, "--where", "length == 4", "-o", out).exit_code == 0
    assert flags_of(out) == [[], [], ["filtered"], ["filtered"]]


def test_dropped_rollouts_no_longer_pass_through_nodes(cli: Cli, tmp_path: Path) -> None:
    """Two groups; of the first, r1 is dropped, and with it one of three visits."""
    tokens = [[5, 7], [5, 7], [5, 8], [5], [5]]
    rewards = [1.0, 0.0, 0.5, 1.0, 0.0]
    batch = add_prefix_tree(rollouts_of(rewards, tokens=tokens, groups=[0, 0, 0, 1, 1]))
    assert batch.arrow("node.visits").to_pylist() == [[3, 2], [3, 2], [3, 1], [2], [2]]
    stale = Ragged(np.full(8, 9, np.float32), batch.ragged("node.id").offsets)
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    write_rollouts(source, [batch.with_columns({"node.value": stale})], Provenance())
    assert cli("filter", source, "--where", "row != 1", "--drop", "-o", out).exit_code == 0
    left = RolloutFile(out).read()
    assert left.arrow("node.visits").to_pylist() == [[2, 1], [2, 1], [2], [2]]
    assert left.arrow("node.value").to_pylist() == [[0.75, 1.0], [0.75, 0.5], [0.5], [0.5]]
    assert cli("filter", source, "--where", "row != 1", "-o", out, "--force").exit_code == 0
    assert RolloutFile(out).read().arrow("node.visits").to_pylist()[0] == [3, 2]  # flagged, not dropped


def test_a_node_without_a_reward_left_has_no_value() -> None:
    batch = add_prefix_tree(rollouts_of([1.0, 0.0, 1.0], tokens=[[5, 7], [5, 8], [5]]))
    unscored = batch.with_columns({"reward": pa.array([1.0, None, None]), "node.value": batch.ragged("node.visits")})
    assert recount_visits(unscored).arrow("node.value").to_pylist() == [[1.0, 1.0], None, [1.0]]
    bare = Rollouts(unscored.table.drop_columns(["reward"]))
    assert recount_visits(bare).arrow("node.value").to_pylist() == [None, None, None]
    assert "node.visits" not in recount_visits(rollouts_of([1.0], tokens=[[5]]))


def test_a_directory(cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("filter", folder, "--where", "reward > 0", "-o", out).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.parquet", "b.parquet"]
    assert flags_of(out / "b.parquet") == [["truncated"], ["filtered"]]
    dropped = tmp_path / "dropped"
    result = cli("filter", folder, "--where", "row > 1", "--drop", "-o", dropped)
    assert result.stderr == f"{dropped}: 4 of 8 rollouts match, 4 dropped\n"
    assert [path.name for path in dropped.iterdir()] == ["a.parquet"]  # nothing is left of the other


def test_in_a_pipe(four: Path) -> None:
    apportion = f"{sys.executable} -m apportion"
    line = (
        f"{apportion} filter - --where 'reward > 0' --drop -o - < {four} 2>/tmp/err.$$"
        f" | {apportion} show - -c rollout_id --to csv; rm /tmp/err.$$"
    )
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (ended.stdout.split(), ended.stderr) == (["rollout_id", "r0", "r2", "r4", "r6"], "")


def test_train_leaves_out_what_is_filtered(cli: Cli, four: Path, tmp_path: Path) -> None:
    credit, out, none = (tmp_path / f"{name}.parquet" for name in ("credit", "out", "none"))
    assert FILTERED in UNTRAINED
    assert cli("assign-credit", four, "--method", "rloo", "-o", credit).exit_code == 0
    rollouts = RolloutFile(credit).read()
    rollouts = rollouts.with_columns({"prompt_ids": [[1]] * len(rollouts)})
    pq.write_table(rollouts.table, tmp_path / "ready.parquet")
    assert cli("filter", tmp_path / "ready.parquet", "--where", "reward > 0", "-o", out).exit_code == 0
    used = _trainable([RolloutFile(out)], OBJECTIVES["ppo"], "token.advantage", False, False)
    assert used.strings("rollout_id") == ["r0", "r2", "r4", "r6"]
    assert cli("filter", out, "--where", "reward < 0", "-o", none).exit_code == 0
    with pytest.raises(DataError, match=r"no row to train on .purpose train, not flagged error or filtered, credit"):
        _trainable([RolloutFile(none)], OBJECTIVES["ppo"], "token.advantage", False, False)


FAULTS = {
    "unknown column": (("{four}", "--where", "rewrd > 0"), 2, "unknown column 'rewrd'; did you mean 'reward'?"),
    "no condition": (("{four}", "--where", "reward"), 2, "expected a condition"),
    "no predicate": (("{four}", "--where", "reward >"), 2, "invalid syntax"),
    "flag and drop": (("{four}", "--where", "True", "--drop", "--flag", "x"), 2, "with --drop nothing is flagged"),
    "flag": (("{four}", "--where", "True", "--flag", "a b"), 2, "expected letters, digits, - and _"),
    "groups": (("{four}", "--where", "True", "--groups", "some"), 2, "'some' is not one of 'any', 'all'"),
    "nothing left": (("{four}", "--where", "reward > 1", "--drop"), 3, "none of 8 rollouts matches 'reward > 1'"),
    "nothing left of a directory": (("{folder}", "--where", "reward > 1", "--drop"), 3, "none of 8 rollouts matches"),
    "column of one file only": (("{mixed}", "--where", "task == 'x'"), 2, "unknown column 'task'"),
    "missing input": (("nope.parquet", "--where", "True"), 2, "nope.parquet: no such file"),
    "broken column": (("{nan}", "--where", "reward > 0", "--drop"), 3, "nan for rollout 'r1', expected a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_end_in_one_line_and_no_output(
    name: str, cli: Cli, four: Path, folder: Path, tmp_path: Path, scored_file: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    rollouts = RolloutFile(four).read()
    pq.write_table(rollouts.table, mixed / "1.parquet")
    pq.write_table(RolloutFile(scored_file).read().table, mixed / "2.parquet")
    nan = rollouts.with_columns({"reward": [0.0, float("nan"), *[1.0] * 6]})
    pq.write_table(nan.table, tmp_path / "nan.parquet")
    places = {"four": four, "folder": folder, "mixed": mixed, "nan": tmp_path / "nan.parquet"}
    words, code, line = FAULTS[name]
    before = sorted(tmp_path.rglob("*"))
    result = cli("filter", *(word.format(**places) for word in words), "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (code, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    taken = cli("filter", four, "--where", "True", "-o", four)
    assert (taken.exit_code, "exists already" in taken.stderr) == (2, True)


def test_dropped_rollouts_are_in_no_state_any_more() -> None:
    batch = rollouts_of([1.0, 0.0], tokens=[[5, 7], [5, 7]]).with_columns(
        {
            "step.start": Ragged.from_lists([[0, 1], [0, 1]], np.int32),
            "step.end": Ragged.from_lists([[1, 2], [1, 2]], np.int32),
            "step.state": [["door", "hall"], ["door", "door"]],
        }
    )
    numbered = add_state_groups(batch)
    assert numbered.arrow("step.state_visits").to_pylist() == [[3, 1], [3, 3]]
    assert recount_visits(numbered.slice(1, 2)).arrow("step.state_visits").to_pylist() == [[2, 2]]
