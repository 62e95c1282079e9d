"""The rollouts named by `--from`: their task and problems, and rows added to their groups."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError, UsageError
from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ...formats.schema import FIELDS, arrow_type, paths_of
from ...formats.segments import Array
from ..core.remedies import remedy
from ..models.policy import render_prompt
from ..tasks import Message, Problem, Task, open_task
from ._solutions import row_of
from .kind import CONTINUES, Strategy

ADDED = ("parent_id", "fork", "finish_reason", "text", "flags", "purpose")  # columns of rows added to a group
OF_THE_PROBLEM = ("task", "task_options", "task_row", "problem_id", "prompt", "reference")


def open_source(path: Path | None, chosen: Strategy) -> RolloutFile | None:
    """The file to continue, for a strategy that continues one. UsageError for one without the other."""
    if path is None:
        if CONTINUES in chosen.needs:
            raise UsageError(f"--strategy {chosen.name} continues rollouts; name them with --from FILE")
        return None
    if CONTINUES not in chosen.needs:
        raise UsageError(f"--strategy {chosen.name} starts at the prompt; leave --from {path} out, or choose vine")
    if path.is_dir():
        raise UsageError(f"--from {path}: is a directory; name one rollout file")
    file = RolloutFile(path)
    for needed in ("prompt_ids", *OF_THE_PROBLEM[-3:]):
        if needed not in paths_of(file.schema):
            raise DataError(f"{path}: no column {needed!r}, which --from needs; `apportion sample` writes it")
    return file


def problems_of(file: RolloutFile, spec: str, options: Mapping[str, Any] | None) -> tuple[Task, list[Problem]]:
    """The task of the file's rows, and their problems, one per group. The given spec and options replace columns that
    another tool left out. DataError for rows of two tasks, since one verifier cannot judge both."""
    columns = [path for path in ("rollout_id", "group_id", *OF_THE_PROBLEM) if path in paths_of(file.schema)]
    problems: list[Problem] = []
    task: Task | None = None
    opened: tuple[str | None, str | None] | None = None
    for batch in file.row_groups(columns):
        for found in _tasks_of(batch):
            if opened is None:
                task = open_task(found[0] or spec, json.loads(found[1]) if found[1] else None)
                opened = found
            elif found != opened:
                one, other = (f"{name} {options or ''}".strip() for name, options in (opened, found))
                raise DataError(
                    f"{file.path}: has rows of two tasks, {one} and {other}; keep those of one with "
                    "`apportion filter --drop --where`"
                )
        for row in batch.table.take(pa.array(batch.groups.starts)).to_pylist():
            reference = json.loads(row["reference"]) if row["reference"] is not None else None
            rest = row_of(row.get("task_row"), row["problem_id"])
            problems.append(Problem(row["problem_id"], row["prompt"], reference, rest))
    return task or open_task(spec, options), problems


def _tasks_of(batch: Rollouts) -> list[tuple[str | None, str | None]]:
    """The tasks recorded in a batch, with their options; none if it does not say."""
    if "task" not in batch:
        return []
    columns = [batch.strings(path) if path in batch else [None] * len(batch) for path in ("task", "task_options")]
    return list(dict.fromkeys(zip(*columns, strict=True)))


def own_rows(
    batch: Rollouts, who: str, *, without: Collection[str], needs: Sequence[str] = (), played: bool = False
) -> Array:
    """[M] the rows that a strategy considers: training rollouts, not flagged `without`, written by the policy.

    needs: columns that must have a value in them. played: whether an environment may have written a part. DataError if
    a row does not comply.
    """
    names = batch.strings("rollout_id")
    own = batch.for_training & ~np.any([batch.flagged(flag) for flag in without], axis=0)
    foreign = own & batch.tokens.any(~batch.mask) & (not played)
    if foreign.any():
        row = int(np.flatnonzero(foreign)[0])
        raise DataError(
            f"rollout {names[row]!r}, column 'token.mask': false on a part that the policy did not write; {who} "
            "needs responses written by the policy alone"
        )
    for path in needs:
        column = batch.arrow(path)
        missing = own & column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        if missing.any():
            row = int(np.flatnonzero(missing)[0])
            raise DataError(f"rollout {names[row]!r}, column {path!r}: missing; {remedy(path)}")
    return np.flatnonzero(own)


def rewards_of(batch: Rollouts, rows: Array) -> Array:
    """[M] the rewards of these rows. DataError for a row without one."""
    reward = batch.numbers("reward")[rows]
    missing = rows[np.isnan(reward)]
    if len(missing):
        name = batch.strings("rollout_id")[int(missing[0])]
        raise DataError(f"rollout {name!r}, column 'reward': missing; {remedy('reward')}")
    return reward


def with_rows(batch: Rollouts, parents: Any, columns: Mapping[str, pa.Array]) -> Rollouts:
    """The batch with new rows at the end of their groups, with all of the batch's columns.

    parents: [M] the rows they come from, ascending by group; what identifies the problem is copied from them.
    columns: {path: [M]}; those that the batch lacks are left out. All other columns are missing (null) in the new rows.
    """
    copied = batch.table.select([path for path in ("group_id", "prompt_ids", *OF_THE_PROBLEM) if path in batch])
    made = Rollouts(copied.take(pa.array(parents))).with_columns(columns).like(batch)
    groups = batch.groups.ids
    check_new(batch, made)
    order = np.argsort(np.concatenate((groups, groups[parents])), kind="stable")
    return Rollouts(pa.concat_tables([batch.table, made.table])).take(order)


def with_known(batch: Rollouts, name: str, kind: pa.DataType, told: Mapping[int, Any]) -> Rollouts:
    """The batch with a rollout column that has the values `told` for its rows, and elsewhere what it had."""
    known: list[Any] = batch.strings(name) if name in batch else [None] * len(batch)
    return batch.with_columns({name: pa.array([told.get(row, each) for row, each in enumerate(known)], kind)})


def names_of(texts: Sequence[str | None]) -> pa.Array:
    """Strings as an Arrow array."""
    return pa.array(texts, pa.string())


def fork_column(forks: Sequence[int]) -> pa.Array:
    """Forks as an Arrow array."""
    return pa.array(forks, FIELDS["fork"].type)


def of_questions(
    tokenizer: Any, names: Sequence[str], questions: Sequence[Sequence[Message]], opening: Sequence[int] = ()
) -> dict[str, Any]:
    """{path: [M]} of rows that answer questions: each has a problem and a group of its own, under one name.

    opening: tokens that follow every question.
    """
    prompts = [[*render_prompt(tokenizer, list(question)), *opening] for question in questions]
    return {
        "rollout_id": names_of(names),
        "group_id": names_of(names),
        "problem_id": names_of(names),
        "prompt": pa.array(questions, arrow_type("prompt")),
        "prompt_ids": pa.array(prompts, arrow_type("prompt_ids")),
    }


def with_groups(batch: Rollouts, of: Sequence[int], columns: Mapping[str, pa.Array]) -> Rollouts:
    """The batch with new rows as groups of their own, after the groups [M] `of` that they are about.

    columns: {path: [M]}, including what identifies the problem. Task and reference are copied; all other columns are
    missing (null).
    """
    copied = batch.table.select([path for path in ("group_id", *OF_THE_PROBLEM) if path in batch])
    groups = np.asarray(of, np.int64)
    made = Rollouts(copied.take(pa.array(batch.groups.starts[groups]))).with_columns(columns).like(batch)
    check_new(batch, made)
    order = np.argsort(np.concatenate((batch.groups.ids, groups)), kind="stable")
    return Rollouts(pa.concat_tables([batch.table, made.table])).take(order)


def check_new(batch: Rollouts, made: Rollouts) -> None:
    """Check the new rows. DataError for a row that an earlier run has already made."""
    known = set(batch.strings("rollout_id"))
    twice = next((name for name in made.strings("rollout_id") if name in known), None)
    if twice is not None:
        raise DataError(
            f"rollout {twice!r} already exists: a run with the same policy, --seed and --round made it; choose another "
            "--seed or --round, or the file from before that run"
        )


def groups_of(source: RolloutFile, part: RolloutFile) -> int:
    """How many groups of the source are covered by a part of what is made from it."""
    own = {name for batch in source.row_groups(["group_id"]) for name in batch.strings("group_id")}
    return len({name for batch in part.row_groups(["group_id"]) for name in batch.strings("group_id")} & own)
