"""Prompts in a file, with reference answers or without: JSON, JSON lines, CSV, Parquet (verl's too) or plain text."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from ...formats.errors import DataError, UsageError
from ..core.ranges import Range
from .kind import task_family
from .table import Row, TableTask, given_options

SPLIT_FIELDS = ("split", "extra_info.split")  # the second is verl's


@task_family("file", claims=lambda spec: _claims(spec), played=False)
def open_file(
    spec: str,
    *,
    prompt_field: str | None = None,
    answer_field: str | None = None,
    instruction: str | None = None,
    columns: str | None = None,
    test_fraction: Annotated[float | None, Range(0, 1, below=True)] = None,
    split_field: str | None = None,
) -> TableTask:
    """Prompts, with answers or without, from your PATH.jsonl, .json, .csv, .parquet or .txt (a prompt a line).

    Select it with `--task PATH`. UsageError if the kind of file is not supported.

    If the file has a column `split`, a row whose value begins with "train" is a training problem, and any other row is
    a test problem. Without a value there, the question's hash decides: one in five is a test problem. `--split all`
    takes both. Rows that repeat a question count once.

    A file without an answer column gives prompts without a reference, and so does a row whose answer is empty. All but
    `verify` works with them. The other columns of a row go into the rollouts (`task_row`), for strategies that take a
    hint or a solution from a column.

    Args:
        prompt_field: the column with the question, or with a list of chat messages; None is the first of prompt,
            question and problem. A dot reaches into a column of objects.
        answer_field: the column with the right answer, or with a list of them; None is the first of
            reward_model.ground_truth, answer, reference, solution, ground_truth and target, if there is any.
        instruction: text appended to every question; None asks for the final answer in a box if the column is question
            or problem, and adds nothing to a prompt.
        columns: the columns to keep besides question and answer, separated by commas; None keeps all.
        test_fraction: the share of test problems among rows that name no split; 0 makes all of them training problems,
            None is one in five. The test problems of a smaller share are among those of a larger one.
        split_field: the column that names a row's split; None is `split`, or verl's extra_info.split. Empty ignores it.
    """
    path = Path(spec)
    if path.suffix.lower() not in READERS:
        raise UsageError(f"task {spec!r}: the file must end in {', '.join(READERS)}, e.g. problems.jsonl")
    options = given_options(
        prompt_field=prompt_field, answer_field=answer_field, instruction=instruction, columns=columns,
        test_fraction=test_fraction, split_field=split_field,
    )  # fmt: skip
    return TableTask(spec, options, lambda: _rows(path), SPLIT_FIELDS)


def _rows(path: Path) -> Iterator[Row]:
    """The rows. UsageError if the file does not exist, DataError if its content does not match its extension."""
    return ((row, None) for row in rows_of(path))


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that ends in one of READERS, as columns by name.

    UsageError if it does not exist, DataError if its content does not match its extension; the message names the file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'is a directory; name a file' if path.is_dir() else 'no such file'}")
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise DataError(f"{path}: lists or objects are nested too deeply to read") from error
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError and pyarrow's ArrowInvalid are ValueErrors
        raise DataError(f"{path}: {' '.join(str(error).split())}") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file with one list of objects, or one object per line; of lines, one is in memory at a time."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:  # U+2028 and the like end no line
        first = next((line for line in file if line.strip()), "")
        file.seek(0)
        if first.lstrip().startswith("["):
            text = file.read()
            rows = ((number, row, text) for number, row in enumerate(json.loads(text), start=1))
        else:
            rows = ((number, _json_line(number, line), line) for number, line in enumerate(file, 1) if line.strip())
        for number, row, text in rows:
            if not isinstance(row, dict):
                raise ValueError(f"row {number} must be an object, got {row!r:.60}")
            if "\\u" in text:  # only an escape can be half a character, which no tokenizer accepts
                _check_whole(number, row)
            yield row


def _check_whole(number: int, row: Any) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"row {number}: {error.object[error.start]!r} is only half a character") from error


def _json_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 30)  # a passage may exceed Python's limit of 131,072 characters
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, strict=True)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _text_rows(path: Path) -> Iterator[dict[str, Any]]:
    """A row for each line that is not empty, with the column `prompt`."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            if line.strip():
                yield {"prompt": line.rstrip("\r\n")}


TABLES = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
READERS = TABLES | {".txt": _text_rows}


def _claims(spec: str) -> bool:
    return Path(spec).suffix.lower() in READERS and not spec.startswith("hf:")
