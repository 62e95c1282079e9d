from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.errors import ApportionError, DataError, UsageError
from apportion.formats.parquet import RolloutFile, RolloutWriter, files_of, write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.seal import MARK
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result


def many(groups: int, size: int = 2, tokens: int = 5) -> Rollouts:
    rows = groups * size
    return rollouts_of(
        [0.0] * rows, tokens=[[row] * tokens for row in range(rows)], groups=[row // size for row in range(rows)]
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    batch = many(3).with_columns({"token.advantage": Ragged.from_lists([[0.5] * 5] * 6, np.float32)})
    write_rollouts(tmp_path / "a.parquet", [batch], Provenance())
    assert RolloutFile(tmp_path / "a.parquet").read().table.equals(batch.table)


def test_row_groups_hold_whole_groups_and_are_bounded_by_tokens(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    writer = RolloutWriter(path, "a", tokens_per_row_group=25)
    writer.write(many(6))  # 10 tokens a group: two groups fit
    writer.close(Provenance())
    file = RolloutFile(path)
    assert [batch.num_tokens for batch in file.batches()] == [20, 20, 20]
    assert writer.counts == {"rollouts": 12, "groups": 6, "tokens": 60}


def test_a_group_another_tool_spread_over_row_groups_is_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(many(2, size=3).table, path, row_group_size=2)
    assert [len(batch.groups) for batch in RolloutFile(path).batches()] == [1, 1]


def test_the_history_gets_the_counts(tmp_path: Path) -> None:
    record = Record(stage="sample", version="1", parameters={"n": 2})
    write_rollouts(tmp_path / "a.parquet", [many(1)], Provenance(history=(record,), facts={"tokens_exact": True}))
    found = RolloutFile(tmp_path / "a.parquet").provenance
    assert found.history[0] == replace(record, counts={"rollouts": 2, "groups": 1, "tokens": 10})
    assert found.facts == {"tokens_exact": True}


def test_nothing_is_left_behind_when_a_batch_is_broken(tmp_path: Path) -> None:
    good, bad = many(1), many(1).with_columns({"token.logprob": Ragged.from_lists([[0.5] * 5] * 2, np.float32)})
    with pytest.raises(DataError, match=r"column 'token.logprob': 0.5 at position 0, expected <= 0"):
        write_rollouts(tmp_path / "a.parquet", [good, bad], Provenance())
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_rollouts(path, [many(1)], Provenance())
    assert path.read_text() == "mine"
    write_rollouts(path, [many(1)], Provenance(), force=True)
    assert RolloutFile(path).num_rows == 2


def test_a_group_that_comes_back_is_refused(tmp_path: Path) -> None:
    again = many(1).with_columns({"rollout_id": ["x", "y"]})
    with pytest.raises(DataError, match="group 'g0' occurs in two places"):
        write_rollouts(tmp_path / "a.parquet", [many(2), again], Provenance())


def test_a_rollout_id_that_comes_back_is_refused(tmp_path: Path) -> None:
    again = many(1).with_columns({"group_id": ["x", "x"]})
    with pytest.raises(DataError, match="rollout_id 'r0' occurs in two places"):
        write_rollouts(tmp_path / "a.parquet", [many(2), again], Provenance())


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_rollouts(path, [many(3)], Provenance())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        RolloutFile(path)


def test_a_file_without_rollout_columns_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column 'rollout_id' \(columns: x\)"):
        RolloutFile(tmp_path / "a.parquet")


def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.parquet", [many(1)], Provenance(format=99))
    with pytest.raises(DataError, match=r"format 99.*install a newer one"):
        RolloutFile(tmp_path / "a.parquet")


def test_unknown_columns_survive(tmp_path: Path) -> None:
    batch = many(1).with_columns({"mine": [1, 2], "token.mine": Ragged.from_lists([[9] * 5] * 2, np.int64)})
    write_rollouts(tmp_path / "a.parquet", [batch], Provenance())
    found = RolloutFile(tmp_path / "a.parquet").read()
    assert found.strings("mine") == [1, 2]
    assert found.ragged("token.mine").values.tolist() == [9] * 10


def test_a_directory_is_its_parquet_files_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_rollouts(tmp_path / f"{name}.parquet", [many(1)], Provenance())
    assert [path.name for path in files_of(tmp_path)] == ["a.parquet", "b.parquet"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="without"):
        files_of(tmp_path / "empty")


def test_encodings_suit_the_values(tmp_path: Path) -> None:
    repeated = Ragged.from_lists([[0.5] * 50] * 4, np.float32)
    distinct = Ragged.from_lists(np.linspace(0, 9, 200, dtype=np.float32).reshape(4, 50).tolist(), np.float32)
    batch = many(2, tokens=50).with_columns({"token.advantage": repeated, "token.entropy": distinct})
    write_rollouts(tmp_path / "a.parquet", [batch], Provenance())
    row_group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    encodings = {
        row_group.column(i).path_in_schema: set(row_group.column(i).encodings) for i in range(row_group.num_columns)
    }
    assert "RLE_DICTIONARY" in encodings["token.advantage.list.element"]
    assert "BYTE_STREAM_SPLIT" in encodings["token.entropy.list.element"]
    assert "DELTA_BYTE_ARRAY" in encodings["rollout_id"]
    assert "RLE_DICTIONARY" not in encodings["token.id.list.element"]
    assert {row_group.column(i).compression for i in range(row_group.num_columns)} == {"ZSTD"}


def test_an_unwritable_place_is_an_error_at_run_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ApportionError, match="cannot be made"):
        write_rollouts(tmp_path / "file" / "a.parquet", [many(1)], Provenance())


def test_a_flipped_byte_in_a_data_page_is_bad_data(tmp_path: Path, cli: Callable[..., Result]) -> None:
    path = tmp_path / "a.parquet"
    write_rollouts(path, [many(20, tokens=50)], Provenance())
    row_group = pq.ParquetFile(path).metadata.row_group(0)
    whole = path.read_bytes()
    whole = (
        whole[: whole.index(MARK)] + whole[whole.index(MARK) + len(MARK) + 32 :]
    )  # without a seal, which sees it first
    for index in range(row_group.num_columns):
        column = row_group.column(index)
        flipped = bytearray(whole)
        start = column.dictionary_page_offset or column.data_page_offset
        flipped[start + column.total_compressed_size - 2] ^= 1  # in the last page's data
        (tmp_path / "b.parquet").write_bytes(flipped)
        result = cli("tree-build", tmp_path / "b.parquet", "-o", tmp_path / "c.parquet")
        assert result.exit_code == 3, column.path_in_schema
        assert result.stderr.startswith(f"error: {tmp_path / 'b.parquet'}: row group 0 is damaged (")
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "c.parquet").exists()
