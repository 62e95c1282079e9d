"""A file with two groups and every kind of column."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from typer.testing import Result

Cli = Callable[..., Result]
MADE = Record(stage="sample", version="0.1.0", parameters={"seed": 1})


def batch_of(groups: int, prefix: str = "") -> Rollouts:
    """Groups of two: the first rollout right, the second wrong and without flags."""
    rows = 2 * groups
    batch = rollouts_of([1.0, 0.0] * groups, tokens=[[5, 7], [5]] * groups, groups=[row // 2 for row in range(rows)])
    names = {column: [prefix + name for name in batch.strings(column)] for column in ("rollout_id", "group_id")}
    return batch.with_columns(
        {
            **names,
            "flags": pa.array([["truncated"], None] * groups, pa.list_(pa.string())),
            "task": [f"task/{row // 2 % 2}" for row in range(rows)],
            "finish_reason": ["stop", "length"] * groups,
        }
    )


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Four groups of two."""
    path = tmp_path / "four.parquet"
    write_rollouts(path, [batch_of(4)], Provenance(history=(MADE,), facts={"tokens_exact": True}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of two files, of three groups and of one."""
    path = tmp_path / "folder"
    path.mkdir()
    for name, groups in (("a", 3), ("b", 1)):
        write_rollouts(path / f"{name}.parquet", [batch_of(groups, name)], Provenance(history=(MADE,)))
    return path
