"""`head` and `show` behind their signatures: rows as blocks, JSON lines and CSV."""

import csv
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.errors import DataError, unknown
from ...formats.parquet import RolloutFile, files_of
from ...formats.predicates import Predicate
from ...formats.rollouts import Rollouts
from ...formats.schema import paths_of
from ..core.harmless import harmless_cell, harmless_json

ROWS_AT_ONCE = 64  # turned into Python objects and printed together
LIST_ITEMS = 8  # of a list in `head`


@dataclass(frozen=True)
class Head:
    """The first rows, each as {column: value}."""

    path: str
    rows: list[dict[str, Any]]

    def to_json(self) -> list[dict[str, Any]]:
        return [_finite(row) for row in self.rows]

    def render(self) -> None:
        width = shutil.get_terminal_size((120, 24)).columns
        with closed_pipe_is_no_error():
            for number, row in enumerate(self.rows):
                print(("" if number == 0 else "\n") + f"row {number}")
                names = max(map(len, row), default=0)
                for name, value in row.items():
                    print(f"  {name:<{names}}  {shorten(value, max(width - names - 4, 20))}")


@dataclass(frozen=True)
class Rows:
    """All chosen rows, read when they are printed."""

    files: Sequence[RolloutFile]
    paths: list[str]
    predicate: Predicate | None
    limit: int | None
    to: str

    def to_json(self) -> list[dict[str, Any]]:
        return [_finite(row) for batch in self._batches() for row in batch.table.to_pylist()]

    def render(self) -> None:
        lines = _as_csv(self._batches(), self.paths) if self.to == "csv" else _as_json(self._batches())
        with closed_pipe_is_no_error():
            for chunk in lines:
                sys.stdout.buffer.write(chunk.encode())
                sys.stdout.buffer.flush()

    def _batches(self) -> Iterator[Rollouts]:
        """The chosen rows and columns, few rows at a time."""
        left = math.inf if self.limit is None else self.limit
        for file in self.files:
            if left <= 0:
                return
            for batch in _choose_rows(file, self.paths, self.predicate):
                for start in range(0, len(batch), ROWS_AT_ONCE):
                    part = batch.slice(start, int(min(start + ROWS_AT_ONCE, len(batch), start + left)))
                    left -= len(part)
                    if len(part):
                        yield part
                if left <= 0:
                    return


def first_rows(source: Path, *, n: int, columns: list[str] | None) -> Head:
    """See `head`. The file is read as far as it has to be, and not checked."""
    files = [RolloutFile(path) for path in files_of(source)]
    paths = choose_columns(files[0], columns)
    rows: list[dict[str, Any]] = []
    for file in files:
        for batch in _choose_rows(file, paths, None) if len(rows) < n else ():
            part = batch.slice(0, min(len(batch), n - len(rows)))
            each = {path: part.arrow(path).to_pylist() for path in paths}
            rows += [{path: each[path][row] for path in paths} for row in range(len(part))]
            if len(rows) >= n:
                break
    return Head(str(source), rows)


def all_rows(source: Path, *, to: str, columns: list[str] | None, where: str | None, limit: int | None) -> Rows:
    """See `show`. UsageError for a column or predicate that does not fit a file, before anything is printed."""
    files = [RolloutFile(path) for path in files_of(source)]
    paths = choose_columns(files[0], columns)
    predicate = None if where is None else Predicate(where)
    for file in files:
        if predicate is not None:
            predicate.check(file.schema)
        absent = [path for path in paths if path not in paths_of(file.schema)]
        if absent:
            raise DataError(
                f"{file.path}: no column {absent[0]!r}, which {files[0].path} has; name --columns both have"
            )
    return Rows(files, paths, predicate, limit, to)


def choose_columns(file: RolloutFile, columns: list[str] | None) -> list[str]:
    """The paths `--columns a,b` names, in that order; a ruler stands for all that is on it. All for None."""
    found = paths_of(file.schema)
    if columns is None:
        return found
    chosen: list[str] = []
    for name in (part.strip() for item in columns for part in ([item] if item in found else item.split(","))):
        named = [path for path in found if path == name] or [path for path in found if path.startswith(f"{name}.")]
        if not named:
            raise unknown("column", name, found)
        chosen += named
    return list(dict.fromkeys(chosen))


def _choose_rows(file: RolloutFile, paths: list[str], predicate: Predicate | None) -> Iterator[Rollouts]:
    """The file's batches with these columns only, in this order, and the rows the predicate is true of."""
    if predicate is None:
        yield from (_select(batch, paths) for batch in file.row_groups(paths, rows_at_once=ROWS_AT_ONCE))
        return
    needed = predicate.reads(file.schema)
    wanted = {*paths, *needed}
    row = 0
    columns = [path for path in paths_of(file.schema) if path in wanted]
    for batch in file.batches(columns, check=needed):
        try:
            matches = predicate(batch, row)
        except DataError as error:
            raise DataError(f"{file.path} (rows from {row}): {error}") from error
        row += len(batch)
        if matches.any():
            yield _select(batch.take(np.flatnonzero(matches)), paths)


def _select(batch: Rollouts, paths: list[str]) -> Rollouts:
    """The columns in the order asked for, those of one struct together."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for path in paths:
        head = path if path in batch.table.column_names else path.partition(".")[0]
        if head == path:
            columns[path] = batch.arrow(path)
        else:
            columns.setdefault(head, {})[path.removeprefix(f"{head}.")] = batch.arrow(path)
    return Rollouts(
        pa.table(
            {
                name: pa.StructArray.from_arrays(list(each.values()), list(each)) if isinstance(each, dict) else each
                for name, each in columns.items()
            }
        )
    )


def _as_json(batches: Iterator[Rollouts]) -> Iterator[str]:
    for batch in batches:
        yield "".join(_json(row) + "\n" for row in batch.table.to_pylist())


def _as_csv(batches: Iterator[Rollouts], paths: list[str]) -> Iterator[str]:
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    writer.writerow(map(harmless_cell, paths))
    for batch in batches:
        columns = [batch.arrow(path).to_pylist() for path in paths]
        for values in zip(*columns, strict=True):
            writer.writerow([_cell(value) for value in values])
        yield held.getvalue()
        held.seek(0)
        held.truncate()
    yield held.getvalue()  # the header of no rows


def _cell(value: Any) -> Any:
    """A missing value is an empty cell, a truth value and a list are JSON, and no text is a formula."""
    if isinstance(value, list | dict | bool):
        return _json(value)
    return harmless_cell(value) if isinstance(value, str) else value


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, default=str)
    return harmless_json(text)


def _finite(value: Any) -> Any:
    """NaN and the infinities, which JSON does not know, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value


def shorten(value: Any, width: int) -> str:
    """A value in one line of at most `width` characters.

    >>> shorten([0.25, -1.0, *range(100)], 60)
    '[0.25, -1, 0, 1, 2, 3, 4, 5, … 102 in all]'
    >>> shorten("one\\ntwo", 20)
    'one⏎two'
    """
    if value is None:
        return "–"
    if isinstance(value, list):
        shown = ", ".join(_one(each) for each in value[:LIST_ITEMS])
        text = f"[{shown}]" if len(value) <= LIST_ITEMS else f"[{shown}, … {len(value)} in all]"
    else:
        text = _one(value)
    text = "".join(each if each.isprintable() else "⏎" if each == "\n" else "·" for each in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _one(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_one(each)}" for name, each in value.items()) + "}"
    return f"[{', '.join(map(_one, value))}]" if isinstance(value, list) else str(value)


@contextmanager
def closed_pipe_is_no_error() -> Iterator[None]:
    """A reader that has seen enough (`| head -1`, `| less`) ends the printing, and well."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still held back goes nowhere when Python flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
