"""Worked solutions and hints: from the task, from a column of the continued file, or from the task's own file."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError, UsageError
from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ...formats.schema import paths_of
from ...formats.segments import Array
from ..core.driver import require
from ..core.seeds import derived_seed
from ..tasks import Problem, Task
from ..tasks.table import lookup
from .context import SamplingContext

COLUMN = "column"
TASK_ROW = "task_row"
DEMONSTRATION = "demonstration"


def demonstrator(task: Task, otherwise: str) -> Callable[..., str]:
    """The function that writes the task's worked solutions. UsageError, ending in `otherwise`, if there is none."""
    write = getattr(task, "demonstrate", None)
    if write is None:
        raise UsageError(f"task {task.spec!r} has no worked solutions; {otherwise}")
    return write


def write_solutions(context: SamplingContext, problems: Sequence[Problem], otherwise: str) -> list[str]:
    """One solution per problem, the same in every run with the context's seed."""
    write = demonstrator(context.task, otherwise)
    return [write(each, Random(derived_seed(context.seed, each.problem_id))) for each in problems]


def solutions_of(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array, otherwise: str
) -> dict[int, str]:
    """{group: a solution} of the groups of rows [M]. Other groups may not even be about problems of the task."""
    groups = np.unique(batch.groups.ids[rows]).tolist()
    return dict(zip(groups, write_solutions(context, [problems[group] for group in groups], otherwise), strict=True))


def lines_of(source: str) -> int | None:
    """N of "demonstration:N", None for anything else."""
    kind, _, count = source.partition(":")
    return int(count) if kind == DEMONSTRATION and count.isdecimal() else None


def hint_source(source: str, who: str) -> tuple[str | None, int | None]:
    """The column or the number of lines that hints come from, exactly one of them. UsageError for any other source."""
    column, lines = column_of(source), lines_of(source)
    if column is None and lines is None:
        raise UsageError(f"{who}: hint_from must be column:NAME or demonstration:N, got {source!r}")
    return column, lines


def first_lines(solutions: Sequence[str | None], count: int) -> list[str]:
    """The first `count` lines of each worked solution."""
    return ["\n".join((text or "").splitlines()[:count]) for text in solutions]


def column_of(source: str) -> str | None:
    """NAME of "column:NAME", None for anything else."""
    kind, _, name = source.partition(":")
    return name if kind == COLUMN and name else None


def of_groups(batch: Rollouts, column: str, groups: Array | None = None) -> list[Any]:
    """The column's value in the first row of every group, or of the given groups [M]."""
    rows = batch.groups.starts if groups is None else batch.groups.starts[groups]
    return batch.arrow(column).take(pa.array(rows)).to_pylist()


def require_texts(file: RolloutFile, needed: Sequence[str], column: str | None, who: str) -> None:
    """Check the columns. DataError if the file lacks one, or if `read_texts` would find `column` nowhere."""
    own = () if column is None or TASK_ROW in paths_of(file.schema) else (column,)
    require(file, (*needed, *own), who)


def read_texts(batch: Rollouts, column: str, groups: Array | None = None) -> list[str | None]:
    """A text for every group, or for the given groups [M], from a column of the file or else of the task's own file. There a
    dot reaches into objects. None if it is missing.

    DataError for a value that is not text, and if no row of the batch has such a column.
    """
    if column in batch:
        found = of_groups(batch, column, groups)
    else:
        rows = [
            row_of(text, name)
            for text, name in zip(of_groups(batch, TASK_ROW), of_groups(batch, "problem_id"), strict=True)
        ]
        if rows and not any(row and (column in row or lookup(row, column) is not None) for row in rows):
            known = ", ".join(repr(name) for name in next((row for row in rows if row), {})) or "none"
            raise DataError(f"no column {column!r} in the file or in its task's file; choose from {known}")
        chosen = rows if groups is None else [rows[group] for group in groups.tolist()]
        found = [lookup(row or {}, column) for row in chosen]
    for value in found:
        if not isinstance(value, str | None):
            raise DataError(f"column {column!r}: must be a text, got {value!r:.60}")
    return found


def row_of(text: str | None, problem: str) -> dict[str, Any] | None:
    """A problem's `task_row`, by column. DataError if it is not a JSON object."""
    try:
        row = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"problem {problem!r}, column {TASK_ROW!r}: must be JSON ({error})") from error
    if not isinstance(row, dict | None):
        raise DataError(f"problem {problem!r}, column {TASK_ROW!r}: must be a JSON object, got {text!r:.60}")
    return row
