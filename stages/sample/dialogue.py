"""What a strategy asks the policy about its rollouts: how the question reads, and how a task would answer it.

A strategy that asks such a question declares it as a `Dialogue`, in its own file. The strategy uses it to ask, and
`critique` uses it to teach a policy to answer, with answers that the task writes itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...formats.errors import UsageError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..tasks import Message, Problem, Task
from ._questions import step_texts
from ._solutions import solutions_of
from .context import SamplingContext

DRAWS = 64  # worked solutions with mistakes that are searched per problem


class Lesson(NamedTuple):
    """An answer and its question. group: index in the batch. name: id of the new row."""

    group: int
    name: str
    question: list[Message]
    answer: str


@dataclass(frozen=True)
class Dialogue:
    """A question that a strategy puts to the policy. Its fields are options of the strategy, and of `critique` too.

    of: its name, as in `critique --set of=NAME`. needs: columns from which its answers are made. reviewed: whether the
    task must tell right steps from wrong ones to answer it. who: the strategy that messages name.
    """

    of: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("reward", "step.start")
    reviewed: ClassVar[bool] = True

    who: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns of texts from which answers are made."""
        return ()

    def opening(self, tokenizer: Any) -> Sequence[int]:
        """Tokens of the answer that already follow the question."""
        return ()

    def teach(self, work: "Work") -> list[Lesson]:
        """The task's answers about rows of a part of the file."""
        raise NotImplementedError


@dataclass(frozen=True)
class Review:
    """A check of a response in parts. expected: for every part up to the first wrong one, what the worked solution has
    there; None for a part that makes no checkable claim, and for a wrong one when nothing is left to do. wrong: index
    of the first wrong part, from 0."""

    expected: Sequence[str | None]
    wrong: int | None

    @property
    def right(self) -> str | None:
        """What belongs in place of the first wrong part."""
        return None if self.wrong is None else self.expected[self.wrong]

    @property
    def checked(self) -> bool:
        """Whether anything could be checked."""
        return self.wrong is not None or any(line is not None for line in self.expected)

    def log(self, word: str, first: int) -> str:
        """The parts in order: what belongs there, and whether it is there.

        >>> Review(["7+10=17", "17-12=5"], 1).log("Step", 0)
        'Step 0: 7+10=17 is there. Step 1: 17-12=5 is not there.'
        """
        said: list[str] = []
        for place, line in enumerate(self.expected):
            if line is not None:
                said.append(f"{word} {place + first}: {line} is {'not ' * (place == self.wrong)}there.")
            elif place == self.wrong:
                said.append(f"{word} {place + first}: nothing was left to do.")
        return " ".join(said)


class Reviewer:
    """A task that writes worked solutions and tells right steps from wrong ones. UsageError if it cannot."""

    def __init__(self, task: Task, who: str):
        check, write = getattr(task, "verify_step", None), getattr(task, "demonstrate", None)
        if check is None or write is None:
            missing = "cannot tell right steps from wrong ones" if check is None else "has no worked solutions"
            raise UsageError(f"task {task.spec!r} {missing}, which {who} needs (verify_step and demonstrate)")
        self._check: Callable[[Problem, str, str], bool | None] = check
        self._write: Callable[..., str] = write

    def __call__(self, problem: Problem, solution: str, parts: Sequence[str], between: str = "") -> Review:
        """The review of a response in parts, up to the first wrong one. between: the text between two parts."""
        before, expected = "", list[str | None]()
        for place, part in enumerate(parts):
            verdict = self._check(problem, before, part)
            expected.append(None if verdict is None else self._next(problem, solution, before))
            if verdict is False:
                return Review(expected, place)
            before += part + between
        return Review(expected, None)

    def _next(self, problem: Problem, solution: str, before: str) -> str | None:
        """The first line of the worked solution that is right after `before`."""
        return next((line for line in solution.splitlines() if self._check(problem, before, line)), None)

    def slips(self, problem: Problem, solution: str, coin: Random) -> dict[tuple[str, ...], str]:
        """{right lines: a wrong line after them}, taken from worked solutions with mistakes."""
        found: dict[tuple[str, ...], str] = {}
        for _ in range(DRAWS):
            lines = self._write(problem, coin, mistakes=0.5).splitlines()
            wrong = self(problem, solution, lines, "\n").wrong
            if wrong is not None:
                found.setdefault(tuple(lines[:wrong]), lines[wrong])
        return found

    def is_right(self, problem: Problem, before: str, step: str) -> bool:
        """Whether the step is known to be right after `before`."""
        return self._check(problem, before, step) is True


class Work:
    """Groups with their problems, the rows [M] of them to teach from, their worked solutions and their reviews.

    correct: a rollout is right if its reward is at least this.
    """

    def __init__(
        self, context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array,
        reviewer: Reviewer | None, correct: float,
    ) -> None:  # fmt: skip
        self.context, self.batch, self.problems, self.rows = context, batch, problems, rows
        self._reviewer, self.correct = reviewer, correct
        self.names, self.groups = batch.strings("rollout_id"), batch.groups.ids

    @cached_property
    def solutions(self) -> dict[int, str]:
        """{group: the task's worked solution}."""
        return solutions_of(self.context, self.batch, self.problems, self.rows, "strategy 'critique' needs them")

    @property
    def reviewer(self) -> Reviewer:
        """The task as a reviewer."""
        assert self._reviewer is not None, "a dialogue that is not reviewed asked for one"
        return self._reviewer

    def steps(self, row: int) -> list[str]:
        """The texts of a row's steps."""
        return step_texts(self.context.tokenizer, self.batch, row)

    def review(self, row: int, texts: Sequence[str], between: str = "") -> Review:
        """The review of a row's response, cut into these texts."""
        group = int(self.groups[row])
        return self.reviewer(self.problems[group], self.solutions[group], texts, between)

    def decide(self) -> tuple[Array, list[Review]]:
        """The rows that can be judged, and their reviews: a wrong step, or none in a right row."""
        reward = self.batch.numbers("reward")
        reviews = {row: self.review(row, self.steps(row)) for row in self.rows.tolist()}
        known = {
            row: each
            for row, each in reviews.items()
            if each.checked and (each.wrong is not None or reward[row] >= self.correct)
        }
        return np.array(list(known), np.int64), list(known.values())

    def lesson(self, row: int, question: list[Message], answer: str, kind: str) -> Lesson:
        """An answer about a row."""
        name = f"{self.names[row]}/{kind}@{self.context.salt}"
        return Lesson(int(self.groups[row]), name, question, answer)
