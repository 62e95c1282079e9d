"""`apportion upgrade`: any readable file in the current format, its values, rows and unknown columns kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion import __version__
from apportion.formats.canonical import canonical_type
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.formats.rollouts import Rollouts
from apportion.formats.schema import FIELDS, METADATA_KEY, arrow_type
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]


def struct(**leaves: pa.Array) -> pa.StructArray:
    return pa.StructArray.from_arrays(list(leaves.values()), list(leaves))


def foreign(scattered: bool = False) -> pa.Table:
    """Six rollouts as another tool may store them: wide, dictionaries, a struct nobody knows."""
    groups = ["a", "b", "a", "b", "b", "a"] if scattered else ["a", "a", "a", "b", "b", "b"]
    return pa.table(
        {
            "group_id": pa.array(groups).dictionary_encode(),
            "rollout_id": pa.array([f"r{row}" for row in range(6)], pa.large_string()),
            "reward": pa.array([1, 0, None, 1, 0, 1], pa.float32()),
            "fork": pa.array([None, None, 0, 1, None, None], pa.int64()),
            "weight": pa.nulls(6),
            "flags": pa.array([["x"], [], None, ["y"], [], []], pa.large_list(pa.dictionary(pa.int8(), pa.string()))),
            "mine": pa.array([[0.1], None, [], [1.0, 2.0], [3.0], [4.0]], pa.large_list(pa.float64())),
            "embedding": pa.array([[1.0, 2.0]] * 6, pa.list_(pa.float16(), 2)),
            "token": struct(
                id=pa.array([[row, 1] for row in range(6)], pa.large_list(pa.int64())),
                mask=pa.array([[True, True]] * 6, pa.large_list(pa.bool_())),
                advantage=pa.array([[0.1, -0.1], None, *([[0.5, 0.5]] * 4)], pa.large_list(pa.float64())),
                advantage_mine=pa.array([[0.25, 0.25]] * 6, pa.large_list(pa.float64())),
                noise=pa.array([[0.1, 0.2]] * 6, pa.large_list(pa.float64())),
            ),
            "wire": struct(src=pa.array([[0]] * 6, pa.large_list(pa.int64())), dst=pa.array([["b"]] * 6)),
        }
    )


@pytest.fixture
def upgraded(cli: Cli, tmp_path: Path) -> Callable[..., RolloutFile]:
    """The file that `upgrade` makes of a table."""

    def run(table: pa.Table, **storage: Any) -> RolloutFile:
        source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
        pq.write_table(table, source, **storage)
        result = cli("upgrade", source, "-o", out)
        assert result.exit_code == 0, result.output
        assert cli("validate", out).exit_code == 0
        return RolloutFile(out)

    return run


def test_known_columns_get_the_types_of_the_schema(upgraded: Callable[..., RolloutFile]) -> None:
    found = upgraded(foreign()).read()
    for path in set(found.paths) & set(FIELDS):
        assert found.arrow(path).type == arrow_type(path), path
    assert found.arrow("token.advantage_mine").type == pa.list_(pa.float32())
    assert found.arrow("token.advantage").to_pylist()[1] is None
    assert found.arrow("reward").to_pylist() == [1, 0, None, 1, 0, 1]
    assert found.arrow("flags").to_pylist() == [["x"], [], None, ["y"], [], []]


def test_unknown_columns_keep_values_and_widths(upgraded: Callable[..., RolloutFile]) -> None:
    table = foreign()
    found = upgraded(table).read()
    assert found.paths == Rollouts(table).paths
    for path, kind in {
        "mine": pa.list_(pa.float64()), "embedding": pa.list_(pa.float16(), 2), "token.noise": pa.list_(pa.float64()),
        "wire.src": pa.list_(pa.int64()), "wire.dst": pa.list_(pa.string()),
    }.items():  # fmt: skip
        assert found.arrow(path).type == kind
        assert found.arrow(path).to_pylist() == Rollouts(table).arrow(path).to_pylist()


def test_rows_stay_where_groups_are_whole(upgraded: Callable[..., RolloutFile]) -> None:
    file = upgraded(foreign(), row_group_size=2)  # groups over several row groups
    assert file.read().strings("rollout_id") == [f"r{row}" for row in range(6)]
    assert file.num_row_groups == 1
    assert file.provenance.history[-1].parameters == {"from_format": 1, "groups_gathered": False}


@pytest.mark.parametrize("size", [1, 4, 100])
def test_scattered_groups_are_gathered_at_their_first_row(size: int, upgraded: Callable[..., RolloutFile]) -> None:
    file = upgraded(foreign(scattered=True), row_group_size=size)
    found = file.read()
    assert found.strings("group_id") == ["a", "a", "a", "b", "b", "b"]
    assert found.strings("rollout_id") == ["r0", "r2", "r5", "r1", "r3", "r4"]
    assert found.arrow("token.id").to_pylist() == [[row, 1] for row in (0, 2, 5, 1, 3, 4)]
    assert file.provenance.history[-1].parameters["groups_gathered"] is True


def test_row_groups_are_bounded(upgraded: Callable[..., RolloutFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.formats.parquet.RolloutWriter.__init__.__defaults__", (6,))
    file = upgraded(foreign())
    assert [len(batch) for batch in file.row_groups()] == [3, 3]


def test_a_file_of_the_chain_keeps_its_content_and_history(chain: Path, tmp_path: Path, cli: Cli) -> None:
    source, out = chain / "credit.parquet", tmp_path / "new.parquet"
    assert cli("upgrade", source, "-o", out).exit_code == 0
    digests = [line.split()[0] for line in cli("digest", source, out).stdout.splitlines()]
    assert digests[0] == digests[1]
    before, after = RolloutFile(source).provenance, RolloutFile(out).provenance
    assert (after.history[:-1], after.facts) == (before.history, before.facts)
    last = after.history[-1]
    assert (last.stage, last.version, last.inputs) == (
        "upgrade",
        __version__,
        {"rollouts": RolloutFile(source).digest()},
    )
    assert last.counts == {"rollouts": 48, "groups": 12, "tokens": RolloutFile(source).read().num_tokens}


def test_a_directory_is_upgraded_file_by_file(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "in").mkdir()
    for name, groups in (("a", [0, 1, 0]), ("b", [2, 2])):
        pq.write_table(rollouts_of([1.0] * len(groups), groups=groups).table, tmp_path / "in" / f"{name}.parquet")
    result = cli("upgrade", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "5 rollouts, 3 groups, 5 tokens" in result.stderr
    assert RolloutFile(tmp_path / "out" / "a.parquet").read().strings("group_id") == ["g0", "g0", "g1"]


def test_an_older_format_becomes_the_current_one(tmp_path: Path, cli: Cli) -> None:
    old = tmp_path / "old.parquet"
    write_rollouts(
        old, [rollouts_of([1.0, 0.0])], Provenance(history=(Record(stage="sample", version="0", parameters={}),))
    )
    table = pq.read_table(old)
    content = json.loads(pq.read_metadata(old).metadata[METADATA_KEY])
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps({**content, "format": 0})}), old)
    assert cli("upgrade", old, "-o", tmp_path / "new.parquet").exit_code == 0
    provenance = RolloutFile(tmp_path / "new.parquet").provenance
    assert provenance.format == 1
    assert [record.stage for record in provenance.history] == ["sample", "upgrade"]
    assert provenance.history[-1].parameters["from_format"] == 0


FAULTS = {
    "newer": (3, "newer.parquet: written in format 99, this apportion reads up to 1; install a newer one"),
    "nope": (2, "nope.parquet: no such file"),
    "rowless": (3, "rowless.parquet: no rollouts in it"),
    "large": (3, "large.parquet: column 'fork' is int64 and does not fit int32"),
    "groupless": (3, "groupless.parquet: row 1, column 'group_id': missing (null), expected a string"),
    "twice": (3, "'r0'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(name: str, tmp_path: Path, cli: Cli) -> None:
    table = rollouts_of([1.0, 0.0]).table
    tables = {
        "newer": table.replace_schema_metadata({METADATA_KEY: json.dumps({"format": 99})}),
        "rowless": table.slice(0, 0),
        "large": table.append_column("fork", pa.array([2**40, 0])),
        "groupless": table.set_column(table.column_names.index("group_id"), "group_id", pa.array(["g", None])),
        "twice": table.set_column(table.column_names.index("rollout_id"), "rollout_id", pa.array(["r0", "r0"])),
    }
    if name in tables:
        pq.write_table(tables[name], tmp_path / f"{name}.parquet")
    before = sorted(tmp_path.iterdir())
    result = cli("upgrade", tmp_path / f"{name}.parquet", "-o", tmp_path / "new.parquet")
    code, message = FAULTS[name]
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert message in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_directory_does_not_go_into_a_pipe(tmp_path: Path, cli: Cli) -> None:
    pq.write_table(rollouts_of([1.0]).table, tmp_path / "a.parquet")
    result = cli("upgrade", tmp_path, "-o", "-")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "a directory cannot be written to standard output" in result.stderr


@pytest.mark.parametrize(
    ("path", "seen", "wanted"),
    [
        ("token.id", pa.large_list(pa.int64()), pa.list_(pa.int32())),
        ("token.advantage_x", pa.large_list(pa.float64()), pa.list_(pa.float32())),
        ("token.other", pa.large_list(pa.float64()), pa.list_(pa.float64())),
        ("other", pa.dictionary(pa.int32(), pa.large_string()), pa.string()),
        ("other", pa.list_(pa.struct([("a", pa.large_string())])), pa.list_(pa.struct([("a", pa.string())]))),
        ("other", pa.int64(), pa.int64()),
    ],
)
def test_canonical_types(path: str, seen: pa.DataType, wanted: pa.DataType) -> None:
    assert canonical_type(path, seen) == wanted
