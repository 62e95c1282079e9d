"""Environments in which a policy acts turn by turn: games and tools.

A task is an *environment task* if it has a method `environment`. `sample` then plays every rollout to its end: the
policy writes a turn, the environment answers with text, the model's chat template frames that text for the policy to
read, and so on. The reward of a turn is given while sampling, so nothing remains to be verified.
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
    """A complete turn of the policy.

    text: without special tokens. calls: in the order of the text; always () for a task without tools. fault: what is
    wrong with a call that cannot be parsed; calls then holds the calls before it.
    """

    text: str
    calls: Sequence[Call] = ()
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of an action.

    observation: what the policy reads next; unused if `done`. state: key of the state in which the next turn begins;
    equal keys mean the same state, in any rollout of the group. valid: whether the environment understood the action.
    kind: of the turn: "turn", "tool", "search", "answer" …
    """

    observation: str
    reward: float = 0.0
    done: bool = False
    state: str = field(default="")
    valid: bool = True
    kind: str = "turn"


class Environment(Protocol):
    """The world of a single rollout. Any exception ends that rollout only, and flags it `error`."""

    def reset(self, seed: int) -> str:
        """Begin, and return the key of the state of the first turn. The seed decides all chance."""
        ...

    def step(self, action: Action) -> Outcome:
        """Apply an action, and return its outcome."""
        ...


class EnvironmentTask(Task, Protocol):
    """A task whose problems are played. `Problem.prompt` is what the policy reads before its first turn."""

    @property
    def max_turns(self) -> int:
        """A rollout that is not done after this many turns is truncated."""
        ...

    @property
    def turn_tokens(self) -> int | None:
        """A turn that reaches this many tokens is ended for the policy, and played. None leaves the end to the policy."""
        ...

    @property
    def role(self) -> Role:
        """The role of an observation's message in the chat template."""
        ...

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools that can be called; () if a turn's text is the action."""
        ...

    def environment(self, problem: Problem) -> Environment:
        """A new world of the problem, for one rollout."""
        ...


def is_played(task: Any) -> TypeGuard[EnvironmentTask]:
    """Whether the task is an environment task."""
    return callable(getattr(task, "environment", None))


def import_optional(module: str, task: str) -> Any:
    """An optional package. UsageError with the command that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"task {task!r} needs the package {module!r}; run: pip install 'apportion[environments]'"
        ) from error
