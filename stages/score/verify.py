"""Outcome reward: the task's own verifier."""

import json
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ...formats.schema import WORTH_ONE
from ...formats.segments import Array
from ..environments import is_played
from ..progress import progress
from ..tasks import Task, open_task
from ._scorer import reward_column, scorer


@scorer(needs=("task", "reference", "text"), granularity="rollout", source="ours")
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
        UsageError: a column of another kind. DataError: a reference that is not JSON; a rollout that was played, and
            has no reward.
    """
    texts, references, tasks = (rollouts.strings(path) for path in ("text", "reference", "task"))
    options = rollouts.strings("task_options") if "task_options" in rollouts else [None] * len(rollouts)
    reward, given = np.zeros(len(rollouts)), np.any([rollouts.flagged(flag) for flag in WORTH_ONE], axis=0)
    with progress(len(rollouts), "verify") as advance:
        for row, (text, reference, task, option) in enumerate(zip(texts, references, tasks, options, strict=True)):
            opened = _task(task, option)
            if is_played(opened) or given[row]:
                reward[row] = _given(rollouts, row)
                advance(1)
                continue
            try:
                known = json.loads(reference)
            except (TypeError, ValueError) as error:
                raise DataError(f"row {row}, column 'reference': {reference!r}, needed is JSON") from error
            reward[row] = opened.verify(text or "", known)
            advance(1)
    if truncated is not None:
        reward[rollouts.flagged("truncated")] = truncated
    return {reward_column(column, "verify"): reward}


def _given(rollouts: Rollouts, row: int) -> float:
    given = rollouts.arrow("reward")[row].as_py() if "reward" in rollouts else None
    if given is None:
        raise DataError(f"row {row}, column 'reward': missing, and no verifier can give it; sample anew")
    return given


@lru_cache(maxsize=32)
def _task(spec: str, options: str | None) -> Task:
    return open_task(spec, json.loads(options) if options else None)
