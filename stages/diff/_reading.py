"""The credit columns of files, and the rollouts that two files have in common."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...formats.errors import DataError, UsageError, unknown
from ...formats.invariants import UsedNames, is_credit
from ...formats.parquet import RolloutFile, files_of
from ...formats.rollouts import Rollouts
from ...formats.schema import paths_of
from ...formats.segments import Array

IDENTITY = ("rollout_id", "group_id", "token.id", "token.mask")


def open_files(path: Path) -> list[RolloutFile]:
    """The file, or those of a directory. DataError for one without rollouts."""
    files = [RolloutFile(each) for each in files_of(path)]
    for file in files:
        if file.num_rows == 0:
            raise DataError(f"{file.path}: no rollouts in it")
    return files


def find_column(files: Sequence[RolloutFile], name: str) -> str:
    """`token.advantage_grpo` by any of its names: advantage_grpo, or grpo."""
    signals = _signals(files[0])
    for path in (name, f"token.{name}", f"token.advantage_{name}"):
        if path in signals:
            break
    else:
        fault = unknown("credit column", name, sorted(signals, key=lambda path: not is_credit(path)))
        raise UsageError(f"{files[0].path}: {fault}")
    for file in files:
        if path not in paths_of(file.schema):
            raise DataError(f"{file.path}: no column {path!r}, which {files[0].path} has")
    return path


def credit_columns(files: Sequence[RolloutFile]) -> list[str]:
    """The credit columns of the first file."""
    return [path for path in _signals(files[0]) if is_credit(path)]


def _signals(file: RolloutFile) -> list[str]:
    """The numbers on the token ruler."""
    return [
        f"token.{leaf.name}"
        for leaf in file.schema.field("token").type
        if leaf.name not in ("id", "mask") and _is_number(getattr(leaf.type, "value_type", leaf.type))
    ]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def read_credits(files: Sequence[RolloutFile], credit: Sequence[str]) -> Rollouts:
    """The rollouts of all files, with these credit columns [T] and the rewards. DataError for a broken rule in one."""
    names = UsedNames()
    batches: list[Rollouts] = []
    for file in files:
        columns = [path for path in paths_of(file.schema) if path in (*IDENTITY, *credit, "reward")]
        batches += file.batches(columns, check=(*credit, "reward"), names=names)
    return Rollouts.concat(batches)


def match_rows(left: Rollouts, right: Rollouts) -> tuple[Array, Array]:
    """Rows of the rollouts that are in both [M], in the order of `left`."""
    mine, theirs = (batch.arrow("rollout_id").cast(pa.large_string()) for batch in (left, right))
    found = pc.call_function("index_in", [mine], pc.SetLookupOptions(value_set=theirs))
    there = found.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(there), pc.fill_null(found, 0).to_numpy(zero_copy_only=False)[there].astype(np.int64)


def check_tokens(left: Rollouts, right: Rollouts, first: Path, second: Path) -> None:
    """DataError for the first rollout that is not the same in both."""
    a, b = left.tokens.sizes, right.tokens.sizes
    wrong = a != b
    if not wrong.any():
        differs = (left.token_ids.values != right.token_ids.values) | (left.mask != right.mask)
        wrong = left.tokens.any(differs)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        name = left.arrow("rollout_id")[row].as_py()
        how = f"{a[row]} tokens and {b[row]}" if a[row] != b[row] else "other token ids or another mask"
        raise DataError(
            f"{first} and {second}: rollout {name!r} is not the same in both ({how}); expected credit of the same rollouts"
        )
