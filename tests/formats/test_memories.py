"""Memories on disk."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.errors import ApportionError, DataError, UsageError
from apportion.formats.memories import MemoryFile, is_memory, write_memory
from apportion.formats.provenance import Provenance, Record

SCHEMA = pa.schema({"name": pa.string(), "score": pa.float64()})
TABLE = pa.table({"name": ["a", "b"], "score": [1.0, None]}, schema=SCHEMA)
HISTORY = Provenance(history=(Record(stage="remember", version="1", parameters={"what": "words"}),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_memory(tmp_path / "memory.parquet", "words", TABLE, HISTORY, {"rows": 2})
    return tmp_path / "memory.parquet"


def test_what_is_written_is_read(path: Path) -> None:
    file = MemoryFile(path)
    assert file.kind == "words"
    assert file.read("words", SCHEMA).equals(TABLE)
    assert file.provenance.history[-1].counts == {"rows": 2}
    assert is_memory(path)


def test_two_writes_are_equal_bytes(path: Path, tmp_path: Path) -> None:
    write_memory(tmp_path / "again.parquet", "words", TABLE, HISTORY, {"rows": 2})
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()
    assert MemoryFile(path).digest() == MemoryFile(tmp_path / "again.parquet").digest()


def test_it_is_not_overwritten_unless_asked(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ApportionError, match="exists already"):
        write_memory(path, "words", TABLE.slice(1), HISTORY, {})
    assert path.read_bytes() == before
    [kept] = path.parent.glob("memory.parquet.*.done")
    assert MemoryFile(kept).read("words", SCHEMA).num_rows == 1
    write_memory(path, "words", TABLE.slice(1), HISTORY, {}, force=True)
    assert MemoryFile(path).read("words", SCHEMA).num_rows == 1


def test_another_kind_or_other_columns_are_refused(path: Path) -> None:
    with pytest.raises(DataError, match=r"memory.parquet: a memory of words, expected one of problems"):
        MemoryFile(path).read("problems", SCHEMA)
    with pytest.raises(DataError, match="column 'score' is double, expected int64"):
        MemoryFile(path).read("words", pa.schema({"score": pa.int64()}))
    with pytest.raises(DataError, match="column 'more' is missing, expected int64"):
        MemoryFile(path).read("words", pa.schema({"more": pa.int64()}))


def test_what_is_no_memory_is_refused(path: Path, scored_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.parquet: no such file"):
        MemoryFile(tmp_path / "nowhere.parquet")
    with pytest.raises(DataError, match=r"scored.parquet: no memory; `apportion remember ROLLOUTS -o OUT` makes one"):
        MemoryFile(scored_file)
    pq.write_table(TABLE, tmp_path / "plain.parquet")
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        MemoryFile(tmp_path / "cut.parquet")
    others = ("scored.parquet", "plain.parquet", "cut.parquet", "nowhere.parquet")
    assert [is_memory(tmp_path / name) for name in others] == [False] * 4


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    many = pa.table({"name": [str(each) for each in range(999)], "score": [0.5] * 999}, schema=SCHEMA)
    write_memory(tmp_path / "m.parquet", "words", many, HISTORY, {})
    content = bytearray((tmp_path / "m.parquet").read_bytes())
    content[200] ^= 1
    (tmp_path / "m.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"m.parquet: damaged"):
        MemoryFile(tmp_path / "m.parquet").read("words", SCHEMA)
