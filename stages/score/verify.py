"""Outcome reward: the task's own verifier."""

import json
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..progress import progress
from ..tasks import Task, open_task
from ._scorer import scorer


@scorer(needs=("task", "reference", "text"), granularity="rollout", source="ours")
def verify(rollouts: Rollouts, *, truncated: float | None = None) -> Mapping[str, Array]:
    """The reward in [0, 1] that the task's verifier gives the response.

    Args:
        truncated: reward of a response that was cut by the token limit; None verifies it like any other.

    Returns:
        {"reward": [R] float64}.
    """
    texts, references, tasks = (rollouts.strings(path) for path in ("text", "reference", "task"))
    options = rollouts.strings("task_options") if "task_options" in rollouts else [None] * len(rollouts)
    reward = np.zeros(len(rollouts))
    with progress(len(rollouts), "verify") as advance:
        for row, (text, reference, task, option) in enumerate(zip(texts, references, tasks, options, strict=True)):
            try:
                known = json.loads(reference)
            except (TypeError, ValueError) as error:
                raise DataError(f"row {row}, column 'reference': {reference!r}, needed is JSON") from error
            reward[row] = _task(task, option).verify(text or "", known)
            advance(1)
    if truncated is not None:
        reward[rollouts.flagged("truncated")] = truncated
    return {"reward": reward}


@lru_cache(maxsize=32)
def _task(spec: str, options: str | None) -> Task:
    return open_task(spec, json.loads(options) if options else None)
