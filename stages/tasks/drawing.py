"""Draw the problems of a run, and check that they can be verified.

A task may say more of itself than `Task` asks for: `count(split)`, how many problems a split has, None where problems are
made as needed; `remarks`, lines about what was read; `needs_reference`, True if `verify` compares with a reference.
"""

import sys
from collections.abc import Iterable, Sequence

from ...formats.errors import DataError
from ..core.results import check_each
from .kind import Message, Problem, Task

REMEDY = (
    "name the column with the answers with --task-set answer_field=…, or score with a function of your own: "
    "score --with FILE.py:function"
)


def count_problems(task: Task, split: str) -> int | None:
    """How many problems a split has; None if the task makes them as they are needed."""
    count = getattr(task, "count", None)
    return None if count is None else count(split)


def needs_reference(task: Task) -> bool:
    """Whether the task's `verify` compares with a reference answer, and refuses problems without one."""
    return bool(getattr(task, "needs_reference", False))


def draw_problems(task: Task, split: str, count: int | None, seed: int, *, usual: int) -> list[Problem]:
    """`count` problems; where it is None, `usual` ones, or all there are if there are fewer, which a line on standard error
    says. UsageError if there are fewer than `count`, or none."""
    there = count_problems(task, split) if count is None else None
    if count is None:
        count = usual if there is None else max(1, min(usual, there))
    problems = list(check_each(task.problems(split, count, seed), Problem, f"task {task.spec}", "Problems"))
    whose = "" if split == "all" else f"{split} "
    remarks = [f"takes all {there:,} {whose}problems that there are"] if there is not None and there < usual else []
    for remark in (*getattr(task, "remarks", ()), *remarks):
        print(f"task {task.spec}: {remark}", file=sys.stderr)
    return problems


def check_references(task: Task, problems: Iterable[Problem], who: str) -> None:
    """DataError for the first problem without a reference answer, if the task's `verify` needs one."""
    if needs_reference(task):
        for problem in problems:
            if problem.reference is None:
                raise DataError(no_reference(task.spec, problem.place, problem.prompt, who))


def no_reference(spec: str, place: str, prompt: Sequence[Message] | None, who: str) -> str:
    """What to say of a prompt that cannot be verified, on one line."""
    where = f"{spec}: {place}: " if place else f"{spec}: "
    words = " ".join(prompt[-1]["content"].split()) if prompt else ""
    shown = f" {words if len(words) <= 60 else f'{words[:57]}…'!r}" if words else ""
    return f"{where}the prompt{shown} has no reference answer, which {who} needs; {REMEDY}"
