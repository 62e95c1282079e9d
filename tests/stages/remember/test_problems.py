"""The record of every problem, from iteration to iteration, and what reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.memories import MemoryFile
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.remember.kind import MEMORIES
from apportion.stages.remember.problems import ProblemHistory, problems
from apportion.stages.sample.fresh.budget import _rates
from apportion.stages.score.kind import SCORERS
from apportion.stages.score.outcome.problems import problems as known_of
from typer.testing import Result

Cli = Callable[..., Result]


def rollouts(rewards: dict[str, list[float]], lengths: dict[str, list[int]] | None = None, salt: str = "") -> Rollouts:
    """Rollouts of problems by name."""
    names = [name for name, each in rewards.items() for _ in each]
    flat = [reward for each in rewards.values() for reward in each]
    tokens = [[7] * length for name in rewards for length in (lengths or {}).get(name, [3] * len(rewards[name]))]
    groups = [list(rewards).index(name) for name in names]
    made = rollouts_of(flat, tokens=tokens, groups=groups)
    ids = [f"{salt}{number}" for number in range(len(flat))]
    return made.with_columns({"problem_id": names, "rollout_id": ids, "group_id": [f"{salt}{name}" for name in names]})


def remembered(*iterations: Rollouts, **options: Any) -> pa.Table:
    table: pa.Table | None = None
    for batch in iterations:
        table = problems(iter([batch]), table, **options)
    assert table is not None
    return table


def test_every_rollout_of_every_iteration_is_a_row() -> None:
    table = remembered(
        rollouts({"a": [1, 0], "b": [0.5, 1]}, {"a": [2, 5], "b": [1, 1]}), rollouts({"c": [1], "a": [1]})
    )
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", 0, 1.0, 2, False), ("a", 0, 0.0, 5, False), ("a", 1, 1.0, 3, False),
        ("b", 0, 0.5, 1, False), ("b", 0, 1.0, 1, False), ("c", 1, 1.0, 3, False),
    ]  # fmt: skip


def test_old_iterations_of_a_problem_are_forgotten_those_it_was_not_in_do_not_count() -> None:
    rounds = [{"a": [0.0]}, {"b": [1.0]}, {"a": [1.0], "b": [0.0]}, {"b": [0.0]}]
    table = remembered(*(rollouts(each) for each in rounds), iterations=2)
    assert list(zip(table["problem_id"].to_pylist(), table["iteration"].to_pylist(), strict=True)) == [
        ("a", 0), ("a", 2), ("b", 2), ("b", 3),
    ]  # fmt: skip
    assert ProblemHistory.of(table).age.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_slow_reading_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounds = [
        {f"p{each}": rng.integers(0, 2, rng.integers(1, 4)).astype(float).tolist() for each in rng.permutation(5)[:3]}
        for _ in range(6)
    ]
    table = remembered(*(rollouts(each) for each in rounds), iterations=2)
    kept: dict[str, list[list[float]]] = {}
    for each in rounds:
        for name, rewards in each.items():
            kept[name] = [*kept.get(name, []), rewards][-2:]
    found: dict[str, dict[int, list[float]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["problem_id"], {}).setdefault(row["iteration"], []).append(row["reward"])
    assert {name: [each[number] for number in sorted(each)] for name, each in found.items()} == kept


def test_only_what_the_policy_made_of_the_prompt_counts() -> None:
    batch = rollouts({"a": [1, 0, 1, 0, 1]}).with_columns({"purpose": ["train", "probe", "eval", None, "train"]})
    batch = batch.with_flag("hinted", np.array([False] * 4 + [True]))
    assert remembered(batch)["reward"].to_pylist() == [1.0, 0.0]
    for flag in (
        "error",
        "retried",
        "reflection",
        "guided",
        "refined",
        "intervention",
        "edited",
        "partial",
        "demonstration",
    ):
        flagged = batch.with_flag(flag, np.array([True] + [False] * 4))
        assert remembered(flagged)["reward"].to_pylist() == [0.0], flag
    nothing = remembered(batch.take(np.array([1, 2])))
    assert nothing.num_rows == 0
    assert remembered(batch.take(np.array([1])), rollouts({"a": [1]}))["iteration"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"reward": [1.0, float("nan")]}, r"row 1, column 'reward': missing; run `apportion score"),
        ({"problem_id": [None, "a"]}, "row 0, column 'problem_id': missing"),
    ],
)
def test_what_cannot_be_counted_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        remembered(rollouts({"a": [1, 0]}).with_columns(columns))
    with pytest.raises(UsageError, match="memory problems: iterations must be at least 1, got 0"):
        MEMORIES.settle("problems", {"iterations": 0})


def write(path: Path, batch: Rollouts) -> Path:
    write_rollouts(path, [batch], Provenance())
    return path


def test_the_command_goes_on_with_the_memory_before(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path.joinpath
    write(path("0"), rollouts({"a": [1, 0]}, salt="x"))
    write(path("1"), rollouts({"a": [1, 1], "b": [0]}, salt="y"))
    first = cli("remember", path("0"), "-o", path("m0"))
    assert (first.exit_code, first.stderr) == (0, f"{path('m0')}: problems, 2 rows; 2 rollouts were new\n")
    assert cli("remember", path("1"), "--earlier", path("m0"), "-o", path("m1")).exit_code == 0
    table = MEMORIES["problems"].read(path("m1"))
    assert table["iteration"].to_pylist() == [0, 0, 1, 1, 1]
    assert MEMORIES["problems"].read(path("m0")).num_rows == 2
    stages = [record.counts for record in MemoryFile(path("m1")).provenance.history]
    assert stages == [{"rollouts": 2, "rows": 2}, {"rollouts": 3, "rows": 5}]
    again = cli("remember", path("0"), "--earlier", path("m1"), "-o", path("m2"))
    assert again.exit_code == 2
    assert f"{path('0')}: these rollouts are already in {path('m1')}" in again.stderr
    assert not path("m2").exists()


def test_a_directory_is_one_iteration(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "0.parquet", rollouts({"a": [1, 0]}, salt="x"))
    write(tmp_path / "parts" / "1.parquet", rollouts({"b": [1]}, salt="y"))
    assert cli("remember", tmp_path / "parts", "-o", tmp_path / "m").exit_code == 0
    assert MEMORIES["problems"].read(tmp_path / "m")["iteration"].to_pylist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("remember plain -o m", 3, "plain: no column 'problem_id', which memory 'problems' needs"),
        ("remember bad -o m", 3, "bad (rows from 0): row 0, column 'reward': missing"),
        ("remember good --what problms -o m", 2, "did you mean 'problems'?"),
        ("remember good --set iteration=2 -o m", 2, "did you mean 'iterations'?"),
        ("remember good --earlier plain -o m", 3, "plain: no memory"),
        ("remember good -o -", 2, "a memory cannot go to standard output; name a file with -o"),
        ("remember good -o good", 2, "good: an input, which --force does not replace"),
        ("score good --with problems --set memory=nowhere -o s", 2, "nowhere: no such file"),
        ("score good --with problems --set memory=good -o s", 3, "good: no memory"),
        ("score good --with problems -o s", 2, "scorer problems: the option 'memory' is required"),
    ],
)
def test_faults(line: str, code: int, message: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("plain"), rollouts_of([1.0, 0.0]))
    write(Path("good"), rollouts({"a": [1, 0]}))
    write(Path("bad"), rollouts({"a": [1, 0]}).with_columns({"reward": pa.array([None, 1.0])}))
    result = cli(*line.split())
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1), result.output
    assert message in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "good", "plain"]


def test_its_history_is_shown_and_its_commands_make_it_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("0"), rollouts({"a": [1, 0]}, salt="x"))
    write(Path("1"), rollouts({"a": [1]}, salt="y"))
    cli("remember", "0", "-o", "m0")
    cli("remember", "1", "--earlier", "m0", "--set", "iterations=3", "-o", "m1")
    assert "m1: format 1, memory: problems" in cli("log", "m1").stdout
    lines = cli("log", "m1", "--shell").stdout.splitlines()
    assert [line for line in lines if line[0] != "#"] == [
        "apportion remember input.parquet -o memory.parquet",
        "apportion remember input.parquet --earlier memory.parquet --set iterations=3 -o m1",
    ]
    assert [line.rpartition(" ")[2] for line in lines if line[0] == "#"] == [
        RolloutFile(Path("0")).digest(), RolloutFile(Path("1")).digest()
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ what reads it


def memory(tmp_path: Path, cli: Cli, *iterations: Rollouts) -> Path:
    before: list[object] = []
    for number, batch in enumerate(iterations):
        write(tmp_path / f"r{number}", batch)
        assert cli("remember", tmp_path / f"r{number}", *before, "-o", tmp_path / f"m{number}").exit_code == 0
        before = ["--earlier", tmp_path / f"m{number}"]
    return tmp_path / f"m{len(iterations) - 1}"


def test_what_is_known_of_a_problem(tmp_path: Path, cli: Cli) -> None:
    first = rollouts({"a": [1, 0, 0], "b": [0]}, {"a": [9, 4, 6], "b": [5]}, salt="x")
    cut = first.with_flag("truncated", np.array([False, False, True, False]))
    second = rollouts({"a": [1], "c": [1]}, {"a": [3], "c": [2]}, salt="y")
    path = memory(tmp_path, cli, cut, second)
    asked = rollouts({"c": [0], "a": [0], "new": [0], "b": [0]})

    def values(**options: Any) -> dict[str, list[Any]]:
        return {name: each.to_pylist() for name, each in known_of(asked, memory=path, **options).items()}

    assert values() == {
        "problem.rollouts": [1, 4, 0, 1],
        "problem.success": [1.0, 0.5, None, 0.0],
        "problem.right_length": [2.0, 9.0, None, None],
        "problem.wrong_length": [None, 4.0, None, 5.0],  # the one of 6 tokens was cut off
    }
    assert values(iterations=1) == {
        "problem.rollouts": [1, 1, 0, 1],
        "problem.success": [1.0, 1.0, None, 0.0],
        "problem.right_length": [2.0, 3.0, None, None],
        "problem.wrong_length": [None, None, None, 5.0],
    }
    assert values(correct=1.0)["problem.success"] == [0.0, 0.0, None, 0.0]
    with pytest.raises(UsageError, match="scorer problems: iterations must be at least 1, got 0"):
        SCORERS.settle("problems", {"memory": path, "iterations": 0})


def test_a_memory_that_was_written_anew_is_read_anew(tmp_path: Path, cli: Cli) -> None:
    asked = rollouts({"a": [0]})
    for reward in (0.0, 1.0):
        write(tmp_path / "r", rollouts({"a": [reward] * (2 + int(reward))}, salt=str(reward)))
        assert cli("remember", tmp_path / "r", "-o", tmp_path / "m", "--force").exit_code == 0
        assert known_of(asked, memory=tmp_path / "m")["problem.success"].to_pylist() == [reward]
        (tmp_path / "r").unlink()


def test_adora_of_the_latest_iteration_alone_is_adora_of_the_group(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path.joinpath
    earlier: list[object] = []
    for number in range(2):
        for line in (
            f"sample --prompts 6 -n 6 --seed 5 --round {number} --max-tokens 24 --device cpu -o {path(f'a{number}')}",
            f"score {path(f'a{number}')} -o {path(f'b{number}')}",
        ):
            assert cli(*line.split()).exit_code == 0
        assert cli("remember", path(f"b{number}"), *earlier, "-o", path(f"m{number}")).exit_code == 0
        earlier = ["--earlier", path(f"m{number}")]
    for line in (
        f"score {path('b1')} --with problems --set memory={path('m1')} --set iterations=1 -o {path('c')}",
        f"assign-credit {path('c')} --method adora -o {path('d')}",
        f"assign-credit {path('d')} --method adora --set statistics=memory --as memory -o {path('e')}",
        f"validate {path('e')} --ignore singleton --ignore zero_credit",
    ):
        result = cli(*line.split())
        assert result.exit_code == 0, f"{line}: {result.output}"
    batch = RolloutFile(path("e")).read()
    group, carried = (batch.ragged(f"token.{name}").values for name in ("advantage", "advantage_memory"))
    assert np.unique(np.abs(group)).size > 3
    np.testing.assert_array_equal(group, carried)


def test_a_budget_by_the_memory_is_one_by_the_files(tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    rounds = [
        rollouts({name: rng.integers(0, 2, 7).astype(float).tolist() for name in names}, salt=str(number))
        for number, names in enumerate(("ab", "bc", "ac", "a"))
    ]
    path = memory(tmp_path, cli, *rounds)
    assert _rates([path]) == _rates([tmp_path / f"r{number}" for number in range(4)])
    assert len(set(_rates([path]).values())) == 3
