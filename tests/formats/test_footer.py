"""The sizes in a footer are those that pyarrow says; a damaged footer is a ValueError."""

import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.footer import leaves_of


def test_leaves_are_those_that_pyarrow_says(chain: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.parquet"
    table = pa.table(
        {"a": [True, None], "b": pa.array([[1], []], pa.list_(pa.int16())), "c": [{"x": 1.0, "y": b"z"}] * 2, "d": pa.array([b"12", b"34"], pa.binary(2))}
    )  # fmt: skip
    pq.write_table(table, odd, row_group_size=1, data_page_version="2.0", store_decimal_as_integer=True)
    for path in (chain / "credit.parquet", odd):
        known = pq.read_metadata(path)
        columns = [
            [known.row_group(group).column(place) for place in range(known.num_columns)]
            for group in range(known.num_row_groups)
        ]
        with path.open("rb") as stream:
            assert [[(leaf.path, leaf.is_text, leaf.values, leaf.bytes) for leaf in group] for group in leaves_of(stream)] == [
                [(each.path_in_schema, each.physical_type == "BYTE_ARRAY", each.num_values, each.total_uncompressed_size) for each in group]
                for group in columns
            ]  # fmt: skip


def test_a_damaged_footer_is_a_value_error(chain: Path) -> None:
    whole = (chain / "credit.parquet").read_bytes()
    size = int.from_bytes(whole[-8:-4], "little")
    rng, damaged = random.Random(0), 0
    for _ in range(300):
        footer = bytearray(whole[-8 - size :])
        footer[rng.randrange(size)] = rng.randrange(256)
        try:
            leaves_of(io.BytesIO(bytes(footer)))
        except ValueError:
            damaged += 1
    assert damaged > 30
    with pytest.raises(ValueError, match="its footer is damaged"):
        leaves_of(io.BytesIO(b"\x1c" * 500 + (500).to_bytes(4, "little") + b"PAR1"))
