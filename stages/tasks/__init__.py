"""Tasks: where problems come from, and how an answer is checked.

A family of tasks is a file in this folder, an installed entry point of the group `apportion.tasks`, or a plugin. Each
registers a `TaskFamily`. `open_task` finds the family that a `--task` value names:

    arithmetic, env/frozen_lake      the family's own name
    reasoning_gym/chain_sum          the family's name, a slash, and a name within the family
    problems.jsonl, hf:openai/gsm8k  a form that a family claims with `claims`
"""

from collections.abc import Mapping
from typing import Any

from .kind import TASKS, Message, Problem, StepTask, Task, TaskFamily, family_of, named_by, task_family

__all__ = [
    "TASKS",
    "Message",
    "Problem",
    "StepTask",
    "Task",
    "TaskFamily",
    "family_of",
    "list_tasks",
    "open_task",
    "task_family",
]


def open_task(spec: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task that a `--task` value names. UsageError, with the nearest name, if no family opens it."""
    return TASKS[named_by(spec)].open(spec, options or {})


def list_tasks() -> list[tuple[str, str]]:
    """All values of `--task`, each with a one-line summary."""
    return [(f"{family.name}/NAME" if family.members else family.name, family.summary) for family in TASKS]
