"""Worked solutions: the task's own, or a column's of the file that is continued."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.errors import UsageError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..tasks import Problem, Task
from ._rows import derived_seed
from ._strategy import SamplingContext

COLUMN = "column"


def demonstrator(task: Task, otherwise: str) -> Callable[..., str]:
    """What writes a worked solution of the task's problems. UsageError, with what to do otherwise, where nothing does."""
    write = getattr(task, "demonstrate", None)
    if write is None:
        raise UsageError(f"task {task.spec!r} has no worked solutions; {otherwise}")
    return write


def worked(context: SamplingContext, problems: Sequence[Problem], otherwise: str) -> list[str]:
    """One solution a problem, the same in every run with the context's seed."""
    write = demonstrator(context.task, otherwise)
    return [write(each, Random(derived_seed(context.seed, each.problem_id))) for each in problems]


def worked_of(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array, otherwise: str
) -> dict[int, str]:
    """{group: a solution} of the groups that the rows [M] are in. What others are about may be no problem of the task."""
    groups = np.unique(batch.groups.ids[rows]).tolist()
    return dict(zip(groups, worked(context, [problems[group] for group in groups], otherwise), strict=True))


def column_of(source: str) -> str | None:
    """NAME of "column:NAME", None for anything else."""
    kind, _, name = source.partition(":")
    return name if kind == COLUMN and name else None


def of_groups(batch: Rollouts, column: str, groups: Array | None = None) -> list[Any]:
    """The column's value in the first row of every group, or of the given ones [M]."""
    rows = batch.groups.starts if groups is None else batch.groups.starts[groups]
    return batch.arrow(column).take(pa.array(rows)).to_pylist()
