"""Hints for the prompts that were never solved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from ....formats.errors import DataError, UsageError
from ....formats.flags import ERROR, FILTERED, HINTED
from ....formats.rollouts import Rollouts
from ....formats.schema import FIELDS, arrow_type
from ....formats.segments import Array
from ...core.wording import check_template
from ...models.engine import Request
from ...models.policy import render_prompt
from ...remember.problems import of_the_prompt
from ...tasks import Message, Problem
from .._questions import with_template
from .._solutions import (
    DEMONSTRATION,
    column_of,
    first_lines,
    hint_source,
    of_groups,
    read_texts,
    require_texts,
    write_solutions,
)
from .._source import check_new, rewards_of
from ..dialogue import Dialogue, Lesson, Work
from ..kind import CONTINUES, SamplingContext, strategy
from ..rows import to_rollouts

TEMPLATE = "{question}\n\nSome guidance: {hint}"


@dataclass(frozen=True)
class Hints(Dialogue):
    """The problem with a hint in view, and a solution of it."""

    of: ClassVar[str] = "hint"
    needs: ClassVar[tuple[str, ...]] = ()
    reviewed: ClassVar[bool] = False

    hint_from: str = "demonstration:1"
    template: str = TEMPLATE
    solution_from: str = DEMONSTRATION

    def __post_init__(self) -> None:
        check_template(self.who, "template", self.template, "hint")
        hint_source(self.hint_from, f"strategy {self.who}")
        if column_of(self.solution_from) is None and self.solution_from != DEMONSTRATION:
            raise UsageError(
                f"strategy {self.who}: solution_from must be column:NAME or {DEMONSTRATION}, got {self.solution_from!r}"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns of hints and solutions."""
        return tuple(each for each in map(column_of, (self.hint_from, self.solution_from)) if each is not None)

    def ask(self, problem: Problem, hint: str) -> list[Message]:
        """The problem's messages with the hint."""
        return with_template(problem, self.template, hint=hint)

    def teach(self, work: Work) -> list[Lesson]:
        """A solution for each group that has a hint."""
        groups, first = np.unique(work.groups[work.rows], return_index=True)
        column = column_of(self.solution_from)
        solutions = list(work.solutions.values()) if column is None else read_texts(work.batch, column, groups)
        column, lines = hint_source(self.hint_from, f"strategy {self.who}")
        hints = first_lines(solutions, lines or 0) if column is None else read_texts(work.batch, column, groups)
        rows = work.rows[first].tolist()
        return [
            work.lesson(row, self.ask(work.problems[group], hint), solution, "hint")
            for group, row, hint, solution in zip(groups.tolist(), rows, hints, solutions, strict=True)
            if hint and solution
        ]


def _remark(counts: Mapping[str, int], **_: Any) -> str:
    hinted, live = counts.get("hinted", 0), counts.get("live", 0)
    return f"{hinted:,} groups failed and were sampled again with a hint; {live:,} of them can be learnt from"


@strategy(
    source="arXiv:2506.13923 (Guide)",
    evidence="code",
    needs=(CONTINUES,),
    makes=("behaviour_prompt_ids", "reward"),
    verifies=True,
    remark=_remark,
    dialogue=Hints,
    system=("Guide",),
)
def hint(
    context: SamplingContext,
    *,
    hint_from: str = "column:hint",
    template: str = TEMPLATE,
    failed: float = 0.001,
    solved: float = 0.999,
    replaced: Literal["flag", "keep"] = "flag",
) -> Iterator[Rollouts]:
    """New rollouts, with a hint in the prompt, for the prompts whose rollouts in --from all failed (Guide).

    A group whose mean reward is at most `failed` gets a second group of n rollouts that read the hint. Their `prompt`
    and `prompt_ids` omit the hint, and training uses these. `behaviour_prompt_ids` is what they read, and
    `token.logprob` is under that prompt, so the ratio of the two corrects for the hint. The new group has its own
    baseline, the task's verifier scores it here (`reward`), and it is flagged `hinted`. Groups with nothing to learn
    from are flagged `filtered` and never trained on: the failed ones and those above `solved`, with and without a hint.

    A group's mean covers only what the policy wrote from its prompt alone. Probes, evaluations, and rows flagged error,
    hinted, retried, reflection, guided, refined, intervention, edited, partial or demonstration do not count. Groups
    that consist of such rows are left as they are.

    A policy that cannot use a hint fails again, and then no hinted row is trained on. A line on standard error reports
    how many groups failed and got a hint, and how many can be learnt from. To teach a policy to use hints, train on the
    output of `sample --strategy critique --set of=hint`.

    Args:
        hint_from: where hints come from. "column:NAME" is a text column of the file, equal in all rows of a group, or
            of the task's own file. "demonstration:N" is the first N lines of the task's own worked solution.
        template: the last message with the hint; {question} and {hint} are replaced.
        failed: mean reward up to which a group counts as failed.
        solved: mean reward above which there is nothing to learn.
        replaced: "flag" those groups, or "keep" them as they are.

    Raises:
        UsageError: a template that lacks {hint}; a task without worked solutions. DataError: no rewards; a failed group
            without a hint; a file that already has these rollouts.

    Departures: 1. The paper throws flagged groups away. 2. Its released code hints only if enough groups failed to fill
        its workers. 3. We leave out its `mixin`, which replaces hinted failures by plain ones.
    """
    dialogue = Hints("hint", hint_from, template)
    column, lines = hint_source(hint_from, "strategy hint")
    require_texts(context.file, ("reward",), column, "strategy 'hint'")
    for batch, problems in context.parts():
        mean = _means(batch, of_the_prompt(batch))
        lost = np.flatnonzero(mean <= failed)
        plain = batch.with_missing("behaviour_prompt_ids", "flags")
        if replaced == "flag":
            plain = plain.with_flag(FILTERED, batch.groups.spread((mean <= failed) | (mean > solved)))
        chosen = [problems[group] for group in lost.tolist()]
        if column is not None:
            hints = _read_hints(batch, column, lost)
        else:
            assert lines is not None, "one of the two is given"
            hints = first_lines(write_solutions(context, chosen, "name a column with hint_from=column:NAME"), lines)
        names = of_groups(batch, "group_id", lost)
        made = _sample_hinted(context, chosen, names, hints, dialogue, failed, solved, replaced)
        context.count(hinted=len(lost), live=_count_live(made, failed, solved))
        yield _interleave(plain, lost, made)


def _read_hints(batch: Rollouts, column: str, groups: Array) -> list[str]:
    """The hints in a column for these groups. DataError for a group without one."""
    hints: list[str] = []
    for group, text in zip(groups.tolist(), read_texts(batch, column, groups), strict=True):
        if not text:
            row = int(batch.groups.starts[group])
            raise DataError(f"row {row}, column {column!r}: missing; a group that failed needs a hint")
        hints.append(text)
    return hints


def _sample_hinted(
    context: SamplingContext, problems: Sequence[Problem], groups: Sequence[str], hints: Sequence[str], dialogue: Hints,
    failed: float, solved: float, replaced: str,
) -> Rollouts | None:  # fmt: skip
    """A hinted group for each problem."""
    if not problems:
        return None
    tokenizer = context.tokenizer
    guided = [
        render_prompt(tokenizer, dialogue.ask(problem, text)) for problem, text in zip(problems, hints, strict=True)
    ]
    requests = [
        Request(
            prefix_ids=prompt,
            seeds=[context.seed_of(problem.problem_id, HINTED, index) for index in range(context.n)],
        )
        for problem, prompt in zip(problems, guided, strict=True)
    ]
    prompts = [render_prompt(tokenizer, problem.prompt) for problem in problems]
    made = to_rollouts(context, problems, prompts, context.generate(requests), flags=(HINTED,))
    read = [prompt for prompt in guided for _ in range(context.n)]
    seeds = [seed for request in requests for seed in request.seeds]
    columns = {
        "group_id": [f"{group}/{HINTED}" for group in groups for _ in range(context.n)],
        "rollout_id": [f"{group}/{HINTED}@{context.salt}/{index}" for group in groups for index in range(context.n)],
        "behaviour_prompt_ids": pa.array(read, arrow_type("behaviour_prompt_ids")),
        "reward": context.with_rewards(made).arrow("reward"),
    }  # fmt: skip
    if "seed" in made:
        columns["seed"] = pa.array(seeds, FIELDS["seed"].type)
    made = made.with_columns(columns)
    if replaced == "flag":
        mean = _own_means(made)
        made = made.with_flag(FILTERED, made.groups.spread((mean <= failed) | (mean > solved)))
    return made


def _count_live(hinted: Rollouts | None, failed: float, solved: float) -> int:
    """How many hinted groups can be learnt from."""
    if hinted is None:
        return 0
    mean = _own_means(hinted)
    return int(((mean > failed) & (mean <= solved)).sum())


def _own_means(hinted: Rollouts) -> Array:
    """[G] mean reward of the rollouts that did not fail in each hinted group."""
    return _means(hinted, np.flatnonzero(~hinted.flagged(ERROR)))


def _means(batch: Rollouts, rows: Array) -> Array:
    """[G] mean reward of the rows [M] in each group; NaN for a group without any."""
    groups, size = batch.groups.ids[rows], len(batch.groups)
    count = np.bincount(groups, minlength=size)
    total = np.bincount(groups, weights=rewards_of(batch, rows), minlength=size)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _interleave(plain: Rollouts, lost: Array, hinted: Rollouts | None) -> Rollouts:
    """Put each hinted group after the group that it is for. Other columns of the file are missing (null) in it."""
    if hinted is None:
        return plain
    check_new(plain, hinted)
    order = np.argsort(np.concatenate((plain.groups.ids, hinted.groups.spread(lost))), kind="stable")
    return Rollouts.concat([plain, hinted.like(plain)]).take(order)
