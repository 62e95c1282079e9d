"""What a task knows of a response: which of its parts is the first that is not right, and what belongs there."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from ....formats.errors import UsageError
from ...tasks import Problem, Task
from ._interventions import leaks

DRAWS = 64  # worked solutions with mistakes that are looked through for a problem


@dataclass(frozen=True)
class Review:
    """expected: for every part up to the first wrong one, what the worked solution has there; None for a part that says
    nothing that can be checked, and for a wrong one where nothing is left to do. wrong: the first wrong part, from 0."""

    expected: Sequence[str | None]
    wrong: int | None

    @property
    def right(self) -> str | None:
        """What belongs where the first wrong part is."""
        return None if self.wrong is None else self.expected[self.wrong]

    @property
    def checked(self) -> bool:
        """Whether anything could be said."""
        return self.wrong is not None or any(line is not None for line in self.expected)

    def log(self, word: str, first: int) -> str:
        """The parts one after another: what belongs there, and whether it is there.

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
    """A task that writes worked solutions and knows right steps from wrong ones. UsageError for one that does not."""

    def __init__(self, task: Task, who: str):
        check, write = getattr(task, "verify_step", None), getattr(task, "demonstrate", None)
        if check is None or write is None:
            missing = "cannot tell right steps from wrong ones" if check is None else "has no worked solutions"
            raise UsageError(f"task {task.spec!r} {missing}, which {who} needs (verify_step and demonstrate)")
        self._check: Callable[[Problem, str, str], bool | None] = check
        self._write: Callable[..., str] = write

    def __call__(self, problem: Problem, solution: str, parts: Sequence[str], between: str = "") -> Review:
        """The review of a response in parts, up to the first wrong one; between: what stands between two parts."""
        before, expected = "", list[str | None]()
        for place, part in enumerate(parts):
            verdict = self._check(problem, before, part)
            expected.append(None if verdict is None else self._next(problem, solution, before))
            if verdict is False:
                return Review(expected, place)
            before += part + between
        return Review(expected, None)

    def _next(self, problem: Problem, solution: str, before: str) -> str | None:
        """The first line of the worked solution that is right behind `before`."""
        return next((line for line in solution.splitlines() if self._check(problem, before, line)), None)

    def slips(self, problem: Problem, solution: str, coin: Random) -> dict[tuple[str, ...], str]:
        """{right lines: a wrong one behind them} from worked solutions with mistakes in them."""
        found: dict[tuple[str, ...], str] = {}
        for _ in range(DRAWS):
            lines = self._write(problem, coin, mistakes=0.5).splitlines()
            wrong = self(problem, solution, lines, "\n").wrong
            if wrong is not None:
                found.setdefault(tuple(lines[:wrong]), lines[wrong])
        return found

    def is_right(self, problem: Problem, before: str, step: str) -> bool:
        """Whether the step is known to be right behind `before`."""
        return self._check(problem, before, step) is True


def silent(line: str, answer: str) -> str | None:
    """A line that does not give the final answer away: itself, or what stands before an answer that ends it; None where
    the answer is elsewhere in it, too.

    >>> silent("7+10=17", "5"), silent("17-12=5", "5"), silent("17-7=10", "7"), silent("7+10=17", "7")
    ('7+10=17', '17-12=', None, None)
    """
    if not leaks(line, answer):
        return line
    head = re.sub(rf"(?<!\w){re.escape(answer.strip())}$", "", line.rstrip())
    return head if head.strip() and not leaks(head, answer) else None
