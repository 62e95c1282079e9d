"""R3L's sampling: the policy reflects on its rollouts and tries again from the step that it would do otherwise."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...formats.rollouts import Rollouts
from ...formats.schema import arrow_type
from ...formats.segments import Array
from ..driver import require
from ..models.engine import Request
from ..models.policy import render_prompt
from ..options import at_least_one
from ..progress import progress
from ..tasks import Problem
from ._judge import question_of, replies, texts_of
from ._revisions import (
    NOT_ASKED,
    RETRIED,
    asking,
    check_template,
    filled,
    forks_of,
    names_of,
    parts,
    with_known,
)
from ._rows import derived_seed, sampled_columns
from ._source import ADDED, own_rows, with_rows
from ._strategy import CONTINUES, SamplingContext, strategy

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
    """A sound one. text: its JSON, as it was written. step: where to begin again, None where nothing has to change."""

    text: str
    step: int | None


@strategy(source="arXiv:2601.03715 (R3L, reflect-then-retry)", needs=(CONTINUES,))
def retry(
    context: SamplingContext,
    *,
    reflector: str | None = None,
    guidance: str | None = None,
    reflection_tokens: int = 4096,
    parents: Literal["keep", "suffix"] = "keep",
    rows_at_once: int = 2048,
) -> Iterator[Rollouts]:
    """A second try of the rollouts of --from, from the step at which the policy itself would begin again (R3L).

    The policy reads a rollout as numbered steps and writes a reflection in JSON, which names the earliest step that has
    to be different. The tokens before that step are kept, and the rest is sampled again with the reflection in the
    prompt. The new row, flagged `retried`, is the copy without it: `prompt_ids` is its parent's, `behaviour_prompt_ids`
    what the policy read, and `token.logprob` is under that, so that a ratio of the two corrects for the reflection. It
    has `parent_id` and `fork`, and its mask is false before the fork: trained is what follows the pivot.

    A reflection is what stands between the first { and the last }. It counts where that is JSON with
    trajectory_summary, root_cause_analysis and trajectory_outcome; the outcome "success" asks for no second try,
    "success_but_inefficient" and "failure" for improvement_suggestion and a whole number retry_from_step, 0 to the last
    step. Any other reflection is passed over. So a group has one to two rows for each of its rollouts.

    Rows that were reflected on get `reflection` (the JSON, null where it does not count) and `retry_step`. `reward` of
    the new rows is missing: score them. The step ruler (`score --with steps`) says what a step is; --max-tokens bounds
    the whole response, and -n is not used. Probes, evals and earlier retries are not reflected on. How many reflections
    counted is said on standard error.

    Args:
        reflector: what the policy is asked; {question} and {steps} are replaced. None is our wording, in this file.
        guidance: the last message of the prompt with the reflection in it; {question} and {reflection} are replaced.
            None is our wording.
        reflection_tokens: budget of a reflection. A question beyond the policy's context is refused.
        parents: "suffix" makes the mask of a rollout false before its retry's fork, too, as the paper does; "keep"
            leaves it as it is.
        rows_at_once: rollouts reflected on before a part of the file is written (at least a group's); bounds the
            memory.

    Raises:
        UsageError: a template without a name; a question beyond the model's context. DataError: rows without steps;
            rows an environment wrote in.

    Departures: 1. Text only: no environment is played again. 2. The reflection stands at the end of the prompt, not
        before the step that is done anew, so that prompt and response remain two lists of ids. 3. Paper and code train
        reflections and guided retries of successes, too, as groups of one; they are not written. 4. `true` is no step:
        our reading. 5. Their parents are masked before the pivot; here that is an option.
    """
    file = context.rollouts
    assert file is not None, "sample opens it for a strategy that needs --from"
    at_least_one("retry", reflection_tokens=reflection_tokens, rows_at_once=rows_at_once)
    reflector, guidance = reflector or REFLECTOR, guidance or GUIDANCE
    check_template("retry", "reflector", reflector, "steps")
    check_template("retry", "guidance", guidance, "reflection")
    require(file, ("step.start", "step.end"), "strategy 'retry'")
    remaining = iter(context.problems)
    asked = sound = tried = 0
    with progress(file.num_rows, "retry, rollouts") as advance:
        for batch in context.batches():
            problems = [next(remaining) for _ in range(len(batch.groups))]
            for part, groups in parts(batch, rows_at_once):
                rows = own_rows(part, "retry", without=NOT_ASKED, needs="step.start")
                found = _reflected(context, part, problems[groups], rows, reflector, reflection_tokens)
                asked, sound = asked + len(rows), sound + len(found)
                starts = part.ragged("step.start")
                forks = {row: int(starts[row][each.step]) for row, each in found.items() if each.step is not None}
                forks = {row: fork for row, fork in forks.items() if fork < context.sampling.max_tokens}
                tried += len(forks)
                told = _told(part, rows, found)
                if parents == "suffix":
                    told = _masked(told, forks)
                yield _retried(context, told, problems[groups], found, forks, guidance)
                advance(len(part))
    print(f"retry: {asked:,} reflections, {sound:,} of them sound; {tried:,} rollouts tried again", file=sys.stderr)


def reflection_of(text: str, steps: int) -> Reflection | None:
    """What a reflection on a rollout of so many steps says; None for one that does not count.

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


def _reflected(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array, reflector: str, max_tokens: int
) -> dict[int, Reflection]:
    """The sound reflections on the rows."""
    starts, ends, ids = batch.ragged("step.start"), batch.ragged("step.end"), batch.token_ids
    names, groups = batch.strings("rollout_id"), batch.groups.ids
    conversations: list[list[dict[str, str]]] = []
    for row in rows.tolist():
        spans = [ids[row][start:end].tolist() for start, end in zip(starts[row], ends[row], strict=True)]
        texts = context.tokenizer.batch_decode(spans, skip_special_tokens=True) if spans else []
        steps = "\n".join(f"{number}. {text.strip()}" for number, text in enumerate(texts))
        content = filled(reflector, question=question_of(problems[int(groups[row])]), steps=steps)
        conversations.append([{"role": "user", "content": content}])
    seeds = [[derived_seed(context.seed, context.round, names[row], "reflection")] for row in rows.tolist()]
    made = [
        each for (each,) in replies(context, conversations, seeds, replace(context.sampling, max_tokens=max_tokens))
    ]
    read = {
        row: reflection_of(text, len(starts[row]))
        for row, text in zip(rows.tolist(), texts_of(context, made), strict=True)
    }
    return {row: each for row, each in read.items() if each is not None}


def _told(batch: Rollouts, rows: Array, found: Mapping[int, Reflection]) -> Rollouts:
    """The batch with what was said of its rows."""
    said = {row: found.get(row) for row in rows.tolist()}
    told = with_known(batch, "reflection", pa.string(), {row: each and each.text for row, each in said.items()})
    told = with_known(told, "retry_step", pa.int32(), {row: each and each.step for row, each in said.items()})
    return told.with_missing(*ADDED, "behaviour_prompt_ids")


def _masked(batch: Rollouts, forks: Mapping[int, int]) -> Rollouts:
    """The batch with the mask false on what rows share with their retries."""
    shared = np.zeros(len(batch), np.int64)
    shared[list(forks)] = list(forks.values())
    mask = batch.mask & (batch.tokens.positions >= batch.tokens.spread(shared))
    return batch.with_columns({"token.mask": batch.token_ids.with_values(mask)})


def _retried(
    context: SamplingContext,
    batch: Rollouts,
    problems: Sequence[Problem],
    found: Mapping[int, Reflection],
    forks: Mapping[int, int],
    guidance: str,
) -> Rollouts:
    """The batch with a new row for each of {row: the token from which it is written again}."""
    names, groups = batch.strings("rollout_id"), batch.groups.ids
    read = [
        render_prompt(context.tokenizer, asking(problems[int(groups[row])], guidance, reflection=found[row].text))
        for row in forks
    ]
    prefixes = [batch.token_ids[row][:fork].tolist() for row, fork in forks.items()]
    seeds = [derived_seed(context.seed, context.round, names[row], RETRIED) for row in forks]
    requests = [
        Request([*prompt, *prefix], [seed], context.sampling.max_tokens - len(prefix))
        for prompt, prefix, seed in zip(read, prefixes, seeds, strict=True)
    ]
    made = [each for (each,) in context.engine.generate(requests, context.sampling)] if requests else []
    columns: dict[str, Any] = sampled_columns(context, prefixes, made, seeds, purpose="train", flags=(RETRIED,))
    columns |= {
        "rollout_id": names_of([f"{names[row]}/{RETRIED}@{context.salt}" for row in forks]),
        "parent_id": names_of([names[row] for row in forks]),
        "fork": forks_of(list(forks.values())),
        "behaviour_prompt_ids": pa.array(read, arrow_type("behaviour_prompt_ids")),
    }
    return with_rows(batch, np.array(list(forks), np.int64), columns)
