"""Outcome reward: the task's own verifier."""

import json
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ....formats.errors import DataError
from ....formats.flags import UNVERIFIED
from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ...core.progress import progress
from ...core.results import check_number
from ...tasks import Task, open_task
from ...tasks.drawing import needs_reference, no_reference
from ...tasks.played import is_played
from ..kind import reward_column, scorer


@scorer(needs=("task", "reference", "text"), granularity="rollout", source="ours", makes=("reward",))
def verify(rollouts: Rollouts, *, truncated: float | None = None, column: str = "reward") -> Mapping[str, Array]:
    """The reward in [0, 1] that the task's verifier gives the response.

    Rollouts of an environment task keep the rewards that they were given while they were played, and what is flagged
    `reflection` or `guided` the one that strategy retry gave it.

    Args:
        truncated: reward of a response that was cut by the token limit; None verifies it like any other.
        column: `reward`, or `rewards.NAME` to keep it apart from others.

    Returns:
        {column: [R] float64}.

    Raises:
        UsageError: a column of another kind. DataError: a row without a task, or with options that are not
            JSON; a reference that is not JSON, or that the task cannot verify by; a rollout that was played, and has no reward.
    """
    texts, references, tasks = (rollouts.strings(path) for path in ("text", "reference", "task"))
    options = rollouts.strings("task_options") if "task_options" in rollouts else [None] * len(rollouts)
    reward, given = np.zeros(len(rollouts)), np.any([rollouts.flagged(flag) for flag in UNVERIFIED], axis=0)
    with progress(len(rollouts), "verify") as advance:
        for row, (text, reference, task, option) in enumerate(zip(texts, references, tasks, options, strict=True)):
            opened = _task_of(row, task, option)
            if is_played(opened) or given[row]:
                reward[row] = _given_reward(rollouts, row)
                advance(1)
                continue
            try:
                known = None if reference is None else json.loads(reference)
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(f"row {row}, column 'reference': {reference!r:.60}, expected JSON") from error
            if known is None and needs_reference(opened):
                prompt = rollouts.arrow("prompt")[row].as_py() if "prompt" in rollouts else None
                raise DataError(f"row {row}: {no_reference(opened.spec, '', prompt, 'verify')}")
            try:
                reward[row] = check_number(opened.verify(text or "", known), f"task {task}: verify")
            except DataError as error:
                raise DataError(f"row {row}, column 'reference': {error}") from error
            advance(1)
    if truncated is not None:
        reward[rollouts.flagged("truncated")] = truncated
    return {reward_column(column, "verify"): reward}


def _given_reward(rollouts: Rollouts, row: int) -> float:
    given = rollouts.arrow("reward")[row].as_py() if "reward" in rollouts else None
    if given is None:
        raise DataError(f"row {row}, column 'reward': missing, and no verifier can give it; sample anew")
    return given


def _task_of(row: int, spec: str | None, options: str | None) -> Task:
    if spec is None:
        raise DataError(f"row {row}, column 'task': missing, and nothing else says who verifies")
    try:
        return _task(spec, options)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"row {row}, column 'task_options': {options!r:.60}, expected an object of JSON") from error


@lru_cache(maxsize=32)
def _task(spec: str, options: str | None) -> Task:
    return open_task(spec, dict(json.loads(options)) if options else None)
