"""Small files that are large in memory: what is shown fits, and the rest is refused in one line before it is there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats import content
from apportion.formats.content import ContentDigest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import MOST_BYTES, RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]
ROWS, LETTERS = 600, 1_000_000


def repeated(rows: int) -> pa.Array:
    """One long text, rows times; a few bytes in a file, and in memory as long as it stays a dictionary."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * LETTERS]))


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 kB that are 600 MB when its texts are read as such."""
    path = tmp_path_factory.mktemp("long") / "long.parquet"
    rows = rollouts_of([1.0, 0.0] * (ROWS // 2), tokens=[[5, 7]] * ROWS, groups=[row // 2 for row in range(ROWS)])
    table = rows.table.append_column("text", repeated(ROWS))
    pq.write_table(table, path, row_group_size=ROWS, compression="zstd", store_schema=False)
    assert path.stat().st_size < 50_000
    return path


def test_texts_that_are_short_in_the_file_only_are_refused_before_they_fill_the_memory(
    long_texts: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MOST_BYTES, "300000000")
    result = cli("validate", long_texts)
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {long_texts}: row group 0 needs 5")
    assert line.endswith(
        "bytes of memory or more, and the limit is 300,000,000; "
        "write it with smaller row groups, or set APPORTION_ROW_GROUP_BYTES"
    )
    assert len(RolloutFile(long_texts).read(["rollout_id", "group_id", "token.id", "token.mask"])) == ROWS


def test_what_is_shown_is_all_that_is_read(long_texts: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MOST_BYTES, "300000000")
    assert cli("head", long_texts, "--rows", 2).stdout.count("xxx…") == 2
    assert cli("show", long_texts, "--limit", 3, "--columns", "rollout_id,text", "--to", "csv").stdout.count("\n") == 4
    before = pa.total_allocated_bytes()
    parts = RolloutFile(long_texts).row_groups(rows_at_once=64)
    assert len(next(parts)) == 64
    assert pa.total_allocated_bytes() - before < 200_000_000


def test_a_long_list_of_numbers_is_refused_by_the_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "numbers.parquet"
    ids = pa.ListArray.from_arrays(
        pa.array([0, 5_000_000, 5_000_001], pa.int32()), pa.array(np.full(5_000_001, 7, np.int32))
    )
    token = pa.StructArray.from_arrays([ids, pa.array([[True], [True]])], ["id", "mask"])
    pq.write_table(
        pa.table({"rollout_id": ["a", "b"], "group_id": ["g", "g"], "token": token}), path, compression="zstd"
    )
    assert path.stat().st_size < 50_000
    monkeypatch.setenv(MOST_BYTES, "10000000")
    with pytest.raises(DataError, match=r"row group 0 needs 20,\d{3},\d{3} bytes of memory or more"):
        list(RolloutFile(path).row_groups())
    assert len(next(RolloutFile(path).row_groups(["group_id"]))) == 2
    monkeypatch.setenv(MOST_BYTES, "4 GiB")
    with pytest.raises(UsageError, match="APPORTION_ROW_GROUP_BYTES=4 GiB: expected a number of bytes"):
        list(RolloutFile(path).row_groups())


def test_an_ordinary_file_is_read_as_before(scored_file: Path) -> None:
    file = RolloutFile(scored_file)
    whole = pa.concat_tables([batch.table for batch in file.row_groups()])
    assert whole.equals(pq.read_table(scored_file).replace_schema_metadata(None))
    assert [len(part) for part in file.row_groups(rows_at_once=3)] == [3, 1]


def test_a_dictionary_past_2_gib_is_taken_apart() -> None:
    array = repeated(3000)
    with pytest.raises(pa.ArrowInvalid, match="overflowed"):
        array.dictionary_decode()
    parts = content._decode(array)
    assert [len(next(parts)) for _ in range(2)] == [268, 268]  # 2^28 / 1,000,000


def test_the_digest_of_a_dictionary_is_that_of_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [["a", None, "bcd"], None, [], ["bcd", "", "a"]] * 5
    plain = pa.array(values, pa.list_(pa.string()))
    coded = pa.ListArray.from_arrays(
        plain.offsets, plain.values.dictionary_encode(), mask=pa.array([row is None for row in values])
    )

    def digest(array: pa.Array) -> str:
        found = ContentDigest()
        found.update(Rollouts(pa.table({"x": array})))
        return found.hexdigest()

    whole = digest(plain)
    assert digest(coded) == whole
    monkeypatch.setattr(content, "DECODED", 20)  # one value at a time
    assert digest(coded) == whole
