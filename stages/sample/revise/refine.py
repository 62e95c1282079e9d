"""Search-R2's sampling: a refiner cuts rollouts at their first faulty step, and the policy continues from there."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ....formats.flags import ACCEPTED, NOT_REVISED, REFINED
from ....formats.rollouts import Rollouts
from ....formats.schema import Field
from ....formats.segments import Array
from ...core.ranges import AtLeast, Between
from ...core.wording import check_template, fill
from ...models.engine import Completion, Request
from ...tasks import Problem
from ...tasks.played import is_played
from .._questions import ask_policy, number_steps, question_of, step_texts
from .._source import ADDED, fork_column, names_of, own_rows, with_known, with_rows
from .._steps import join
from ..dialogue import Dialogue, Lesson, Work
from ..kind import CONTINUES, SamplingContext, strategy
from ..play._replay import Replay, columns_after
from ..rows import sampled_columns

REFINER = """\
Question:
{question}

A solution, its steps numbered:
{steps}

Do all steps serve the question and agree with one another? If so, end with ACCEPT. If not, end with CUT and the number \
of the first faulty step."""

_VERDICT = re.compile(r"\baccept\b|\bcut\b\W{0,6}(?:(?:at|before|step|number)\W{0,3}){0,3}([0-9]{1,6})", re.IGNORECASE)


class Verdict(NamedTuple):
    """The refiner's verdict on a rollout. accept: the share of its votes; cut: how many steps to keep, None for all."""

    accept: float
    cut: int | None


@dataclass(frozen=True)
class Verdicts(Dialogue):
    """A rollout's steps: do they hold, and if not, where should it be cut?"""

    of: ClassVar[str] = "verdict"

    refiner: str = REFINER

    def __post_init__(self) -> None:
        check_template(self.who, "refiner", self.refiner, "steps")

    def ask(self, context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array) -> list[str]:
        """The question to the policy about each of the rows."""
        groups = batch.groups.ids
        return [
            fill(
                self.refiner,
                question=question_of(problems[int(groups[row])]),
                steps=number_steps(step_texts(context.tokenizer, batch, row), first=1),
            )
            for row in rows.tolist()
        ]

    def teach(self, work: Work) -> list[Lesson]:
        """ACCEPT, or CUT and the first wrong step, after what the task says about each step."""
        rows, reviews = work.decide()
        found: list[Lesson] = []
        questions = self.ask(work.context, work.batch, work.problems, rows)
        for row, review, question in zip(rows.tolist(), reviews, questions, strict=True):
            verdict = "ACCEPT" if review.wrong is None else f"CUT {review.wrong + 1}"
            answer = f"{review.log('Step', 1)} {verdict}"
            found.append(work.lesson(row, [{"role": "user", "content": question}], answer, "verdict"))
        return found


ACCEPT_PROBABILITY = Field(
    "accept_probability", pa.float64(), "share of the refiner's votes to accept the response", least=0, most=1
)
CUT_STEP = Field("cut_step", pa.int32(), "steps kept of what the refiner cut; null: it accepted", "steps", least=0)


@strategy(
    source="arXiv:2602.03647 (Search-R2)",
    evidence="second-hand",
    needs=(CONTINUES,),
    turns=True,
    makes=("parent_id", "fork", ACCEPT_PROBABILITY, CUT_STEP),
    dialogue=Verdicts,
    system=("Search-R2",),
)
def refine(
    context: SamplingContext,
    *,
    votes: Annotated[int, AtLeast(1)] = 1,
    threshold: Annotated[float, Between(0, 1)] = 0.5,
    refiner_temperature: Annotated[float | None, AtLeast(0)] = None,
    refiner_tokens: Annotated[int, AtLeast(1)] = 256,
    refiner: str | None = None,
    replaced: Literal["probe", "keep"] = "probe",
) -> Iterator[Rollouts]:
    """Rollouts of --from, sampled again from their first faulty step on (Search-R2).

    Asked as a refiner, the policy accepts a rollout or names its first faulty step. An accepted rollout is flagged
    `accepted`. Any other is cut: the steps before the faulty one are kept, and the rest is sampled again. This gives a
    row of the same group, flagged `refined`, with `parent_id` and `fork`. Its mask is true on the whole response, and
    kept tokens keep their log-probabilities. The refined rollout replaces its parent, even when its reward is lower;
    the parent stays in the file as a probe, which is scored but never trained on. -n is not used, and --max-tokens
    limits the whole response.

    Rows that are already accepted are skipped. So, applied to its own output (split into steps again), the strategy
    does a second revision. It also skips what the policy did not write from the prompt alone: probes, evaluations, and
    rows flagged filtered, error, retried, reflection, guided, intervention, edited, partial or demonstration.

    The rows that it judged record the refiner's verdict: `accept_probability` is the share of votes that accept, and
    `cut_step` the number of steps kept. `reward` and the file's other columns are missing in the new rows: score them.
    The step ruler (`score --with steps`) defines the steps.

    In an environment, such as a search tool, a step is a turn with the answer to it. The environment is restored to
    where the cut is, and played on from there. Rewards are the environment's.

    Args:
        votes: how often the refiner is asked. The first vote that does not accept decides where to cut.
        threshold: tau; a rollout is accepted if at least this share of the votes accepts it.
        refiner_temperature: temperature of its answers; None is --temperature, but greedy with votes=1.
        refiner_tokens: token budget of an answer. A question beyond the policy's context is refused.
        refiner: the question to the policy; {question} and {steps}, numbered from 1, are replaced. None uses the
            built-in prompt, `REFINER` in stages/sample/revise/refine.py.
        replaced: turn parents into a "probe", or "keep" them as they are. A rollout whose cut lies beyond --max-tokens
            has no successor and stays.

    Raises:
        UsageError: an option out of range; a template that lacks {steps}; a question beyond the model's context.
            DataError: rows without steps; an environment that cannot be restored.

    Departures: 1. An answer that names neither counts as accept, and a cut outside the steps moves to the nearest
        inside; that is our reading. 2. The refiner's own tokens are not trained. 3. One revision, the paper's default.
    """
    if refiner_temperature is None:
        refiner_temperature = context.sampling.temperature if votes > 1 else 0.0
    dialogue = Verdicts("refine", refiner or REFINER)
    context.require("step.start", "step.end")
    for batch, problems in context.parts():
        rows = own_rows(
            batch, "refine", without=(ACCEPTED, *NOT_REVISED), needs=("step.start",), played=is_played(context.task)
        )
        names, starts = batch.strings("rollout_id"), batch.ragged("step.start")
        seeds = [[context.seed_of(names[row], "refiner", vote) for vote in range(votes)] for row in rows.tolist()]
        questions = dialogue.ask(context, batch, problems, rows)
        answers = ask_policy(context, questions, seeds, max_tokens=refiner_tokens, temperature=refiner_temperature)
        verdicts = {
            row: verdict_of(texts, int(starts.segments.sizes[row]), threshold)
            for row, texts in zip(rows.tolist(), answers, strict=True)
        }
        cuts = {row: int(starts[row][each.cut]) for row, each in verdicts.items() if each.cut is not None}
        cuts = {row: fork for row, fork in cuts.items() if fork < context.sampling.max_tokens}
        marked = _mark(batch, verdicts, cuts if replaced == "probe" else {})
        yield _with_refined(context, marked, problems, cuts)


def verdict_of(answers: Sequence[str], steps: int, threshold: float = 0.5) -> Verdict:
    """The verdict of several votes on a rollout of `steps` steps; in each answer, the last ACCEPT or CUT counts.

    >>> verdict_of(["Step 2 adds what is not there. CUT 2"], steps=3)
    Verdict(accept=0.0, cut=1)
    >>> verdict_of(["no idea"], steps=3), verdict_of(["CUT 9"], steps=3)
    (Verdict(accept=1.0, cut=None), Verdict(accept=0.0, cut=2))
    """
    named: list[int] = []
    for text in answers:
        found = [match[1] for match in _VERDICT.finditer(text)]
        if found and found[-1] is not None:
            named.append(int(found[-1]))
    accept = 1 - len(named) / len(answers)
    if not named or not steps or accept >= threshold:
        return Verdict(accept, None)
    return Verdict(accept, min(max(named[0] - 1, 0), steps - 1))


def _mark(batch: Rollouts, verdicts: Mapping[int, Verdict], probes: Container[int]) -> Rollouts:
    """The batch with the verdicts and the columns that refined rows have."""
    batch = batch.with_missing(*ADDED)
    purposes = batch.strings("purpose")
    batch = batch.with_columns({"purpose": ["probe" if row in probes else each for row, each in enumerate(purposes)]})
    for place, field in enumerate((ACCEPT_PROBABILITY, CUT_STEP)):
        batch = with_known(batch, field.path, field.type, {row: each[place] for row, each in verdicts.items()})
    accepted = [row in verdicts and verdicts[row].cut is None for row in range(len(batch))]
    return batch.with_flag(ACCEPTED, np.array(accepted, bool))


def _with_refined(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], cuts: Mapping[int, int]
) -> Rollouts:
    """The batch with a new row for each of {row: the token before which it is cut}."""
    read, names = batch.ragged("prompt_ids"), batch.strings("rollout_id")
    prompts = [read[row].tolist() for row in cuts]
    columns: dict[str, Any] = {}
    if "behaviour_prompt_ids" in batch:  # what was sampled with a hint continues with it
        behaviour = batch.arrow("behaviour_prompt_ids").take(pa.array(list(cuts), pa.int64()))
        prompts = [given or prompt for given, prompt in zip(behaviour.to_pylist(), prompts, strict=True)]
        columns["behaviour_prompt_ids"] = behaviour
    seeds = [context.seed_of(names[row], REFINED) for row in cuts]
    if is_played(context.task):
        own = [problems[group] for group in batch.groups.ids[list(cuts)].tolist()]
        replay = Replay(context, context.task, batch)
        played = replay.play_on(list(cuts), list(cuts.values()), seeds, own, prompts)
        columns |= columns_after(context, played, [0] * len(played), purpose="train", flags=(REFINED,))
    else:
        requests = [
            Request([*prompt, *batch.token_ids[row][:fork].tolist()], [seed], context.sampling.max_tokens - fork)
            for prompt, (row, fork), seed in zip(prompts, cuts.items(), seeds, strict=True)
        ]
        made = [each for (each,) in context.generate(requests)]
        whole = [join(_response(batch, row), fork, new) for (row, fork), new in zip(cuts.items(), made, strict=True)]
        columns |= sampled_columns(context, [()] * len(whole), whole, seeds, purpose="train", flags=(REFINED,))
    columns |= {
        "rollout_id": names_of([f"{names[row]}/{REFINED}@{context.salt}" for row in cuts]),
        "parent_id": names_of([names[row] for row in cuts]),
        "fork": fork_column(list(cuts.values())),
    }
    return with_rows(batch, np.array(list(cuts), np.int64), columns)


def _response(batch: Rollouts, row: int) -> Completion:
    """A row of the file as it was sampled."""

    def signal(path: str) -> Any:
        if path not in batch:
            return None
        lists = batch.ragged(path)
        return None if lists.present is not None and not lists.present[row] else lists[row].astype(np.float32)

    return Completion(
        batch.token_ids[row].astype(np.int32), signal("token.logprob"), "stop", signal("token.raw_logprob")
    )
