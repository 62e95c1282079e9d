"""Critiques that the task writes itself, as answers to other strategies' questions, to train a first policy on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

import numpy as np

from ....formats.errors import UsageError
from ....formats.flags import NOT_REVISED
from ....formats.rollouts import Rollouts
from ...core.ranges import AtLeast, Between
from ...models.engine import Completion
from .._solutions import require_texts
from .._source import ADDED, of_questions, own_rows, with_groups
from ..dialogue import Dialogue, Lesson, Reviewer, Work
from ..kind import CONTINUES, STRATEGIES, SamplingContext, strategy
from ..rows import sampled_columns

Of = Literal["reflection", "verdict", "intervention", "edit", "hint"]


def _remark(counts: Mapping[str, int], *, of: str, **_: Any) -> str:
    return f"{counts.get('looked_at', 0):,} rollouts, {counts.get('answers', 0):,} answers about them (of={of})"


@strategy(
    source="ours; answers as supervision: arXiv:2501.17703 (Critique Fine-Tuning)",
    evidence="guess",
    needs=(CONTINUES,),
    engine=False,
    remark=_remark,
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
    """The task's own answers to what another strategy asks the policy about the rollouts of --from.

    A policy that cannot judge its own work learns to do so from these rows with `train --objective sft`. The strategies
    `retry`, `refine`, `intervene`, `inject_errors` and `hint` then have something to work with. The questions are
    rendered exactly as those strategies render them, so pass the same templates to both. The answers are the task's: it
    verifies a rollout's steps in order, and for the first wrong one it knows the right line of the worked solution.

        of=            asked by       about            answer
        reflection     retry          every rollout    JSON, retry_from_step the first wrong step, or "success"; and, asked
                                                       with it to try again, the steps before, and the solution from there
        verdict        refine         every rollout    ACCEPT, or CUT and the first wrong step
        intervention   intervene      wrong rollouts   <intervention> with the right line for the first wrong block, cut
                                                       before the final answer if the line ends with it; and, asked
                                                       to solve the problem with a solution in view, that solution
        edit           inject_errors  a right rollout  for each of its steps a wrong one, as the task itself would go wrong
        hint           hint           every group      asked to solve the problem with a hint in view, the worked solution

    Each answer is a row flagged `demonstration`, in a group of its own after the rollout's group. `prompt` is the
    question. The answer has no log-probabilities. The rollouts stay as they are;
    `apportion filter --drop --where "'demonstration' in flags"` leaves only the rows to train on.

    No answer is written if the task cannot tell: if a wrong rollout has no wrong step, if no line belongs there, if the
    answer cannot be held back, if the task makes no mistake in that place, or if the strategy would drop the answer. A
    line on standard error says how many were written. The step ruler (`score --with steps`) defines the steps;
    intervene uses the separator. -n and --max-tokens are not used.

    Args:
        of: the question to answer.
        reflector: template of `retry`, as documented there.
        guidance: template of `retry`.
        refiner: template of `refine`.
        solver: template of `intervene`.
        critic: template of `intervene`.
        separator: block separator of `intervene`.
        editor: template of `inject_errors`. Whatever kind of error it asks for, the mistake is the task's.
        header: option of `inject_errors`.
        max_edit_ratio: option of `inject_errors`; None is its default, 0.5. A mistake beyond it is not written.
        hint_from: option of `hint`; None is demonstration:1, the first line of the worked solution.
        template: template of `hint`.
        solution_from: the answers when a hint is in view: "column:NAME" as in `hint`; None is "demonstration", the
            task's own.
        correct: a rollout is right if its reward is at least this.
        rows_at_once: rollouts to look at before a part of the file is written (at least a group); bounds the memory.

    Raises:
        UsageError: a task that cannot verify steps or has no worked solutions; an option of another question; a template
            that lacks a placeholder. DataError: rows without reward or steps; rows in which an environment wrote.
    """
    dialogue = _dialogue(
        of,
        reflector=reflector, guidance=guidance, refiner=refiner, solver=solver, critic=critic, separator=separator,
        editor=editor, header=header, max_edit_ratio=max_edit_ratio, hint_from=hint_from, template=template,
        solution_from=solution_from,
    )  # fmt: skip
    reviewer = Reviewer(context.task, "strategy 'critique'") if dialogue.reviewed else None
    for column in dialogue.texts or (None,):
        require_texts(context.file, dialogue.needs, column, "strategy 'critique'")
    opening = dialogue.opening(context.tokenizer)
    for part, problems in context.parts(rows_at_once):
        rows = own_rows(part, "critique", without=NOT_REVISED, needs=dialogue.needs)
        lessons = dialogue.teach(Work(context, part, problems, rows, reviewer, correct))
        made = _with_lessons(context, part, lessons, opening)
        context.count(looked_at=len(rows), answers=len(lessons))
        yield made


def _dialogue(of: Of, **given: Any) -> Dialogue:
    """The question, with the options given. UsageError for options of another question, and for invalid ones."""
    dialogue = next(each.dialogue for each in STRATEGIES if each.dialogue is not None and each.dialogue.of == of)
    own = {each.name for each in fields(dialogue)}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in own:
            raise UsageError(f"strategy critique: {name} has no effect with of={of}; leave it out")
    return dialogue("critique", **options)


def _with_lessons(
    context: SamplingContext, batch: Rollouts, lessons: Sequence[Lesson], behind: Sequence[int]
) -> Rollouts:
    """The batch with a row for each lesson, after the group it is about. behind: tokens that follow every question."""
    tokenizer, answers = context.tokenizer, [each.answer for each in lessons]
    encoded = tokenizer(answers, add_special_tokens=False)["input_ids"] if answers else []
    made = [Completion(np.array([*ids, tokenizer.eos_token_id], np.int32), None, "stop") for ids in encoded]
    columns = sampled_columns(
        context, [()] * len(made), made, [0] * len(made), purpose=context.purpose, flags=("demonstration",)
    )
    del columns["seed"]  # nothing was sampled
    columns |= of_questions(tokenizer, [each.name for each in lessons], [each.question for each in lessons], behind)
    return with_groups(batch.with_missing(*ADDED), [each.group for each in lessons], columns)
