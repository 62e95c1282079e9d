"""The seal: a flipped bit anywhere is refused, and files without a seal are read as ever."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.errors import DataError
from apportion.formats.memories import MemoryFile, write_memory
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance, Record, digest_of_file
from apportion.formats.seal import MARK, checked_digest, read_seal, seal
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rollouts.parquet"
    batch = rollouts_of([1.0, 0.0, 1.0, 0.5], tokens=[[5, 7, 9], [5], [6, 7], [8, 8, 8]], groups=[0, 0, 1, 1])
    write_rollouts(path, [batch.with_columns({"policy": ["p"] * 4})], Provenance())
    return path


def unsealed(path: Path) -> bytes:
    """The bytes as pyarrow wrote them."""
    content = path.read_bytes()
    place = content.index(MARK)
    return content[:place] + content[place + len(MARK) + 32 :]


def test_a_renamed_column_is_refused_when_the_file_is_read(cli: Cli, file: Path) -> None:
    """`policy` and `policY` are one bit apart, and Parquet has no checksum over its footer."""
    content = file.read_bytes()
    for place in (content.rindex(b"policy"), content.index(b"policy", content.index(MARK))):
        damaged = content[:place] + content[place:].replace(b"policy", b"policY", 1)
        file.write_bytes(damaged)
        told = (
            f"error: {file}: its footer, with the names and types of its columns, was damaged after it was written; "
            "make or copy it anew\n"
        )
        for command in (("validate", file), ("show", file), ("digest", file)):
            result = cli(*command)
            assert (result.exit_code, result.stderr) == (3, told)
        with pytest.raises(DataError, match="its footer"):
            RolloutFile(file)


def test_every_flipped_bit_is_refused_or_without_effect(file: Path) -> None:
    """Without effect in the mark alone, which leaves a file without a seal and all its content."""
    content = bytearray(file.read_bytes())
    digest = digest_of_file(file)
    mark = content.index(MARK)
    for place in range(len(content)):
        content[place] ^= 1 << place % 8
        try:
            checked_digest(io.BytesIO(content))
            assert mark <= place < mark + len(MARK) or place >= len(content) - 8, (
                place
            )  # else a length that pyarrow refuses
        except DataError:
            pass
        content[place] ^= 1 << place % 8
    assert checked_digest(io.BytesIO(content)) == digest


def test_a_length_of_the_footer_that_is_wrong_is_no_parquet_file(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for bit in range(64):
        place = len(content) - 8 + bit // 8
        content[place] ^= 1 << bit % 8
        file.write_bytes(content)
        with pytest.raises(DataError):
            RolloutFile(file)
        content[place] ^= 1 << bit % 8


def test_swapped_pages_are_refused_by_validate_and_by_stages(cli: Cli, file: Path, tmp_path: Path) -> None:
    """Both have checksums that are right."""
    meta = pq.ParquetFile(file).metadata.row_group(0)
    columns = [meta.column(index) for index in range(meta.num_columns)]
    (one,) = (each for each in columns if each.path_in_schema == "rollout_id")
    (other,) = (each for each in columns if each.path_in_schema == "reward")
    content = bytearray(file.read_bytes())
    starts = [each.dictionary_page_offset or each.data_page_offset for each in (one, other)]
    content[starts[0] + 4], content[starts[1] + 4] = content[starts[1] + 4], content[starts[0] + 4] ^ 1
    file.write_bytes(content)
    told = f"error: {file}: its columns were damaged after they were written; make or copy it anew\n"
    for command in (("validate", file), ("tree-build", file, "-o", tmp_path / "tree.parquet")):
        result = cli(*command)
        assert (result.exit_code, result.stderr) == (3, told)


def test_readers_of_parquet_do_not_see_the_seal(file: Path) -> None:
    names = ["r0", "r1", "r2", "r3"]
    assert pq.read_table(file).column("rollout_id").to_pylist() == names
    assert polars.read_parquet(file)["rollout_id"].to_list() == names
    assert [name for (name,) in duckdb.connect().execute(f"select rollout_id from '{file}'").fetchall()] == names


def rewritten_by_pyarrow(file: Path) -> None:
    """With another column; the metadata, history and all, goes along."""
    table = pq.read_table(file)
    pq.write_table(table.append_column("mine", pa.array([1, 2, 3, 4])), file)


def rewritten_by_duckdb(file: Path) -> None:
    copy = file.with_name("copy.parquet")
    duckdb.sql(f"copy (select * from '{file}') to '{copy}' (format parquet)")
    copy.replace(file)


def as_earlier_versions_wrote(file: Path) -> None:
    file.write_bytes(unsealed(file))


@pytest.mark.parametrize("rewrite", [rewritten_by_pyarrow, rewritten_by_duckdb, as_earlier_versions_wrote])
def test_files_without_a_seal_are_read_with_a_remark_and_upgrade_adds_one(
    cli: Cli, file: Path, rewrite: Callable[[Path], None]
) -> None:
    rewrite(file)
    assert RolloutFile(file).read().strings("rollout_id") == ["r0", "r1", "r2", "r3"]
    result = cli("validate", file)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{file}: remark: without a seal, so that a damaged name or number may pass unseen; `apportion upgrade` adds one "
        "[unsealed]",
        f"{file}: ok, 4 rollouts",
    ]
    (found,) = json.loads(cli("validate", file, "--json").stdout)["findings"]
    assert (found["rule"], found["severity"], found["row"], found["column"]) == ("unsealed", "remark", None, None)
    assert cli("validate", file, "--ignore", "unsealed").stdout == f"{file}: ok, 4 rollouts\n"
    out = file.with_name("upgraded.parquet")
    assert cli("upgrade", file, "-o", out).exit_code == 0
    assert cli("validate", out).stdout == f"{out}: ok, 4 rollouts\n"


def test_in_a_pipe_too(file: Path) -> None:
    content = file.read_bytes()
    assert read_seal(io.BytesIO(content)) is not None
    stream = io.BytesIO(unsealed(file))
    assert read_seal(stream) is None
    seal(stream)
    assert stream.getvalue() == content


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff\xff\xff\x7fPAR1", b"\0\0\0\0PAR1", b"not parquet at all"])
def test_what_is_no_parquet_file_has_no_seal(content: bytes) -> None:
    assert read_seal(io.BytesIO(content)) is None


def test_memories_are_sealed_too(tmp_path: Path) -> None:
    schema = pa.schema([("problem_id", pa.string())])
    path = tmp_path / "memory.parquet"
    told = Provenance(history=(Record(stage="remember", version="1", parameters={}),))
    write_memory(path, "mine", pa.table({"problem_id": ["a", "b"]}, schema=schema), told, {"rows": 2})
    whole: Any = MemoryFile(path)
    assert whole.read("mine", schema).num_rows == 2
    assert whole.digest() == digest_of_file(path)
    content = path.read_bytes()
    place = content.rindex(b"problem_id")
    path.write_bytes(content[:place] + b"problem_iD" + content[place + 10 :])
    with pytest.raises(DataError, match="its footer"):
        MemoryFile(path)
    path.write_bytes(content[:6] + bytes([content[6] ^ 1]) + content[7:])
    with pytest.raises(DataError, match="its columns were damaged"):
        MemoryFile(path).digest()
