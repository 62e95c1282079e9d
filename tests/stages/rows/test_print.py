"""`apportion head` and `show`: what is printed, when, and into which pipes."""

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]
APPORTION = f"{sys.executable} -m apportion"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Values that text formats have trouble with."""
    batch = rollouts_of([1.0, 0.5], tokens=[list(range(20)), [5]]).with_columns(
        {
            "text": ['a "quoted", line\nand ä', "\x1b[31mred"], "finish_reason": [None, "stop"], "flags": [["x", "y"], None],
            "prompt": [[{"role": "user", "content": "1+1?"}], None], "rewards.format": pa.array([None, 1.0]),
            "token.entropy": pa.array([[0.25] * 20, None], pa.list_(pa.float32())), "good": [True, None],
        }
    )  # fmt: skip
    path = tmp_path / "odd.parquet"
    pq.write_table(batch.table, path)
    return path


def test_head_is_a_block_a_row(cli: Cli, odd: Path) -> None:
    result = cli("head", odd, "-n", 1, "--columns", "rollout_id,reward,finish_reason,text,flags,prompt,token.id")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "row 0",
        "  rollout_id     r0",
        "  reward         1",
        "  finish_reason  –",
        '  text           a "quoted", line⏎and ä',
        "  flags          [x, y]",
        "  prompt         [{role: user, content: 1+1?}]",
        "  token.id       [0, 1, 2, 3, 4, 5, 6, 7, … 20 in all]",
    ]


def test_head_keeps_control_characters_off_the_terminal(cli: Cli, odd: Path) -> None:
    assert "\x1b" not in cli("head", odd).stdout
    assert cli("head", odd).stdout.count("row ") == 2


def test_head_as_json_is_whole(cli: Cli, odd: Path) -> None:
    rows = json.loads(cli("head", odd, "-c", "token.id", "-c", "reward", "--json").stdout)
    assert rows == [{"token.id": list(range(20)), "reward": 1.0}, {"token.id": [5], "reward": 0.5}]
    assert json.loads(cli("head", odd, "-n", 0, "--json").stdout) == []


def test_head_of_a_directory_goes_on_in_the_next_file(cli: Cli, folder: Path) -> None:
    rows = json.loads(cli("head", folder, "-n", 7, "-c", "rollout_id", "--json").stdout)
    assert [row["rollout_id"] for row in rows] == ["ar0", "ar1", "ar2", "ar3", "ar4", "ar5", "br0"]


def test_jsonl_is_the_file_row_by_row(cli: Cli, odd: Path) -> None:
    result = cli("show", odd)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows == RolloutFile(odd).read().table.to_pylist()
    assert json.loads(cli("show", odd, "--json").stdout) == rows


def test_csv_has_lists_as_json(cli: Cli, odd: Path) -> None:
    result = cli("show", odd, "--to", "csv", "-c", "rollout_id,text,finish_reason,good,flags,token.entropy,rewards")
    header, one, two = csv.reader(io.StringIO(result.stdout))
    assert header == ["rollout_id", "text", "finish_reason", "good", "flags", "token.entropy", "rewards.format"]
    assert one == ["r0", 'a "quoted", line\nand ä', "", "true", '["x", "y"]', json.dumps([0.25] * 20), ""]
    assert two == ["r1", "␛[31mred", "stop", "", "", "", "1.0"]


def test_columns_keep_their_order_and_limit_counts(cli: Cli, four: Path) -> None:
    result = cli("show", four, "-c", "reward,token,rollout_id", "--limit", 3)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(rows[0]) == ["reward", "token", "rollout_id"]
    assert [row["rollout_id"] for row in rows] == ["r0", "r1", "r2"]
    assert cli("show", four, "--limit", 0).stdout == ""
    assert cli("show", four, "--limit", 0, "--to", "csv", "-c", "reward").stdout == "reward\n"


def test_where(cli: Cli, four: Path, folder: Path) -> None:
    where = "reward > group_mean(reward) and row > 1"  # none of its columns is shown
    assert cli("show", four, "--where", where, "-c", "rollout_id", "--to", "csv").stdout.split() == [
        "rollout_id", "r2", "r4", "r6",
    ]  # fmt: skip
    rows = cli("show", folder, "--where", "row == 1", "-c", "rollout_id").stdout.splitlines()
    assert rows == ['{"rollout_id": "ar1"}', '{"rollout_id": "br1"}']


def test_what_json_does_not_know_is_null(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(rollouts_of([float("nan"), float("inf"), 1.0]).table, tmp_path / "nan.parquet")
    lines = cli("show", tmp_path / "nan.parquet", "-c", "reward").stdout.splitlines()
    assert lines == ['{"reward": null}', '{"reward": null}', '{"reward": 1.0}']


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty row groups of 200 rollouts; the last one is damaged."""
    path = tmp_path_factory.mktemp("large") / "large.parquet"
    rows = 200
    batch = rollouts_of([1.0] * rows, tokens=[list(range(200))] * rows, groups=list(range(rows)))
    with pq.ParquetWriter(path, batch.table.schema) as writer:
        for part in range(40):
            names = [f"{part}-{row}" for row in range(rows)]
            writer.write_table(batch.with_columns({"rollout_id": names, "group_id": names}).table)
    end = pq.ParquetFile(path).metadata.row_group(39).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[end : end + 400] = b"\xff" * 400
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("command", ["show {}", "show {} --to csv", "show - < {}", "show {} --where 'length > 0'"])
def test_the_first_row_needs_no_more_than_the_first_part(command: str, large: Path) -> None:
    line = f"{APPORTION} {command.format(large)} | head -1 | cut -c1-12; echo ${{PIPESTATUS[0]}}"
    ended = shell(line)
    assert ended.stdout in ('{"rollout_id\n0\n', "rollout_id,g\n0\n")
    assert ended.stderr == ""


def test_rows_before_a_damaged_part_are_printed(large: Path) -> None:
    ended = shell(f"set -o pipefail; {APPORTION} show {large} -c reward,rollout_id | wc -l")
    assert ended.returncode == 3
    assert ended.stdout.strip() == str(39 * 200)
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["head {} -n 5000 -c rollout_id,token.id", "show {}"])
def test_a_closed_pipe_is_no_error(command: str, large: Path) -> None:
    ended = shell(f"{APPORTION} {command.format(large)} | true; echo ${{PIPESTATUS[0]}}")
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_rows_come_while_the_file_is_read(tmp_path: Path) -> None:
    """The first line is there long before the process could have printed them all into a full pipe."""
    rows = 20_000
    batch = rollouts_of([1.0] * rows, tokens=[[1] * 50] * rows, groups=list(range(rows)))
    pq.write_table(batch.table, tmp_path / "x.parquet", row_group_size=1000)
    with subprocess.Popen([*APPORTION.split(), "show", str(tmp_path / "x.parquet")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["rollout_id"] == "r0"
        time.sleep(0.3)
        assert process.poll() is None  # waits for its reader
        process.stdout.close()
        assert process.wait(timeout=30) == 0


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom apportion.cli.main import app\n"
        "try:\n    app(['show', sys.argv[1]])\nexcept SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    peaks = []
    for groups in (2, 30):
        path = tmp_path / f"{groups}.parquet"
        rng = np.random.default_rng(0)
        with pq.ParquetWriter(path, rollouts_of([1.0]).table.schema) as writer:
            for _ in range(groups):
                ids = pa.array(rng.integers(0, 1 << 30, (400, 500)).astype(np.int32).tolist(), pa.list_(pa.int32()))
                batch = rollouts_of([1.0] * 400).with_columns(
                    {"token.id": ids, "token.mask": pa.array([[True] * 500] * 400)}
                )
                writer.write_table(batch.table)
        words = [sys.executable, "-c", code, str(path)]
        ended = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120)
        peaks.append(int(ended.stderr.splitlines()[-1]))
    assert peaks[1] < peaks[0] * 1.4, peaks


FAULTS = {
    "head, unknown column": ("head {four} -c rewrd", 2, "unknown column 'rewrd'; did you mean 'reward'?"),
    "head, rows": ("head {four} -n -1", 2, "--rows must be at least 0, got -1"),
    "show, unknown column": ("show {four} -c reward,tokn", 2, "unknown column 'tokn'"),
    "show, predicate": ("show {four} --where rewrd>0", 2, "unknown column 'rewrd'; did you mean 'reward'?"),
    "show, form": ("show {four} --to xml", 2, "'xml' is not one of 'jsonl', 'csv'"),
    "show, limit": ("show {four} --limit -1", 2, "--limit must be at least 0, got -1"),
    "show, missing": ("show nope.parquet", 2, "nope.parquet: no such file"),
    "show, foreign": ("show {foreign}", 3, "not a rollout file"),
    "show, files with other columns": ("show {mixed}", 3, "no column 'flags', which"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str, cli: Cli, four: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    pq.write_table(RolloutFile(four).read().table, tmp_path / "mixed/1.parquet")
    pq.write_table(rollouts_of([1.0]).table, tmp_path / "mixed/2.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "foreign.parquet")
    words, code, line = FAULTS[name]
    places = {"four": four, "mixed": tmp_path / "mixed", "foreign": tmp_path / "foreign.parquet"}
    result = cli(*words.format(**places).split())
    assert (result.exit_code, result.stdout) == (code, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_breaks_the_rules_can_be_looked_at(cli: Cli, tmp_path: Path) -> None:
    broken = Rollouts(pa.table({
        "rollout_id": ["a", "a"], "group_id": ["g", "g"], "token": [{"id": [1, 2], "mask": [True]}, {"id": [], "mask": None}],
    }))  # fmt: skip
    pq.write_table(broken.table, tmp_path / "broken.parquet")
    assert len(cli("show", tmp_path / "broken.parquet").stdout.splitlines()) == 2
    assert cli("head", tmp_path / "broken.parquet").exit_code == 0
    assert cli("show", tmp_path / "broken.parquet", "--where", "length > 0").exit_code == 3
