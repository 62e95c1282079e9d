"""Memories: what is carried from one iteration to the next beside the rollouts, in a Parquet file with a history."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DataError, UsageError
from .files import whole_file
from .provenance import Provenance
from .schema import METADATA_KEY
from .seal import checked_digest, read_seal, seal

KIND = "memory"


class MemoryFile:
    """A memory, opened for reading. UsageError when it is missing, DataError for a file that is none."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        try:
            with path.open("rb") as stream:
                read_seal(stream)
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            self.provenance = Provenance.from_metadata(self._file.metadata.metadata)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a whole Parquet file ({str(error).strip().splitlines()[0]})") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if self.kind is None:
            raise DataError(f"{path}: no memory; `apportion remember ROLLOUTS -o OUT` makes one")

    @property
    def kind(self) -> str | None:
        """Which memory it is, as `apportion list memories` names them; None for a file that is none."""
        kind = self.provenance.facts.get(KIND)
        return kind if isinstance(kind, str) else None

    def read(self, kind: str, schema: pa.Schema) -> pa.Table:
        """What is in it. DataError for a memory of another kind, other columns, or a damaged file."""
        if self.kind != kind:
            raise DataError(f"{self.path}: a memory of {self.kind}, expected one of {kind}")
        try:
            table = self._file.read()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: damaged ({str(error).strip().splitlines()[0]})") from error
        for field in schema:
            found = table.schema.field(field.name).type if field.name in table.schema.names else "missing"
            if found != field.type:
                raise DataError(f"{self.path}: column {field.name!r} is {found}, expected {field.type}")
        return table.select(schema.names).replace_schema_metadata(None)

    def digest(self) -> str:
        """Digest of the file's bytes. DataError where they are not those that were sealed."""
        try:
            with self.path.open("rb") as stream:
                return checked_digest(stream)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error


def is_memory(path: Path) -> bool:
    """Whether the file is a memory. False for one that is no Parquet file, or not there."""
    try:
        MemoryFile(path)
    except (DataError, UsageError):
        return False
    return True


def write_memory(
    path: Path, kind: str, table: pa.Table, provenance: Provenance, counts: Mapping[str, int], *, force: bool = False
) -> None:
    """Write a memory. The last record of the history gets the counts. Without force, ApportionError when it exists: see
    `whole_file`."""
    *before, last = provenance.history
    facts: dict[str, Any] = {**provenance.facts, KIND: kind}
    told = Provenance(history=(*before, replace(last, counts=dict(counts))), facts=facts)
    with whole_file(path, force=force) as temporary:
        metadata = {METADATA_KEY: told.to_json().encode()}
        pq.write_table(
            table.replace_schema_metadata(metadata), temporary, compression="zstd", write_page_checksum=True
        )  # fmt: skip
        seal(temporary)
