"""A file of another system, opened for its importer: JSON lines, JSON, Parquet or a torch file, record by record."""

import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ...formats.errors import DataError
from ..core.extras import missing_extra

NOTHING = object()
UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # what a record of another shape raises


class Source:
    """One file of another system. Nothing is read before it is asked for, and lines are read one at a time."""

    def __init__(self, path: Path, label: str = ""):
        self.path = path
        self.label = label or path.name
        """What tells it from the other files of one import."""
        self.place = str(path)
        """The file and the record that was read last, for messages."""
        self.lenient = False
        """Whether records that cannot be read are counted and left out, instead of ending the import."""
        self.faults: Counter[str] = Counter()
        """Records that were left out, by reason."""

    @contextmanager
    def record(self) -> Generator[None]:
        """Around the reading of one record: what is wrong with it is a DataError, or counted where the import is lenient."""
        try:
            yield
        except (DataError, *UNREADABLE) as error:
            if not self.lenient:
                raise
            self.faults["records of another shape" if not isinstance(error, DataError) else "faulty records"] += 1

    def number_in_name(self, *before: str) -> int | None:
        """The number that stands behind one of these words in the file's name or in one of its folders', the innermost first.

        >>> Source(Path("rollouts/step_12/train/traces.jsonl")).number_in_name("step")
        12
        """
        for part in (self.path.stem, *reversed(self.path.parts[:-1])):
            found = re.search(rf"(?:{'|'.join(before)})[_-]?(\d+)", part)
            if found:
                return int(found[1])
        return None

    @cached_property
    def first(self) -> Any:
        """The first record; None for a file that is not read record by record, or is damaged."""
        try:
            if self.path.suffix == ".jsonl":
                return next((record for _, record in self.lines()), None)
            if self.path.suffix == ".json":
                return self.content
            if self.path.suffix == ".parquet":
                return next((record for _, record in self.rows()), None)
        except DataError:
            return None
        return None

    def has(self, *keys: str) -> bool:
        """Whether the first record is a mapping with all of these keys."""
        return isinstance(self.first, Mapping) and all(key in self.first for key in keys)

    def lines(self) -> Iterator[tuple[str, Any]]:
        """(place, record) of every line of JSON that is not empty. DataError for a line that is no JSON, with its number."""
        try:
            with self.path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    self.place = f"{self.path}, line {number}"
                    if line.strip() and (record := self._line(line)) is not NOTHING:
                        yield self.place, record
        except OSError as error:
            raise self._unreadable(error) from error

    def _line(self, line: bytes) -> Any:
        """A line's record; NOTHING for one that is no JSON, which is counted, where the import is lenient."""
        try:
            return _parse(line.decode("utf-8"), self.place)
        except (DataError, UnicodeDecodeError) as error:
            if not self.lenient:
                if isinstance(error, UnicodeDecodeError):
                    raise DataError(f"{self.place}: not UTF-8 ({error.reason} at byte {error.start})") from error
                raise
            self.faults["lines that are not JSON"] += 1
            return NOTHING

    @cached_property
    def content(self) -> Any:
        """The whole file as one JSON value, read once. DataError for anything else."""
        try:
            return _parse(self.path.read_text(encoding="utf-8"), str(self.path))
        except OSError as error:
            raise self._unreadable(error) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 ({error.reason} at byte {error.start})") from error

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, record) of every row of a Parquet file. DataError for a file that is damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(1024):
                    for record in batch.to_pylist():
                        self.place = f"{self.path}, row {number}"
                        yield self.place, record
                        number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            told = str(error).strip().splitlines()[0]
            raise DataError(f"{self.path}: not a whole Parquet file ({told})") from error

    def records(self) -> Iterator[tuple[str, Any]]:
        """(place, record) of JSON lines, of a JSON list, or of Parquet rows, by the name's ending."""
        if self.path.suffix == ".parquet":
            yield from self.rows()
        elif self.path.suffix == ".json":
            whole = self.content if isinstance(self.content, list) else [self.content]
            for number, record in enumerate(whole):
                self.place = f"{self.path}, record {number}"
                yield self.place, record
        else:
            yield from self.lines()

    def gathered(self, key: Callable[[Any], Hashable | None]) -> Iterator[tuple[Any, list[tuple[str, Any]]]]:
        """(key, [(place, record)]) of JSON lines with one key, in the order in which the keys first come; None is left out.

        The file is read twice, so that memory holds where the lines are and the records of one key.
        """
        places: dict[Hashable, list[tuple[int, int]]] = {}
        for name, (number, start) in self._with_places(key):
            places.setdefault(name, []).append((number, start))
        with self.path.open("rb") as stream:
            for name, lines in places.items():
                found: list[tuple[str, Any]] = []
                for number, start in lines:
                    stream.seek(start)
                    self.place = f"{self.path}, line {number}"
                    found.append((self.place, _parse(stream.readline().decode("utf-8"), self.place)))
                yield name, found

    def _with_places(self, key: Callable[[Any], Hashable | None]) -> Iterator[tuple[Hashable, tuple[int, int]]]:
        """(key, (number, first byte)) of each line that has one."""
        start = 0
        try:
            with self.path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    self.place = f"{self.path}, line {number}"
                    if line.strip() and (record := self._line(line)) is not NOTHING:
                        name = key(record)
                        if name is not None:
                            yield name, (number, start)
                    start += len(line)
        except OSError as error:
            raise self._unreadable(error) from error

    def query(self, statement: str) -> Iterator[dict[str, Any]]:
        """The rows of an SQLite file, which is opened for reading alone. DataError for a file that is damaged."""
        import sqlite3

        try:
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                connection.row_factory = sqlite3.Row
                for number, row in enumerate(connection.execute(statement)):
                    self.place = f"{self.path}, row {number}"
                    yield dict(row)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: not an SQLite file with what is looked for ({error})") from error

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"{self.path}: cannot be read ({error.strerror or error})")

    def torch(self, allowed: Sequence[Any] = ()) -> Any:
        """What `torch.save` wrote, loaded as weights only: no code in it runs. DataError for anything that this cannot hold.

        allowed: classes and functions that the file may hold beside what torch allows. UsageError where torch is not installed.
        """
        try:
            import torch
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from error
        try:
            with torch.serialization.safe_globals(list(allowed)):
                return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            told = re.sub(r"\x1b\[[0-9;]*m", "", told)
            raise DataError(
                f"{self.path}: cannot be loaded without running code in it ({told:.120}), so it is not read; have the trainer "
                "save plain lists, numbers and tensors"
            ) from error


def field_of(record: Any, name: str) -> Any:
    """A field of a record; a.b is b in the mapping a, where no field is called a.b. None where there is none.

    >>> field_of({"a": {"b": 1}}, "a.b"), field_of({"a.b": 2}, "a.b")
    (1, 2)
    """
    if isinstance(record, Mapping) and name in record:
        return record[name]
    for key in name.split("."):
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
