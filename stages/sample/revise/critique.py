"""Critiques that the task writes itself, to train a first policy on: what other strategies ask it about its rollouts."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from random import Random
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from ....formats.errors import UsageError
from ....formats.flags import NOT_REVISED
from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ...core.progress import progress
from ...core.ranges import AtLeast, Between
from ...core.wording import check_template
from ...models.engine import Completion
from ...models.token_texts import TokenOffsets
from ...tasks import Message, Problem
from .._judge import answers_of
from .._rows import derived_seed, sampled_columns
from .._solutions import DEMONSTRATION, column_of, first_lines, hint_source, require_texts, texts_in, worked_of
from .._source import ADDED, of_questions, own_rows, with_groups
from ..fresh.hint import TEMPLATE as HINT
from ..kind import CONTINUES, SamplingContext, strategy
from ._edits import FENCE
from ._interventions import BLANK_LINE
from ._reviews import Review, Reviewer, silent
from ._revisions import asking, parts, step_texts
from .inject_errors import (
    EDITOR,
    HEADER,
    coins_of,
    compiled,
    drawn,
    editor_questions,
    opening,
    spellings_of,
    steps_of,
    usable,
)
from .intervene import CRITIC, SOLVER, blocks_of, critic_question, wrong_rows
from .refine import REFINER, refiner_questions
from .retry import GUIDANCE, PERFECT, REFLECTOR, WANTING, reflection_questions

Of = Literal["reflection", "verdict", "intervention", "edit", "hint"]
OPTIONS = {
    "reflection": ("reflector", "guidance"),
    "verdict": ("refiner",),
    "intervention": ("solver", "critic", "separator"),
    "edit": ("editor", "header", "max_edit_ratio"),
    "hint": ("hint_from", "template", "solution_from"),
}
DEFAULTS: dict[str, Any] = {
    "reflector": REFLECTOR, "guidance": GUIDANCE, "refiner": REFINER, "solver": SOLVER, "critic": CRITIC,
    "separator": BLANK_LINE, "editor": EDITOR, "header": HEADER, "max_edit_ratio": 0.5, "hint_from": "demonstration:1",
    "template": HINT, "solution_from": DEMONSTRATION,
}  # fmt: skip
PLACES = {
    "reflector": ("steps",), "guidance": ("reflection",), "refiner": ("steps",), "solver": ("solution",),
    "critic": ("attempt",), "editor": ("step", "instruction"), "template": ("hint",),
}  # fmt: skip


class Lesson(NamedTuple):
    """An answer and what it answers. group: of the batch. name: of the row to be."""

    group: int
    name: str
    question: list[Message]
    answer: str


@strategy(
    source="ours; answers as supervision: arXiv:2501.17703 (Critique Fine-Tuning)", needs=(CONTINUES,), engine=False
)
def critique(
    context: SamplingContext,
    *,
    of: Of = "reflection",
    reflector: str | None = None,
    guidance: str | None = None,
    refiner: str | None = None,
    solver: str | None = None,
    critic: str | None = None,
    separator: str | None = None,
    editor: str | None = None,
    header: str | None = None,
    max_edit_ratio: Annotated[float | None, Between(0, 1)] = None,
    hint_from: str | None = None,
    template: str | None = None,
    solution_from: str | None = None,
    correct: float = 1.0,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """What the task would answer where another strategy asks the policy about the rollouts of --from.

    A policy that cannot judge its own work learns it from these rows with `train --objective sft`, and strategies `retry`,
    `refine`, `intervene`, `inject_errors` and `hint` have something to work with. Their questions are rendered as they render
    them: give the templates that they will be given. Answers are the task's: it verifies the rollout's steps one after
    another, and where the first is wrong knows the line of the worked solution that belongs there.

        of=            asked by       about            answer
        reflection     retry          every rollout    JSON, retry_from_step the first wrong step, or "success"; and, asked
                                                       with it to try again, the steps before, and the solution from there
        verdict        refine         every rollout    ACCEPT, or CUT and the first wrong step
        intervention   intervene      wrong rollouts   <intervention> with the line that belongs into the first wrong block,
                                                       cut before the final answer where it ends with that; and, asked
                                                       to solve the problem with a solution in view, that solution
        edit           inject_errors  a right rollout  for each of its steps a wrong one, as the task itself would go wrong
        hint           hint           every group      asked to solve the problem with a hint in view, the worked solution

    Each is a row flagged `demonstration` in a group of its own behind the rollout's; `prompt` is the question, and nothing
    is known of how likely it was. Rollouts stay as they are:
    `apportion filter --drop --where "'demonstration' in flags"` leaves what to train on. No answer is written where the
    task cannot tell: no wrong step in a wrong rollout, no line that belongs there, an answer that cannot be kept back, no
    mistake of the task's in that place, or one that the strategy would drop. How many were is said on standard error. The
    step ruler (`score --with steps`) says what a step is, for intervene the separator. -n and --max-tokens are not used.

    Args:
        of: what is asked.
        reflector: template of `retry`, as there.
        guidance: template of `retry`.
        refiner: template of `refine`.
        solver: template of `intervene`.
        critic: template of `intervene`.
        separator: of `intervene`'s blocks.
        editor: template of `inject_errors`. Whatever kind of error it asks for, the mistake is the task's.
        header: of `inject_errors`.
        max_edit_ratio: of `inject_errors`; None is its own, 0.5. A mistake beyond it is not written.
        hint_from: of `hint`; None is demonstration:1, the first line of the worked solution.
        template: of `hint`.
        solution_from: the answers where a hint is in view: "column:NAME" as there; None is "demonstration", the task's own.
        correct: reward from which a rollout is right.
        rows_at_once: rollouts looked at before a part of the file is written (at least a group's); bounds the memory.

    Raises:
        UsageError: a task that cannot verify steps or has no worked solutions; an option of another question; a template
            without a name. DataError: rows without reward or steps; rows an environment wrote in.
    """
    file = context.rollouts
    assert file is not None, "sample opens it for a strategy that needs --from"
    given = {
        "reflector": reflector, "guidance": guidance, "refiner": refiner, "solver": solver, "critic": critic,
        "separator": separator, "editor": editor, "header": header, "max_edit_ratio": max_edit_ratio,
        "hint_from": hint_from, "template": template, "solution_from": solution_from,
    }  # fmt: skip
    options = _options(of, given)
    reviewer = Reviewer(context.task, "strategy 'critique'") if of != "hint" else None
    needed = {"hint": (), "intervention": ("reward",)}.get(of, ("reward", "step.start"))
    for column in (column_of(options.get(name, "")) for name in ("hint_from", "solution_from")):
        require_texts(file, needed, column, "strategy 'critique'")
    write = _MAKERS[of]
    remaining = iter(context.problems)
    with progress(file.num_rows, "critique, rollouts") as advance:
        for batch in context.batches():
            all_problems = [next(remaining) for _ in range(len(batch.groups))]
            for part, groups in parts(batch, rows_at_once):
                rows = own_rows(part, "critique", without=NOT_REVISED, needs=needed)
                work = _Work(context, part, all_problems[groups], rows, reviewer, correct)
                lessons = write(work, **options)
                made = _with_lessons(context, part, lessons, opening(context.tokenizer) if of == "edit" else ())
                context.count(looked_at=len(rows), answers=len(lessons))
                yield made
                advance(len(part))
    counts = Counter(context.tally)
    print(
        f"critique: {counts['looked_at']:,} rollouts, {counts['answers']:,} answers about them (of={of})",
        file=sys.stderr,
    )


def _options(of: Of, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the question, with the strategies' own where none is given. UsageError for others, and wrong ones."""
    for name, value in given.items():
        if value is not None and name not in OPTIONS[of]:
            raise UsageError(f"strategy critique: {name} is of no use with of={of}; leave it out")
    options = {name: DEFAULTS[name] if given[name] is None else given[name] for name in OPTIONS[of]}
    for name, value in options.items():
        check_template("critique", name, str(value), *PLACES.get(name, ()))
    if of == "intervention" and not options["separator"]:
        raise UsageError("strategy critique: separator must not be empty, which cuts nothing")
    if of == "hint":
        hint_source(options["hint_from"], "strategy critique")
        source = options["solution_from"]
        if column_of(source) is None and source != DEMONSTRATION:
            raise UsageError(f"strategy critique: solution_from {source!r}, expected column:NAME or {DEMONSTRATION}")
    if of == "edit":
        options["header"] = compiled("critique", options["header"])
    return options


class _Work:
    """A part of the file with its problems, one a group, their solutions, and reviews of its rows [M]."""

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
        return worked_of(self.context, self.batch, self.problems, self.rows, "strategy 'critique' needs some")

    @property
    def reviewer(self) -> Reviewer:
        assert self._reviewer is not None, "hints need none"
        return self._reviewer

    def steps(self, row: int) -> list[str]:
        return step_texts(self.context.tokenizer, self.batch, row)

    def review(self, row: int, texts: Sequence[str], between: str = "") -> Review:
        group = int(self.groups[row])
        return self.reviewer(self.problems[group], self.solutions[group], texts, between)

    def decided(self) -> tuple[Array, list[Review]]:
        """The rows of which there is something to say, and what: a wrong step, or none in a right one."""
        reward = self.batch.numbers("reward")
        reviews = {row: self.review(row, self.steps(row)) for row in self.rows.tolist()}
        known = {
            row: each
            for row, each in reviews.items()
            if each.checked and (each.wrong is not None or reward[row] >= self.correct)
        }
        return np.array(list(known), np.int64), list(known.values())

    def lesson(self, row: int, question: list[Message], answer: str, kind: str) -> Lesson:
        name = f"{self.names[row]}/{kind}@{self.context.salt}"
        return Lesson(int(self.groups[row]), name, question, answer)


def _reflections(work: _Work, reflector: str, guidance: str) -> list[Lesson]:
    rows, reviews = work.decided()
    reward = work.batch.numbers("reward")
    questions = reflection_questions(work.context, work.batch, work.problems, rows, reflector)
    found: list[Lesson] = []
    for row, review, question in zip(rows.tolist(), reviews, questions, strict=True):
        steps, problem = work.steps(row), work.problems[int(work.groups[row])]
        text = reflection_text(review, len(steps), right=bool(reward[row] >= work.correct))
        found.append(work.lesson(row, question, text, "reflection"))
        if review.right is not None:
            rest = work.solutions[int(work.groups[row])].splitlines()
            again = [*(step.strip() for step in steps[: review.wrong]), *rest[rest.index(review.right) :]]
            guided = asking(problem, guidance, reflection=text)
            found.append(work.lesson(row, guided, "\n".join(again), "guided"))
    return found


def reflection_text(review: Review, steps: int, *, right: bool) -> str:
    """A reflection on a rollout of so many steps, as `retry` reads it.

    >>> reflection_text(Review(["3+4=7"], None), 1, right=True)
    '{"trajectory_summary": "steps 0 to 0", "root_cause_analysis": "Step 0: 3+4=7 is there.", "trajectory_outcome": "success"}'
    """
    said: dict[str, Any] = {
        "trajectory_summary": f"steps 0 to {steps - 1}",
        "root_cause_analysis": review.log("Step", 0),
        "trajectory_outcome": PERFECT,
    }
    if review.wrong is not None:
        said["trajectory_outcome"] = WANTING[0] if right else WANTING[1]
        said["improvement_suggestion"] = "stop there" if review.right is None else f"write {review.right}"
        said["retry_from_step"] = review.wrong
    return json.dumps(said, ensure_ascii=False)


def _verdicts(work: _Work, refiner: str) -> list[Lesson]:
    rows, reviews = work.decided()
    questions = refiner_questions(work.context, work.batch, work.problems, rows, refiner)
    found: list[Lesson] = []
    for row, review, question in zip(rows.tolist(), reviews, questions, strict=True):
        verdict = "ACCEPT" if review.wrong is None else f"CUT {review.wrong + 1}"
        answer = f"{review.log('Step', 1)} {verdict}"
        found.append(work.lesson(row, [{"role": "user", "content": question}], answer, "verdict"))
    return found


def _interventions(work: _Work, solver: str, critic: str, separator: str) -> list[Lesson]:
    offsets, found, solved = TokenOffsets(work.context.tokenizer), list[Lesson](), set[int]()
    for row in wrong_rows(work.batch, work.correct).tolist():
        group = int(work.groups[row])
        problem, solution = work.problems[group], work.solutions[group]
        blocks = blocks_of(offsets, work.batch, row, separator)
        review = work.review(row, blocks, separator)
        content = review.right
        for answer in answers_of(problem):
            content = content and silent(content, answer)
        if review.wrong is None or content is None:
            continue
        first = asking(problem, solver, solution=solution)
        if group not in solved:
            found.append(work.lesson(row, first, solution, "solution"))
            solved.add(group)
        given = json.dumps({"content": content, "location": review.wrong + 1}, ensure_ascii=False)
        answer = f"{review.log('Substep', 1)}\n<intervention>{given}</intervention>"
        found.append(work.lesson(row, critic_question(first, solution, blocks, critic), answer, "intervention"))
    return found


def _edits(work: _Work, editor: str, header: Any, max_edit_ratio: float) -> list[Lesson]:
    context, batch, problems = work.context, work.batch, work.problems
    coins = coins_of(context, problems)
    right, _ = drawn(context, batch, problems, coins, work.correct, need_wrong=False)
    steps = steps_of(context, batch, right, coins, header)
    questions = editor_questions(context, batch, problems, steps, editor)
    spellings, found = spellings_of(context, batch, steps), list[Lesson]()
    slips = {
        group: work.reviewer.slips(
            problems[group], work.solutions[group],
            Random(derived_seed(context.seed, context.round, problems[group].problem_id, "slips")),
        )
        for group in right
    }  # fmt: skip
    for step, question in zip(steps, questions, strict=True):
        group, spelling = int(work.groups[step.row]), spellings[step.row]
        before, target = spelling.text[: int(spelling.bounds[step.fork])], step.target(spelling.text)
        lines = tuple(line.strip() for line in before.splitlines() if line.strip())
        slip = slips[group].get(lines)
        if slip is None or not work.reviewer.is_right(problems[group], before, target):
            continue
        if usable(target, slip, max_edit_ratio):
            kind = f"edit/{step.number}"
            found.append(work.lesson(step.row, question, f"{slip}\n{FENCE}", kind))
    return found


def _hints(work: _Work, hint_from: str, template: str, solution_from: str) -> list[Lesson]:
    groups, first = np.unique(work.groups[work.rows], return_index=True)
    column = column_of(solution_from)
    solutions = list(work.solutions.values()) if column is None else texts_in(work.batch, column, groups)
    column, lines = hint_source(hint_from, "strategy 'critique'")
    hints = first_lines(solutions, lines or 0) if column is None else texts_in(work.batch, column, groups)
    return [
        work.lesson(row, asking(work.problems[group], template, hint=hint), solution, "hint")
        for group, row, hint, solution in zip(groups.tolist(), work.rows[first].tolist(), hints, solutions, strict=True)
        if hint and solution
    ]


_MAKERS: dict[str, Callable[..., list[Lesson]]] = {
    "reflection": _reflections, "verdict": _verdicts, "intervention": _interventions, "edit": _edits, "hint": _hints,
}  # fmt: skip


def _with_lessons(
    context: SamplingContext, batch: Rollouts, lessons: Sequence[Lesson], behind: Sequence[int]
) -> Rollouts:
    """The batch with a row for each, behind the group that it is about. behind: tokens that follow every question."""
    tokenizer, answers = context.tokenizer, [each.answer for each in lessons]
    encoded = tokenizer(answers, add_special_tokens=False)["input_ids"] if answers else []
    made = [Completion(np.array([*ids, tokenizer.eos_token_id], np.int32), None, "stop") for ids in encoded]
    columns = sampled_columns(
        context, [()] * len(made), made, [0] * len(made), purpose=context.purpose, flags=("demonstration",)
    )
    del columns["seed"]  # nothing was drawn
    columns |= of_questions(tokenizer, [each.name for each in lessons], [each.question for each in lessons], behind)
    return with_groups(batch.with_missing(*ADDED), [each.group for each in lessons], columns)
