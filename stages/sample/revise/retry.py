"""R3L's sampling: the policy reflects on its rollouts and tries again from the step that it would change."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....formats.flags import ERROR, GUIDED, NOT_REVISED, REFLECTION, RETRIED
from ....formats.rollouts import Rollouts
from ....formats.schema import FIELDS, Field, arrow_type
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...core.wording import check_template, fill
from ...models.engine import Completion, Request
from ...models.policy import render_prompt
from ...tasks import Message, Problem
from ...tasks.played import is_played
from .._questions import number_steps, question_of, reply_to, step_texts, texts_of, with_template
from .._source import ADDED, fork_column, names_of, of_questions, own_rows, with_groups, with_known, with_rows
from ..dialogue import Dialogue, Lesson, Review, Work
from ..kind import CONTINUES, SamplingContext, strategy
from ..play._interact import Rollout
from ..play._replay import Replay, completion_after, observed_after, reward_of
from ..rows import sampled_columns

REFLECTOR = """\
You look back at a finished attempt, to find what can be learnt from it.

Task:
{question}

The attempt, its steps counted from 0:
{steps}

Find out what decided how it ended. Ask of every cause why it came about, and of that again, until you reach a habit \
that would do harm in other tasks, too. If another try is worth while, choose the earliest step that has to be \
different: all before it is kept, and the work goes on from there.

Answer with one JSON object and nothing else. Its keys:
"trajectory_summary": what was done, in a sentence or two
"root_cause_analysis": why it ended as it did
"trajectory_outcome": "success", "success_but_inefficient" or "failure"
"improvement_suggestion": what to do instead (not for "success")
"retry_from_step": the number of that step (not for "success")

An example:
{"trajectory_summary": "The price of four tickets was looked up, and the discount added.", "root_cause_analysis": "The \
sign of the discount was never settled before it was used, out of a habit of computing first and reading later.", \
"trajectory_outcome": "failure", "improvement_suggestion": "Say of each quantity whether it raises or lowers the total \
before using it.", "retry_from_step": 2}"""

GUIDANCE = """\
{question}

A review of an earlier attempt of yours:
{reflection}

Follow it in silence. Your answer must not show that there was an attempt or a review."""

KEYS = {"trajectory_summary", "root_cause_analysis", "trajectory_outcome"}
PERFECT = "success"
WANTING = ("success_but_inefficient", "failure")


@dataclass(frozen=True)
class Reflection:
    """A valid reflection. text: its JSON, verbatim. step: where to begin again; None if nothing has to change."""

    text: str
    step: int | None


@dataclass(frozen=True)
class Reflections(Dialogue):
    """A rollout's steps: where should it begin again, and why? Then the problem again, with the reflection in view."""

    of: ClassVar[str] = "reflection"

    reflector: str = REFLECTOR
    guidance: str = GUIDANCE

    def __post_init__(self) -> None:
        check_template(self.who, "reflector", self.reflector, "steps")
        check_template(self.who, "guidance", self.guidance, "reflection")

    def ask(
        self, context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array
    ) -> list[list[Message]]:
        """The question to the policy about each of the rows."""
        groups = batch.groups.ids
        found: list[list[Message]] = []
        for row in rows.tolist():
            steps = number_steps(step_texts(context.tokenizer, batch, row), first=0)
            content = fill(self.reflector, question=question_of(problems[int(groups[row])]), steps=steps)
            found.append([{"role": "user", "content": content}])
        return found

    def ask_again(self, problem: Problem, reflection: str) -> list[Message]:
        """The problem with a reflection in view."""
        return with_template(problem, self.guidance, reflection=reflection)

    def teach(self, work: Work) -> list[Lesson]:
        """A reflection on every row that the task can judge and, if a step is wrong, the right ending from there on."""
        rows, reviews = work.decide()
        reward = work.batch.numbers("reward")
        found: list[Lesson] = []
        questions = self.ask(work.context, work.batch, work.problems, rows)
        for row, review, question in zip(rows.tolist(), reviews, questions, strict=True):
            steps, group = work.steps(row), int(work.groups[row])
            text = reflect(review, len(steps), right=bool(reward[row] >= work.correct))
            found.append(work.lesson(row, question, text, "reflection"))
            if review.right is not None:
                rest = work.solutions[group].splitlines()
                again = [*(step.strip() for step in steps[: review.wrong]), *rest[rest.index(review.right) :]]
                guided = self.ask_again(work.problems[group], text)
                found.append(work.lesson(row, guided, "\n".join(again), "guided"))
        return found


def reflect(review: Review, steps: int, *, right: bool) -> str:
    """A reflection on a rollout of `steps` steps, in the form that `reflection_of` reads.

    >>> reflect(Review(["3+4=7"], None), 1, right=True)
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


class _Answer(NamedTuple):
    """What the policy wrote after a question and, if part of the answer was given, after that prefix.

    prompt: the question's ids. played: the rollout, if an environment answered.
    """

    question: list[Message]
    prompt: list[int]
    prefix: list[int]
    made: Completion
    seed: int
    played: Rollout | None = None


REFLECTION_TEXT = Field("reflection", pa.string(), "the reflection, JSON; null: none that counts")
RETRY_STEP = Field("retry_step", pa.int32(), "step from which it was done anew", "step", least=0)


def _remark(counts: Mapping[str, int], *, reflections: str, **_: Any) -> str:
    asked, sound, tried, lessons = (counts.get(name, 0) for name in ("reflections", "sound", "retries", "lessons"))
    also = f", {lessons:,} rows to learn that from" if reflections == "keep" else ""
    return f"{asked:,} reflections, {sound:,} of them sound; {tried:,} rollouts tried again{also}"


@strategy(
    source="arXiv:2601.03715 (R3L, reflect-then-retry)",
    evidence="code",
    needs=(CONTINUES,),
    turns=True,
    verifies=True,
    makes=("parent_id", "fork", "behaviour_prompt_ids", "reward", REFLECTION_TEXT, RETRY_STEP),
    remark=_remark,
    dialogue=Reflections,
    system=("R3L",),
)
def retry(
    context: SamplingContext,
    *,
    reflector: str | None = None,
    guidance: str | None = None,
    reflection_tokens: Annotated[int, AtLeast(1)] = 4096,
    parents: Literal["suffix", "keep"] = "suffix",
    reflections: Literal["keep", "drop"] = "keep",
    correct: float = 1.0,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """A second try at the rollouts of --from, from the step where the policy itself would begin again (R3L).

    The policy reads a rollout as numbered steps and writes a reflection in JSON, which names the earliest step that
    must change. The tokens before that step, the pivot, are kept. The rest is sampled again with the reflection in the
    prompt. The new row, flagged `retried`, leaves the reflection out: `prompt_ids` is its parent's,
    `behaviour_prompt_ids` is what the policy read, and `token.logprob` is under that prompt, so the ratio of the two
    corrects for the reflection. It has `parent_id` and `fork`. Its mask is false before the fork, and so is its
    parent's (see `parents`): only tokens from the pivot on are trained.

    A reflection is the text from the first { to the last }. It is valid if it is JSON with trajectory_summary,
    root_cause_analysis and trajectory_outcome. The outcome "success" asks for no second try. "success_but_inefficient"
    and "failure" require improvement_suggestion and retry_from_step, a whole number from 0 to the last step. Invalid
    reflections are skipped. So a group ends up with one or two rows for each of its rollouts.

    Reflections that helped, and the tries they guided, are also trained, as prompt and response of their own: the
    reflection on a wrong rollout whose retry is right (flagged `reflection`), that retry after the prompt with the
    reflection in it (`guided`), and the reflection that finds nothing to change in a right rollout. Each is a group of
    one with another `problem_id` and reward 1. `assign-credit` gives such a group 1 with `singleton=raw`, and otherwise
    nothing.

    In an environment a step is a turn with the answer to it. The environment is restored to the start of the pivot's
    turn, and played on from there. Rewards are the environment's. There, a right retry with fewer turns than a right
    rollout also counts as having helped.

    Rows that were reflected on get `reflection` (the JSON, null if it is invalid) and `retry_step`. The `reward` of
    retries is missing: score them. The step ruler (`score --with steps`) defines the steps. --max-tokens limits the
    whole response, and -n is not used. Skipped are probes, evaluations, and rows flagged filtered, error, retried,
    reflection, guided, intervention, edited, partial or demonstration. A line on standard error says how many
    reflections were valid.

    Args:
        reflector: the question to the policy; {question} and {steps} are replaced. None uses the built-in prompt,
            `REFLECTOR` in stages/sample/revise/retry.py.
        guidance: the last message of the prompt with the reflection; {question} and {reflection} are replaced. None
            uses the built-in prompt, `GUIDANCE`.
        reflection_tokens: token budget of a reflection. A question beyond the policy's context is refused.
        reflections: "keep" adds reflections and guided tries as rows of their own; "drop" leaves them out.
        correct: a rollout is right if its reward is at least this.
        parents: "suffix" also makes the mask of a rollout false before its retry's fork, so that both are compared only
            by what follows the pivot; "keep" leaves it as it is.
        rows_at_once: rollouts to reflect on before a part of the file is written (at least a group); bounds the memory.

    Raises:
        UsageError: a template that lacks a placeholder; a question beyond the model's context. DataError: rows without
            steps, or without reward if reflections are kept; an environment that cannot be restored; a file that
            already has these retries.

    Departures: 1. The reflection is at the end of the prompt, not before the step that is sampled again, so that prompt
        and response remain two lists of ids. 2. Without an environment a retry helped if it alone is right, as in the
        released code for mathematics. We also mask a guided try before its pivot, which that code leaves
        out. 3. `true` is not a step number; that is our reading.
    """
    dialogue = Reflections("retry", reflector or REFLECTOR, guidance or GUIDANCE)
    needed = ("step.start", "step.end", *(("reward",) if reflections == "keep" else ()))
    context.require(*needed)
    for part, problems in context.parts(rows_at_once):
        rows = own_rows(
            part, "retry", without=NOT_REVISED, needs=[path for path in needed if path != "step.end"],
            played=is_played(context.task),
        )  # fmt: skip
        answers = _ask(context, part, rows, dialogue.ask(context, part, problems, rows), reflection_tokens)
        found = _read_sound(context, part, answers)
        starts, place = part.ragged("step.start"), part.groups.ids
        forks = {row: int(starts[row][each.step]) for row, each in found.items() if each.step is not None}
        forks = {row: fork for row, fork in forks.items() if fork < context.sampling.max_tokens}
        again = {row: problems[int(place[row])] for row in forks}
        guided = [dialogue.ask_again(problem, found[row].text) for row, problem in again.items()]
        tries = _try_again(context, part, forks, list(again.values()), guided)
        told = _tell(part, rows, found)
        if parents == "suffix":
            made = {row: forks[row] for row, each in tries.items() if each.made.finish_reason != ERROR}
            told = _mask_shared(told, made)
        made = _with_retries(context, told, forks, tries)
        lessons: list[tuple[int, str, _Answer]] = []
        if reflections == "keep":
            better, perfect = _find_helpful(context, part, problems, found, tries, correct)
            lessons = [(row, REFLECTION, answers[row]) for row in sorted([*better, *perfect])]
            lessons += [(row, GUIDED, tries[row]) for row in better]
            made = _with_lessons(context, made, part, lessons)
        context.count(reflections=len(rows), sound=len(found), retries=len(forks), lessons=len(lessons))
        yield made


def reflection_of(text: str, steps: int) -> Reflection | None:
    """A reflection on a rollout of `steps` steps, parsed; None if it is not valid.

    >>> given = '"trajectory_summary": "", "root_cause_analysis": "", "trajectory_outcome"'
    >>> reflection_of(f'So: {{{given}: "failure", "improvement_suggestion": "", "retry_from_step": 2}}.', steps=3).step
    2
    >>> reflection_of(f'{{{given}: "failure"}}', steps=3) is None
    True
    >>> reflection_of(f'{{{given}: "success"}}', steps=3).step is None
    True
    """
    begin, end = text.find("{"), text.rfind("}")
    if not 0 <= begin < end:
        return None
    written = text[begin : end + 1]
    try:
        given = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or not given.keys() >= KEYS:
        return None
    if given["trajectory_outcome"] == PERFECT:
        return Reflection(written, None)
    step = given.get("retry_from_step")
    if given["trajectory_outcome"] not in WANTING or "improvement_suggestion" not in given:
        return None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < steps:
        return None
    return Reflection(written, step)


def _ask(
    context: SamplingContext, batch: Rollouts, rows: Array, questions: Sequence[list[Message]], max_tokens: int
) -> dict[int, _Answer]:
    """The policy's answers about the rows."""
    names = batch.strings("rollout_id")
    seeds = [context.seed_of(names[row], REFLECTION) for row in rows.tolist()]
    sampling = replace(context.sampling, max_tokens=max_tokens)
    made = reply_to(context, questions, [[seed] for seed in seeds], sampling)
    return {
        row: _Answer(question, render_prompt(context.tokenizer, question), [], each, seed)
        for row, question, (each,), seed in zip(rows.tolist(), questions, made, seeds, strict=True)
    }


def _read_sound(context: SamplingContext, batch: Rollouts, answers: Mapping[int, _Answer]) -> dict[int, Reflection]:
    """The reflections that are valid."""
    sizes, texts = (
        batch.ragged("step.start").segments.sizes,
        texts_of(context, [each.made for each in answers.values()]),
    )
    read = {row: reflection_of(text, int(sizes[row])) for row, text in zip(answers, texts, strict=True)}
    return {row: each for row, each in read.items() if each is not None}


def _tell(batch: Rollouts, rows: Array, found: Mapping[int, Reflection]) -> Rollouts:
    """The batch with the reflections recorded in its rows."""
    said = {row: found.get(row) for row in rows.tolist()}
    told = with_known(
        batch, REFLECTION_TEXT.path, REFLECTION_TEXT.type, {row: each and each.text for row, each in said.items()}
    )
    told = with_known(told, RETRY_STEP.path, RETRY_STEP.type, {row: each and each.step for row, each in said.items()})
    return told.with_missing(*ADDED, "behaviour_prompt_ids")


def _mask_shared(batch: Rollouts, forks: Mapping[int, int]) -> Rollouts:
    """The batch with the mask false on what rows share with their retries."""
    shared = np.zeros(len(batch), np.int64)
    shared[list(forks)] = list(forks.values())
    mask = batch.mask & (batch.tokens.positions >= batch.tokens.spread(shared))
    return batch.with_columns({"token.mask": batch.token_ids.with_values(mask)})


def _try_again(
    context: SamplingContext, batch: Rollouts, forks: Mapping[int, int], problems: Sequence[Problem],
    questions: Sequence[list[Message]],
) -> dict[int, _Answer]:  # fmt: skip
    """A second try for each of {row: the token from which to sample again}, after a prompt with the reflection."""
    if not forks:
        return {}
    names = batch.strings("rollout_id")
    prefixes = [batch.token_ids[row][:fork].tolist() for row, fork in forks.items()]
    seeds = [context.seed_of(names[row], RETRIED) for row in forks]
    played: list[Rollout | None] = [None for _ in forks]
    if is_played(context.task):
        replay = Replay(context, context.task, batch)
        prompts = [replay.prompt(question) for question in questions]
        played = [*replay.play_on(list(forks), list(forks.values()), seeds, problems, prompts)]
        made = [completion_after(each, fork) for each, fork in zip(played, forks.values(), strict=True) if each]
    else:
        prompts = [render_prompt(context.tokenizer, question) for question in questions]
        requests = [
            Request([*prompt, *prefix], [seed], context.sampling.max_tokens - len(prefix))
            for prompt, prefix, seed in zip(prompts, prefixes, seeds, strict=True)
        ]
        made = [each for (each,) in context.generate(requests)]
    return dict(zip(forks, map(_Answer, questions, prompts, prefixes, made, seeds, played), strict=True))


def _with_retries(
    context: SamplingContext, batch: Rollouts, forks: Mapping[int, int], tries: Mapping[int, _Answer]
) -> Rollouts:
    """The batch with the second tries, in the groups of the first ones."""
    names = batch.strings("rollout_id")
    read = [each.prompt for each in tries.values()]
    columns = _sampled_columns(context, list(tries.values()), RETRIED) | {
        "rollout_id": names_of([f"{names[row]}/{RETRIED}@{context.salt}" for row in tries]),
        "parent_id": names_of([names[row] for row in tries]),
        "fork": fork_column(list(forks.values())),
        "behaviour_prompt_ids": pa.array(read, arrow_type("behaviour_prompt_ids")),
    }
    return with_rows(batch, np.array(list(tries), np.int64), columns)


def _find_helpful(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], found: Mapping[int, Reflection],
    tries: Mapping[int, _Answer], correct: float,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """(wrong rows whose second try is right, right rows in which the reflection found nothing to change)."""
    reward, groups = batch.numbers("reward"), batch.groups.ids
    texts = context.tokenizer.batch_decode(
        [[*each.prefix, *each.made.ids.tolist()] for each in tries.values()], skip_special_tokens=True
    ) if tries else []  # fmt: skip
    turns = batch.ragged("step.start").segments.sizes
    better: list[int] = []
    for (row, each), text in zip(tries.items(), texts, strict=True):
        if each.made.finish_reason == ERROR:
            continue
        if each.played is not None:
            given, fewer = reward_of(each.played), len(each.played.starts) < turns[row]
        else:
            (given,), fewer = context.verify([problems[int(groups[row])]], [text]), False
        if given >= correct and (given > reward[row] or fewer):
            better.append(row)
    return better, [row for row, each in found.items() if each.step is None and reward[row] >= correct]


def _with_lessons(
    context: SamplingContext, batch: Rollouts, part: Rollouts, lessons: Sequence[tuple[int, str, _Answer]]
) -> Rollouts:
    """The batch with answers to questions about rows of the part, (row, kind, answer), as groups of one."""
    names, groups = part.strings("rollout_id"), part.groups.ids
    columns = _sampled_columns(context, [answer for *_, answer in lessons])
    columns |= of_questions(
        context.tokenizer,
        [f"{names[row]}/{kind}@{context.salt}" for row, kind, _ in lessons],
        [answer.question for *_, answer in lessons],
    )
    columns["prompt_ids"] = pa.array([answer.prompt for *_, answer in lessons], arrow_type("prompt_ids"))
    flags = zip(lessons, columns["flags"].to_pylist(), strict=True)
    columns["flags"] = pa.array([[kind, *known] for (_, kind, _), known in flags], arrow_type("flags"))
    columns["reward"] = pa.array([1.0] * len(lessons), FIELDS["reward"].type)
    return with_groups(batch, [int(groups[row]) for row, *_ in lessons], columns)


def _sampled_columns(context: SamplingContext, answers: Sequence[_Answer], *flags: str) -> dict[str, Any]:
    """{path: [M]} of what the policy wrote."""
    columns: dict[str, Any] = sampled_columns(
        context, [each.prefix for each in answers], [each.made for each in answers], [each.seed for each in answers],
        purpose="train", flags=flags,
    )  # fmt: skip
    played = [each for each in answers if each.played is not None]
    if not played:
        return columns
    told = observed_after([each.played for each in played if each.played], [len(each.prefix) for each in played])
    numbers = iter(range(len(played)))
    where = pa.array([None if each.played is None else next(numbers) for each in answers], pa.int64())
    for path, values in told.items():
        known = columns.get(path, pa.nulls(len(answers), values.type))
        columns[path] = pc.call_function("if_else", [where.is_null(), known, values.take(where)])
    return columns
