"""Size of a rollout file against the smallest that pyarrow reaches for the same columns, in one run.

    python benchmarks/size.py FILE...

The floor is found column by column: each leaf is written by itself in every encoding its type allows, compressed with zstd at
the given level, and the smallest is kept. Row groups are those of the file.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

INTEGERS = ("PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "dictionary")
FLOATS = ("PLAIN", "BYTE_STREAM_SPLIT", "dictionary")
ENCODINGS = {
    "BOOLEAN": ("PLAIN", "RLE"),
    "INT32": INTEGERS,
    "INT64": INTEGERS,
    "FLOAT": FLOATS,
    "DOUBLE": FLOATS,
    "BYTE_ARRAY": ("PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "dictionary"),
}


def column_bytes(table: pa.Table, leaf: str, encoding: str, level: int, rows: int) -> int:
    """Compressed bytes of one leaf written with one encoding."""
    buffer = io.BytesIO()
    chosen: dict[str, Any] = (
        {"use_dictionary": [leaf]}
        if encoding == "dictionary"
        else {"use_dictionary": False, "column_encoding": {leaf: encoding}}
    )
    pq.write_table(table, buffer, compression="zstd", compression_level=level, row_group_size=rows, **chosen)
    return sum(sizes_of(pq.ParquetFile(buffer).metadata, leaf).values())


def sizes_of(metadata: pq.FileMetaData, only: str | None = None) -> dict[str, int]:
    """Compressed bytes by leaf."""
    sizes: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for index in range(metadata.row_group(group).num_columns):
            column = metadata.row_group(group).column(index)
            if only is None or column.path_in_schema == only:
                sizes[column.path_in_schema] = sizes.get(column.path_in_schema, 0) + column.total_compressed_size
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--level", type=int, default=3, help="zstd level of the floor")
    given = parser.parse_args()
    for path in given.files:
        file = pq.ParquetFile(path)
        table = file.read().replace_schema_metadata(None)
        rows = max(file.metadata.row_group(index).num_rows for index in range(file.num_row_groups))
        ours = sizes_of(file.metadata)
        print(f"{path}: {file.metadata.num_rows:,} rows, {path.stat().st_size:,} bytes")
        print(f"{'leaf':36s} {'ours':>12s} {'floor':>12s}  ratio  encoding of the floor")
        floor_total = 0
        for index in range(len(file.schema)):
            leaf, kind = file.schema.column(index).path, file.schema.column(index).physical_type
            head = table.select([leaf.partition(".")[0]])
            tried = {encoding: column_bytes(head, leaf, encoding, given.level, rows) for encoding in ENCODINGS[kind]}
            best = min(tried, key=lambda encoding: tried[encoding])
            floor_total += tried[best]
            print(f"{leaf:36s} {ours[leaf]:12,} {tried[best]:12,}  {ours[leaf] / max(tried[best], 1):5.2f}  {best}")
        print(
            f"{'all columns':36s} {sum(ours.values()):12,} {floor_total:12,}  {sum(ours.values()) / floor_total:5.2f}"
        )
        print(f"{'the file':36s} {path.stat().st_size:12,} {floor_total:12,}  {path.stat().st_size / floor_total:5.2f}")


if __name__ == "__main__":
    main()
