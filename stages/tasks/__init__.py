"""Where problems come from and how an answer is checked.

A family of tasks is one file of this folder, an installed entry point of the group `apportion.tasks`, or a plugin:
each registers a `TaskFamily`. `open_task` finds the family that a `--task` value names:

    arithmetic                       the family's own name
    reasoning_gym/chain_sum          the family's name, a slash, and what only the family understands
    problems.jsonl, hf:openai/gsm8k  a form that a family claims with `claims`
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from ...formats.errors import UsageError, unknown
from ..registry import Registry

Message = dict[str, str]


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    `problem_id` is stable: the same problem has the same id in every run. `prompt` is a list of chat messages
    ({role, content}). `reference` is JSON-able and all that `verify` needs besides the answer's text. `row` is what else
    the problem's source says of it, such as a hint or a worked solution, by column; None where there is no such row.
    """

    problem_id: str
    prompt: list[Message]
    reference: Any
    row: Mapping[str, Any] | None = None


class Task(Protocol):
    """A source of problems with its verifier. `open_task(task.spec, task.options)` opens the same task again."""

    @property
    def spec(self) -> str:
        """The `--task` value."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """The task's options, JSON-able."""
        ...

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` distinct problems of `split` ("train" or "test"); splits never overlap; same seed, same problems.

        Asking for more begins with the same problems. Raises UsageError when there are not that many.
        """
        ...

    def verify(self, text: str, reference: Any) -> float:
        """The reward in [0, 1] of an answer's text."""
        ...


class StepTask(Task, Protocol):
    """A task that can also tell right steps from wrong ones, which a task need not."""

    def verify_step(self, problem: Problem, before: str, step: str) -> bool | None:
        """Whether `step` is right after `before`, the response up to it; None where that cannot be said."""
        ...


@dataclass(frozen=True)
class TaskFamily:
    """What `--task NAME…` names: `open(spec, options)` makes the Task. `spec` is the whole string after `--task`.

    members: the `rest` of every `name/rest` there is, for listings and for did-you-mean; it may import what it needs.
    claims: whether the family opens a spec that begins with no family's name, such as a path.
    """

    name: str
    summary: str
    open: Callable[[str, Mapping[str, Any]], Task]
    members: Callable[[], Iterable[str]] | None = None
    claims: Callable[[str], bool] | None = None


TASKS: Registry[TaskFamily] = Registry("task", __name__, "tasks")


def open_task(spec: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task a `--task` value names. UsageError, with the nearest name, when no family opens it."""
    options = dict(options or {})
    name = spec.partition("/")[0]
    if name in TASKS:
        return TASKS[name].open(spec, options)
    for family in TASKS:
        if family.claims is not None and family.claims(spec):
            return family.open(spec, options)
    # A member's bare name is the likeliest slip: `chain_sum` for `reasoning_gym/chain_sum`.
    members = {member: f"{family.name}/{member}" for family in TASKS if family.members for member in family.members()}
    near = get_close_matches(spec, [*members, *members.values(), *(family.name for family in TASKS)], n=1)
    if near:
        raise UsageError(f"unknown task {spec!r}; did you mean {members.get(near[0], near[0])!r}?")
    raise unknown("task", spec, [name for name, _ in list_tasks()])


def list_tasks() -> list[tuple[str, str]]:
    """What `--task` takes, with a line about each."""
    return [(f"{family.name}/NAME" if family.members else family.name, family.summary) for family in TASKS]


def reasoning_gym_names() -> list[str]:
    """The names of reasoning-gym's generators: `reasoning_gym/NAME` is a task. Takes a second or two the first time."""
    from .reasoning_gym import generator_names

    return generator_names()
