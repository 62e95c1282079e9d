"""`filter` behind its signature."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...formats.errors import DataError, UsageError
from ...formats.files import check_output, whole_directory
from ...formats.flags import FILTERED
from ...formats.invariants import node_keys
from ...formats.parquet import STREAM, RolloutFile, check_names, files_of, write_rollouts
from ...formats.predicates import Predicate
from ...formats.provenance import Record
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..core.progress import track


@dataclass(frozen=True)
class Filtered:
    """What was written. matched: rollouts kept as they were; others: those flagged or dropped."""

    out: str
    rollouts: int
    groups: int
    tokens: int
    matched: int
    others: int
    dropped: bool
    flag: str | None

    def render(self) -> None:
        share = f"{self.matched:,} of {self.matched + self.others:,} rollouts match"
        done = f"{self.others:,} dropped" if self.dropped else f"{self.others:,} flagged {self.flag!r}"
        print(f"{self.out}: {share}, {done}", file=sys.stderr)


def filter_rollouts(
    source: Path, *, where: str, drop: bool, flag: str | None, groups: str | None, out: Path, force: bool
) -> Filtered:
    """See `filter`. UsageError for a predicate that does not fit a file; DataError where no row is left to write."""
    if drop and flag is not None:
        raise UsageError(f"--flag {flag}: with --drop nothing is flagged; leave one of them out")
    flag = None if drop else (FILTERED if flag is None else flag)
    if flag is not None and not flag.replace("_", "").replace("-", "").isalnum():
        raise UsageError(f"--flag {flag!r}: expected letters, digits, - and _")
    predicate = Predicate(where)
    paths = files_of(source)
    single = paths == [source]
    if out == STREAM and not single:
        raise UsageError(f"{source}: a directory cannot be written to standard output; name a directory with -o")
    if out != STREAM:
        check_output(out, force=force, directory=not single)
    files = [RolloutFile(path) for path in paths]
    for file in files:
        if file.num_rows == 0:
            raise DataError(f"{file.path}: no rollouts in it")
        predicate.check(file.schema)
    if not single:
        check_names(files)
    parameters = {"where": where, "drop": drop, "flag": flag, "groups": groups}
    total: dict[str, int] = dict.fromkeys(("rollouts", "groups", "tokens", "matched", "others"), 0)

    def run(file: RolloutFile, target: Path, force: bool) -> None:
        counts = {"matched": 0, "others": 0}  # filled while the rows stream through
        record = Record(
            stage="filter",
            version=__version__,
            parameters=parameters,
            inputs={"rollouts": file.digest()},
            counts=counts,
        )
        parts = _parts(file, predicate, flag, groups, counts)
        try:
            written = write_rollouts(target, parts, file.provenance.with_record(record), force=force)
        finally:
            for name, count in counts.items():
                total[name] += count
        for name, count in written.items():
            total[name] += count

    if single:
        run(files[0], out, force)
    else:
        with whole_directory(out, force=force) as folder:
            for file in files:
                with suppress(_NothingLeft):  # such a file is not written
                    run(file, folder / file.path.name, False)
            if not total["rollouts"]:
                raise _nothing_left(source, where, total["others"])
    return Filtered(str(out), **total, dropped=drop, flag=flag)


class _NothingLeft(DataError):
    """Every row is to be dropped."""


def _nothing_left(source: Path, where: str, others: int) -> _NothingLeft:
    return _NothingLeft(f"{source}: none of {others:,} rollouts matches {where!r}, nothing is left to write")


def _parts(
    file: RolloutFile, predicate: Predicate, flag: str | None, groups: str | None, counts: dict[str, int]
) -> Iterator[Rollouts]:
    """The file's batches, filtered; counts what matched."""
    row = 0
    batches = file.batches(check=predicate.reads(file.schema))
    for batch in track(batches, total=file.num_row_groups, what="filter"):
        try:
            matches = whole_groups(batch, predicate(batch, row), groups)
        except DataError as error:
            raise DataError(f"{file.path} (rows from {row}): {error}") from error
        row += len(batch)
        counts["matched"] += int(matches.sum())
        counts["others"] += int((~matches).sum())
        if flag is None:
            if matches.any():
                yield batch if matches.all() else recount_visits(batch.take(np.flatnonzero(matches)))
        else:
            yield batch.with_missing("flags").with_flag(flag, ~matches)
    if flag is None and not counts["matched"]:
        raise _nothing_left(file.path, predicate.text, counts["others"])


def whole_groups(batch: Rollouts, matches: Array, groups: Any) -> Array:
    """[R] bool: the rows of the groups in which any or all rows match; `matches` itself for None."""
    if groups is None:
        return matches
    each = batch.groups.any(matches) if groups == "any" else ~batch.groups.any(~matches)
    return batch.groups.spread(each)


def recount_visits(batch: Rollouts) -> Rollouts:
    """`node.visits`, `node.value` and `step.state_visits` over the rollouts that are left, where the batch has them.

    A rollout on whose path a node has no reward left has no values (null).
    """
    columns: dict[str, Ragged] = {}
    if "step.state_visits" in batch:
        ids = batch.ragged("step.state_id")
        keys, _ = node_keys(batch, ids)
        _, state, visits = np.unique(keys, return_inverse=True, return_counts=True)
        columns["step.state_visits"] = ids.with_values(visits[state].astype(np.int32))
    if "node.visits" in batch or "node.value" in batch:
        ids = batch.ragged("node.id")
        keys, rows = node_keys(batch, ids)
        _, node, visits = np.unique(keys, return_inverse=True, return_counts=True)
        if "node.visits" in batch:
            columns["node.visits"] = ids.with_values(visits[node].astype(np.int32))
        if "node.value" in batch:
            reward = (
                batch.numbers("reward")[rows].astype(np.float64) if "reward" in batch else np.full(len(rows), np.nan)
            )
            scored = np.isfinite(reward)
            total = np.bincount(node, np.where(scored, reward, 0.0), len(visits))
            count = np.bincount(node, scored, len(visits))[node]
            valued = ~ids.segments.any(count == 0) & (True if ids.present is None else ids.present)
            own = ids.segments.spread(valued)
            values = (total[node][own] / count[own]).astype(np.float32)
            columns["node.value"] = Ragged(
                values, Segments.of_sizes(np.where(valued, ids.segments.sizes, 0)).offsets, valued
            )
    return batch.with_columns(columns)
