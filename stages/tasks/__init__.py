"""Where problems come from and how an answer is checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..registry import Registry

Message = dict[str, str]


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    `problem_id` is stable: the same problem has the same id in every run. `prompt` is a list of chat messages
    ({role, content}). `reference` is JSON-able and all that `verify` needs besides the answer's text.
    """

    problem_id: str
    prompt: list[Message]
    reference: Any


class Task(Protocol):
    """A source of problems with its verifier."""

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` distinct problems of `split` ("train" or "test"); splits never overlap; same seed, same problems."""
        ...

    def verify(self, text: str, reference: Any) -> float:
        """The reward in [0, 1] of an answer's text."""
        ...


@dataclass(frozen=True)
class TaskFamily:
    """What `--task NAME…` names: `open(spec, options)` makes the Task. `spec` is the whole string after `--task`."""

    name: str
    summary: str
    open: Any


TASKS: Registry[TaskFamily] = Registry("task", __name__, "tasks")


def open_task(spec: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task a `--task` value names."""
    raise NotImplementedError
