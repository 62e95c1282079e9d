"""What a policy acts in, turn by turn: games, tools.

A task of stages/tasks is an *environment task* if it has a method `environment`. `sample` then plays every rollout to
its end: the policy writes a turn, the environment answers with text, which the model's chat template frames and the
policy reads, and so on. A turn's reward is given while sampling, so there is nothing left to verify.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard

from ....formats.errors import UsageError
from ..kind import Problem, Task

Tool = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters": a JSON schema}}
Role = Literal["user", "tool"]


class Call(NamedTuple):
    """A tool call as the policy wrote it."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Action:
    """A whole turn of the policy.

    text: without special tokens. calls: in the order of the text; always () for a task without tools.
    fault: what is wrong with a call that cannot be read; then calls holds those before it.
    """

    text: str
    calls: Sequence[Call] = ()
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an action led to.

    observation: what the policy reads next; nobody reads it if `done`.
    state: key of the state the next turn begins in: equal keys are the same state, in any rollout of the group.
    valid: whether the environment understood the action. kind: of the turn, "turn", "tool", "search", "answer" …
    """

    observation: str
    reward: float = 0.0
    done: bool = False
    state: str = field(default="")
    valid: bool = True
    kind: str = "turn"


class Environment(Protocol):
    """One rollout's own world. Whatever it raises ends that rollout alone, which is then flagged `error`."""

    def reset(self, seed: int) -> str:
        """Begin; chance, if there is any, is decided by the seed. The key of the state the first turn begins in."""
        ...

    def step(self, action: Action) -> Outcome:
        """Act."""
        ...


class EnvironmentTask(Task, Protocol):
    """A task whose problems are played. `Problem.prompt` is what the policy reads before its first turn."""

    @property
    def max_turns(self) -> int:
        """A rollout that is not done after so many turns is truncated."""
        ...

    @property
    def turn_tokens(self) -> int | None:
        """A turn of so many tokens is ended for the policy, and played. None leaves the end to the policy."""
        ...

    @property
    def role(self) -> Role:
        """Whose message an observation is, in the chat template."""
        ...

    @property
    def tools(self) -> Sequence[Tool]:
        """What can be called; () where a turn's text is the action."""
        ...

    def environment(self, problem: Problem) -> Environment:
        """A world of the problem's, for one rollout."""
        ...


def is_played(task: Any) -> TypeGuard[EnvironmentTask]:
    """Whether it is an environment task."""
    return callable(getattr(task, "environment", None))


def import_optional(module: str, task: str) -> Any:
    """The optional package. UsageError with the line that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"task {task!r} needs the package {module!r}; run: pip install 'apportion[environments]'"
        ) from error
