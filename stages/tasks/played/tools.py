"""Give tools to tasks of other families: a turn that calls a tool reads its result, a turn that calls none is final."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any

from ....formats.errors import UsageError, unknown
from .. import open_task
from ..drawing import count_problems, needs_reference
from ..kind import Problem, Task
from . import Action, Outcome, Role, Tool, is_played

OPTIONS = ("of", "max_turns", "turn_tokens")


@dataclass(frozen=True)
class ToolBox:
    """Tools and their functions: arguments to a text, or a ValueError worded for the model. kind: of their turns."""

    tools: Sequence[Tool]
    functions: Mapping[str, Callable[[Mapping[str, Any]], str]]
    kind: str


@dataclass(frozen=True)
class ToolTask:
    """The problems and verifier of another task. own: the tools' options besides OPTIONS and the task's."""

    spec: str
    of: Task
    box: ToolBox
    max_turns: int
    turn_tokens: int | None
    own: Mapping[str, Any]
    role: Role = "tool"

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "of": self.of.spec,
            "max_turns": self.max_turns,
            "turn_tokens": self.turn_tokens,
            **self.own,
            **self.of.options,
        }

    @property
    def tools(self) -> Sequence[Tool]:
        return self.box.tools

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        return self.of.problems(split, count, seed)

    def count(self, split: str) -> int | None:
        """See `count_problems`."""
        return count_problems(self.of, split)

    @property
    def needs_reference(self) -> bool:
        """See `check_references`."""
        return needs_reference(self.of)

    @property
    def remarks(self) -> list[str]:
        """See `draw_problems`."""
        return getattr(self.of, "remarks", [])

    def verify(self, text: str, reference: Any) -> float:
        return self.of.verify(text, reference)

    def environment(self, problem: Problem) -> "ToolUse":
        return ToolUse(self.box, lambda text: self.of.verify(text, problem.reference))


class ToolUse:
    """The world of one rollout. Its state is the digest of all calls and results so far."""

    def __init__(self, box: ToolBox, verify: Callable[[str], float]):
        self._box, self._verify = box, verify
        self._past = blake2b(digest_size=16)
        self._state = ""

    def reset(self, seed: int) -> str:
        return self._state

    def step(self, action: Action) -> Outcome:
        if not action.calls and not action.fault:
            return Outcome(
                observation="", reward=self._verify(action.text), done=True, state=self._state, kind="answer"
            )
        results: list[str] = []
        valid = not action.fault
        for call in action.calls:
            function = self._box.functions.get(call.name)
            try:
                if function is None:
                    raise ValueError(f"no tool {call.name!r}; there is {', '.join(self._box.functions)}")
                results.append(function(call.arguments))
            except ValueError as error:
                results.append(f"error: {error}")
                valid = False
        if action.fault:
            results.append(f"error: {action.fault}")
        observation = "\n".join(results)
        self._past.update(repr(([tuple(call) for call in action.calls], observation)).encode())
        self._state = self._past.hexdigest()
        return Outcome(observation=observation, state=self._state, valid=valid, kind=self._box.kind)


def open_tool(
    spec: str, of: str | None, box: ToolBox, rest: Mapping[str, Any], own: Mapping[str, Any] | None = None, *,
    max_turns: int, turn_tokens: int | None,
) -> ToolTask:  # fmt: skip
    """The task `of` with these tools. own: options of the tools; rest: options of the task."""
    own = dict(own or {})
    if of is None:
        raise UsageError(
            f"task {spec!r}: the option 'of' is missing; name a task with problems: --task-set of=reasoning_gym/chain_sum"
        )
    try:
        inner = open_task(of, rest)
    except UsageError:
        meant = next((name for name in rest if get_close_matches(name, (*OPTIONS, *own), cutoff=0.8)), None)
        if meant is None:
            raise
        raise unknown(f"option of task {spec!r}:", meant, (*OPTIONS, *own)) from None
    if is_played(inner):
        raise UsageError(f"task {spec!r}: 'of' must be a task with answers, got {of!r}, which is itself played")
    return ToolTask(spec, inner, box, max_turns, turn_tokens, own)
