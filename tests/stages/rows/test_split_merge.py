"""`apportion split` and `merge`: whole groups, the same parts every time, histories kept."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance, Record, inputs_of
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.rows._histories import join_histories
from typer.testing import Result

Cli = Callable[..., Result]


def groups_of(path: Path) -> set[str]:
    return set(RolloutFile(path).read().strings("group_id"))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Two hundred groups of two."""
    path = tmp_path / "many.parquet"
    write_rollouts(path, [rollouts_of([1.0, 0.0] * 200, groups=[row // 2 for row in range(400)])], Provenance())
    return path


def test_by_a_column(cli: Cli, four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = cli("split", four, "--by", "task", "-o", out, "--json")
    assert json.loads(result.stdout) == {
        "out": str(out),
        "parts": [{"file": f"task%2F{k}.parquet", "rollouts": 4, "groups": 2, "tokens": 6} for k in (0, 1)],
    }
    assert groups_of(out / "task%2F0.parquet") == {"g0", "g2"}
    assert groups_of(out / "task%2F1.parquet") == {"g1", "g3"}
    first, record = RolloutFile(out / "task%2F1.parquet").provenance.history
    assert first == RolloutFile(four).provenance.history[0]
    assert record.stage == "split"
    assert record.parameters == {"by": "task", "parts": None, "shares": None, "seed": 0, "part": "task%2F1.parquet"}
    assert record.counts == {"rollouts": 4, "groups": 2, "tokens": 6}
    assert cli("validate", out).exit_code == 0


def test_missing_and_odd_values_have_files_of_their_own(cli: Cli, four: Path, tmp_path: Path) -> None:
    values = [None, "null", "../x", "x" * 300]
    batch = RolloutFile(four).read().with_columns({"task": [value for value in values for _ in range(2)]})
    pq.write_table(batch.table, tmp_path / "odd.parquet")
    out = tmp_path / "out"
    assert cli("split", tmp_path / "odd.parquet", "--by", "task", "-o", out).exit_code == 0
    names = sorted(path.name for path in out.iterdir())
    assert names[:3] == ["%2E.%2Fx.parquet", "%6Eull.parquet", "null.parquet"]
    assert groups_of(out / "null.parquet") == {"g0"}
    assert len(names) == 4
    numbers = tmp_path / "numbers"
    batch = batch.with_columns({"weight": [0.5, 0.5, None, None, 2.0, 2.0, 2.0, 2.0]})
    pq.write_table(batch.table, tmp_path / "odd.parquet")
    assert cli("split", tmp_path / "odd.parquet", "--by", "weight", "-o", numbers).exit_code == 0
    assert sorted(path.name for path in numbers.iterdir()) == ["0.5.parquet", "2.0.parquet", "null.parquet"]


def test_parts_have_every_group_once_and_whole(cli: Cli, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("split", many, "--parts", 3, "-o", out).exit_code == 0
    parts = [groups_of(out / f"part-{part}.parquet") for part in range(3)]
    assert sum(map(len, parts)) == 200 == len(set.union(*parts))
    assert all(45 < len(part) < 90 for part in parts)
    sizes = [RolloutFile(out / f"part-{part}.parquet").num_rows for part in range(3)]
    assert sizes == [2 * len(part) for part in parts]


def test_a_group_s_part_is_its_own_affair(cli: Cli, many: Path, tmp_path: Path) -> None:
    """Whatever else is in the file, and in which order: test stays test."""
    some = tmp_path / "some.parquet"
    assert cli("filter", many, "--where", "row % 3 == 0", "--groups", "any", "--drop", "-o", some).exit_code == 0
    for source, out in ((many, "whole"), (some, "less")):
        assert cli("split", source, "--shares", "train=0.8,test=0.2", "-o", tmp_path / out).exit_code == 0
    test, less = groups_of(tmp_path / "whole/test.parquet"), groups_of(tmp_path / "less/test.parquet")
    assert less == test & groups_of(some)
    assert 20 < len(test) < 60
    assert cli("split", many, "--shares", "train=8,test=2", "-o", tmp_path / "scaled").exit_code == 0
    assert groups_of(tmp_path / "scaled/test.parquet") == test
    assert cli("split", many, "--shares", "0.8,0.2", "--seed", 1, "-o", tmp_path / "seed").exit_code == 0
    assert groups_of(tmp_path / "seed/part-1.parquet") != test


def test_a_directory_and_a_pipe(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert cli("split", folder, "--by", "task", "-o", tmp_path / "out").exit_code == 0
    assert groups_of(tmp_path / "out/task%2F0.parquet") == {"ag0", "ag2", "bg0"}
    history = RolloutFile(tmp_path / "out/task%2F0.parquet").provenance.history
    assert [record.stage for record in history] == ["sample", "sample", "split"]  # of other counts
    assert set(history[-1].inputs) == {"rollouts/0", "rollouts/1"}
    line = f"{sys.executable} -m apportion split - --by task -o {tmp_path}/piped < {folder}/a.parquet"
    assert subprocess.run(["bash", "-c", line], capture_output=True, timeout=60).returncode == 0
    assert len(list((tmp_path / "piped").iterdir())) == 2


SPLIT_FAULTS = {
    "nothing": ((), 2, "no way to divide: give one of --by, --parts and --shares"),
    "two ways": (("--by", "task", "--parts", "2"), 2, "--by and --parts: give one of"),
    "unknown column": (("--by", "tsk"), 2, "unknown column 'tsk'; did you mean 'task'?"),
    "list": (("--by", "token.id"), 2, "expected a column of one value a rollout"),
    "torn group": (("--by", "finish_reason"), 3, "group 'g0' has finish_reason 'stop' and 'length', and a group stays in one file"),
    "no parts": (("--parts", "0"), 2, "--parts must be between 1 and 256, got 0"),
    "too many parts": (("--parts", "1000"), 2, "--parts must be between 1 and 256, got 1,000"),
    "more parts than groups": (("--parts", "40"), 3, "none of its 4 groups falls into 'part-"),
    "shares": (("--shares", "0.9,x"), 2, "'x': expected a number above 0"),
    "negative share": (("--shares", "1,-1"), 2, "'-1': expected a number above 0"),
    "names": (("--shares", "a=1,a=1"), 2, "two parts of one name"),
    "name": (("--shares", "../a=1,b=1"), 2, "'../a': expected letters"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLIT_FAULTS)
def test_faults_of_split(name: str, cli: Cli, four: Path, tmp_path: Path) -> None:
    words, code, line = SPLIT_FAULTS[name]
    result = cli("split", four, *words, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (code, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [four]


def test_too_many_values(cli: Cli, tmp_path: Path) -> None:
    batch = rollouts_of([1.0] * 300, groups=list(range(300)))
    write_rollouts(tmp_path / "x.parquet", [batch], Provenance())
    result = cli("split", tmp_path / "x.parquet", "--by", "group_id", "-o", tmp_path / "out")
    assert (result.exit_code, "more than 256 values" in result.stderr) == (3, True)
    assert not (tmp_path / "out").exists()


def test_values_that_differ_in_case_only(cli: Cli, four: Path, tmp_path: Path) -> None:
    batch = RolloutFile(four).read().with_columns({"task": ["Math"] * 4 + ["math"] * 4})
    pq.write_table(batch.table, tmp_path / "case.parquet")
    result = cli("split", tmp_path / "case.parquet", "--by", "task", "-o", tmp_path / "out")
    assert (result.exit_code, "case.parquet: two values differ in case only ('math')" in result.stderr) == (3, True)
    assert not (tmp_path / "out").exists()


def test_nothing_goes_to_standard_output_or_over_another_file(cli: Cli, four: Path, tmp_path: Path) -> None:
    assert cli("split", four, "--parts", 1, "-o", "-").exit_code == 2
    assert cli("split", four, "--parts", 1, "-o", four).exit_code == 2
    assert cli("split", four, "--by", "task", "-o", tmp_path / "out").exit_code == 0
    assert cli("split", four, "--parts", 1, "-o", tmp_path / "out", "--force").exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-0.parquet"]


# merge


def test_merge_undoes_split(cli: Cli, many: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back.parquet"
    assert cli("split", many, "--parts", 4, "-o", out).exit_code == 0
    result = cli("merge", out, "-o", back)
    assert result.exit_code == 0
    assert result.stderr == f"{back}: 400 rollouts, 200 groups, 400 tokens\n"
    ids = RolloutFile(back).read().strings("rollout_id")
    assert sorted(ids) == sorted(RolloutFile(many).read().strings("rollout_id"))
    assert cli("validate", back).exit_code == 0


def test_columns_are_united_and_missing_ones_null(cli: Cli, tmp_path: Path) -> None:
    one = rollouts_of([1.0, 0.0], tokens=[[5, 7], [5]])
    one = one.with_columns({"token.logprob": [[-0.5, -1.0], [0.0]], "note": pa.array([1, 2], pa.int32())})
    other = rollouts_of([0.5], tokens=[[8]]).with_columns({"rollout_id": ["x"], "group_id": ["h"]})
    other = other.with_columns(
        {"flags": [["error"]], "token.advantage": [[2.0]], "step.start": [[0]], "step.end": [[1]], "rewards.format": [1.0],
         "note": pa.array([2.5])}
    )  # fmt: skip
    write_rollouts(tmp_path / "1.parquet", [one], Provenance(facts={"tokens_exact": False, "a": 1, "b": 1}))
    write_rollouts(tmp_path / "2.parquet", [other], Provenance(facts={"a": 1, "b": 2}))
    out = tmp_path / "out.parquet"
    assert cli("merge", tmp_path / "1.parquet", tmp_path / "2.parquet", "-o", out).exit_code == 0
    found = RolloutFile(out).read()
    rows = {path: found.arrow(path).to_pylist() for path in found.paths}
    assert rows["rollout_id"] == ["r0", "r1", "x"]
    assert rows["reward"] == [1.0, 0.0, 0.5]
    assert rows["flags"] == [None, None, ["error"]]
    assert rows["token.logprob"] == [[-0.5, -1.0], [0.0], None]
    assert rows["token.advantage"] == [None, None, [2.0]]
    assert rows["step.start"] == [None, None, [0]]
    assert rows["rewards.format"] == [None, None, 1.0]
    assert rows["note"] == [1.0, 2.0, 2.5]
    assert cli("validate", out, "--ignore", "singleton").exit_code == 0
    assert RolloutFile(out).provenance.facts == {"tokens_exact": False, "a": 1}


def record(name: str, **parameters: object) -> Record:
    return Record(stage=name, version="1", parameters=parameters)


def test_histories_are_joined_where_they_begin_alike() -> None:
    a = Provenance(history=(record("sample"), record("score"), record("credit", m=1)))
    b = Provenance(history=(record("sample"), record("score"), record("credit", m=2)))
    c = Provenance(history=(record("sample", seed=2), record("score")))  # the same score of another sample
    found = join_histories([a, b, c, Provenance()], record("merge"))
    assert [each.stage for each in found.history] == ["sample", "score", "credit", "credit", "sample", "score", "merge"]
    assert found.history[-1].parameters == {"histories": [[0, 1, 2], [0, 1, 3], [4, 5], []]}
    again = join_histories([b, found], record("merge"))
    assert len(again.history) == 8  # b's three, then a's credit, c's two, the first merge, this one
    assert again.history[-1].parameters["histories"][0] == [0, 1, 2]
    assert [each.parameters.get("m") for each in again.history] == [None, None, 2, 1, None, None, None, None]
    assert again.history[-2].parameters["histories"] == [[0, 1, 3], [0, 1, 2], [4, 5], []]
    assert inputs_of(again.history) == [[None], [0], [1], [1], [None], [4], [3, 2, 5, None], [2, 6]]


def test_the_shell_commands_of_a_merged_file_make_it_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in (
        "sample --prompts 4 -n 2 --seed 1 --max-tokens 8 --device cpu -o a.parquet",
        "sample --prompts 4 -n 2 --seed 2 --max-tokens 8 --device cpu -o b.parquet",
        "score a.parquet --with verify -o sa.parquet",
        "split sa.parquet --parts 2 -o parts",
        "merge parts b.parquet -o ab.parquet",
        "filter ab.parquet --where 'length > 2' -o end.parquet",
    ):
        result = cli(*shlex.split(line))
        assert result.exit_code == 0, result.output
    lines = cli("log", "end.parquet", "--shell").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["sample", "score", "split", "sample", "merge", "filter"]
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    for line in lines:
        result = cli(*shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}: {result.output}"
    digests = cli("digest", "end.parquet", "../end.parquet").stdout.split()
    assert digests[0] == digests[2]


def test_merge_in_a_pipe(four: Path, folder: Path, tmp_path: Path) -> None:
    apportion = f"{sys.executable} -m apportion"
    line = f"{apportion} merge {four} - -o - < {folder}/a.parquet 2>{tmp_path}/err | {apportion} head - -n 20 -c group_id --json"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert ended.stderr == ""
    assert [row["group_id"] for row in json.loads(ended.stdout)][::2] == ["g0", "g1", "g2", "g3", "ag0", "ag1", "ag2"]


MERGE_FAULTS = {
    "same file twice": (("{four}", "{four}"), 3, "four.parquet: group 'g0' is in"),
    "same rollout": (("{four}", "{same}"), 3, "rollout_id 'r0' occurs in two places"),
    "other type": (("{four}", "{typed}"), 3, "typed.parquet: a column of another type than before"),
    "standard input twice": (("-", "-"), 2, "standard input can be read once"),
    "missing": (("{four}", "nope"), 2, "nope: no such file"),
    "no rows": (("{four}", "{empty}"), 3, "empty.parquet: no rollouts in it"),
    "no input": ((), 2, "missing argument 'rollouts'"),
}


@pytest.mark.parametrize("name", MERGE_FAULTS)
def test_faults_of_merge(name: str, cli: Cli, four: Path, tmp_path: Path) -> None:
    made = {
        "same": rollouts_of([1.0]).with_columns({"group_id": ["other"]}),
        "typed": rollouts_of([1.0]).with_columns({"rollout_id": ["x"], "group_id": ["y"]}),
        "empty": rollouts_of([1.0]).slice(0, 0),
    }
    four_table = RolloutFile(four).read().table.append_column("mine", pa.array(["a"] * 8))
    pq.write_table(four_table, four)
    pq.write_table(made["typed"].table.append_column("mine", pa.array([1])), tmp_path / "typed.parquet")
    for each in ("same", "empty"):
        pq.write_table(made[each].table, tmp_path / f"{each}.parquet")
    words, code, line = MERGE_FAULTS[name]
    before = sorted(tmp_path.iterdir())
    places = {each: tmp_path / f"{each}.parquet" for each in ("four", *made)}
    result = cli("merge", *(word.format(**places) for word in words), "-o", tmp_path / "out.parquet")
    assert (result.exit_code, result.stdout) == (code, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
