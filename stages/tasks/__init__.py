"""Where problems come from and how an answer is checked.

A family of tasks is one file of this folder, an installed entry point of the group `apportion.tasks`, or a plugin:
each registers a `TaskFamily`. `open_task` finds the family that a `--task` value names:

    arithmetic                       the family's own name
    reasoning_gym/chain_sum          the family's name, a slash, and what only the family understands
    problems.jsonl, hf:openai/gsm8k  a form that a family claims with `claims`
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ...formats.errors import UsageError, unknown
from .kind import TASKS, Message, Problem, StepTask, Task, TaskFamily, task_family

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
    """The task a `--task` value names. UsageError, with the nearest name, when no family opens it."""
    family = family_of(spec)
    if family is not None:
        return family.function(spec, dict(options or {}))
    # A member's bare name is the likeliest slip: `chain_sum` for `reasoning_gym/chain_sum`.
    members = {member: f"{family.name}/{member}" for family in TASKS if family.members for member in family.members()}
    near = get_close_matches(spec, [*members, *members.values(), *(family.name for family in TASKS)], n=1)
    if near:
        raise UsageError(f"unknown task {spec!r}; did you mean {members.get(near[0], near[0])!r}?")
    raise unknown("task", spec, [name for name, _ in list_tasks()])


def family_of(spec: str) -> TaskFamily | None:
    """The family that opens a `--task` value; None where none does."""
    name = spec.partition("/")[0]
    if name in TASKS:
        return TASKS[name]
    return next((family for family in TASKS if family.claims is not None and family.claims(spec)), None)


def list_tasks() -> list[tuple[str, str]]:
    """What `--task` takes, with a line about each."""
    return [(f"{family.name}/NAME" if family.members else family.name, family.summary) for family in TASKS]
