"""Turn completions into rows of a rollout file."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.schema import FIELDS
from ..models.engine import Completion, Request
from ..models.policy import render_prompt
from ..tasks import Problem
from .context import SamplingContext

_FLAGS = {"length": ("truncated",), "error": ("error",)}


def row_seeds(context: SamplingContext, problem: Problem, count: int | None = None) -> list[int]:
    """One seed for each of the problem's samples; there are n unless `count` is given."""
    rows = range(context.n if count is None else count)
    return [context.seed_of(problem.problem_id, index) for index in rows]


def respond(context: SamplingContext, problems: Sequence[Problem], counts: Sequence[int] | None = None) -> Rollouts:
    """Independent responses to each problem: n, or as many as `counts` gives it. One group per problem."""
    prompts = [render_prompt(context.tokenizer, problem.prompt) for problem in problems]
    requests = [
        Request(prefix_ids=prompt, seeds=row_seeds(context, problem, count))
        for prompt, problem, count in zip(prompts, problems, counts or [context.n] * len(problems), strict=True)
    ]
    made = context.engine.generate(requests, context.sampling, context.meter)
    return to_rollouts(context, problems, prompts, made)


def to_rollouts(
    context: SamplingContext,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Completion]],
    *,
    flags: tuple[str, ...] = (),
) -> Rollouts:
    """One group per problem, with a row for each of its completions."""
    flat = [completion for group in completions for completion in group]
    sizes = [len(group) for group in completions]

    def each(values: Sequence[Any]) -> list[Any]:
        return [value for value, size in zip(values, sizes, strict=True) for _ in range(size)]

    group_ids = [f"{problem.problem_id}@{context.salt}" for problem in problems]
    seeds = [seed for problem, size in zip(problems, sizes, strict=True) for seed in row_seeds(context, problem, size)]
    rows = len(flat)
    columns: dict[str, Any] = {
        "rollout_id": [f"{group}/{index}" for group, size in zip(group_ids, sizes, strict=True) for index in range(size)],
        "group_id": each(group_ids),
        "task": [context.task.spec] * rows,
        "task_options": [json.dumps(context.task.options, sort_keys=True)] * rows,
        "problem_id": each([problem.problem_id for problem in problems]),
        "prompt": each([problem.prompt for problem in problems]),
        "reference": each([json.dumps(problem.reference, ensure_ascii=False) for problem in problems]),
        "prompt_ids": each([list(prompt) for prompt in prompts]),
    }  # fmt: skip
    if any(problem.row is not None for problem in problems):
        columns["task_row"] = each(
            [None if problem.row is None else json.dumps(problem.row, ensure_ascii=False) for problem in problems]
        )
    table = pa.table({name: pa.array(values, FIELDS[name].type) for name, values in columns.items()})
    return Rollouts(table).with_columns(
        sampled_columns(context, [()] * rows, flat, seeds, purpose=context.purpose, flags=flags)
    )


def sampled_columns(
    context: SamplingContext,
    prefixes: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    seeds: Sequence[int],
    *,
    purpose: str,
    flags: tuple[str, ...] = (),
) -> dict[str, pa.Array]:
    """{path: [R]} of responses that begin with tokens of another rollout: what was sampled now, and how.

    The mask is true on what was sampled now. It is false on the prefix, whose log-probabilities are 0. A response cut
    by the token limit is flagged truncated, a failed one error. How tokens were drawn is recorded if a policy drew all
    of them; `token.raw_logprob` is recorded if it differs from `token.logprob` and the engine knows it.
    """
    rows = len(completions)
    context.failures.count(completions)
    whole = [[*prefix, *each.ids.tolist()] for prefix, each in zip(prefixes, completions, strict=True)]
    ids = Ragged.from_lists(whole, np.int32)
    begins = np.array([len(prefix) for prefix in prefixes], np.int64)
    sampled = ids.segments.positions >= ids.segments.spread(begins)
    given: dict[str, Any] = {
        "text": context.tokenizer.batch_decode(whole, skip_special_tokens=True) if whole else [],
        "finish_reason": [each.finish_reason for each in completions],
        "purpose": [purpose] * rows,
        "flags": [[*flags, *_FLAGS.get(each.finish_reason, ())] for each in completions],
    }
    if context.opened is None or context.engine.row_seeds:
        given["seed"] = list(seeds)
    columns: dict[str, pa.Array] = {"token.id": ids.to_arrow(), "token.mask": ids.with_values(sampled).to_arrow()}

    def signal(values: Sequence[np.ndarray[Any, Any] | None]) -> pa.Array | None:
        known = [value for value in values if value is not None]
        if len(known) < rows:
            return None
        spread = np.zeros(len(ids.values), np.float32)
        spread[sampled] = np.concatenate(known) if known else 0.0
        return ids.with_values(spread).to_arrow()

    logprob = signal([each.logprobs for each in completions])
    if context.opened is not None:
        given |= {
            "policy": [context.policy] * rows,
            "engine": [f"{context.engine.name} {context.engine.version}"] * rows,
            "temperature": [context.sampling.temperature] * rows,
            "top_p": [context.sampling.top_p] * rows,
            "top_k": [context.sampling.top_k] * rows,
        }
        if logprob is not None:
            given["logprob_kind"] = ["sampling"] * rows
            columns["token.logprob"] = logprob
        same = context.sampling.is_raw and logprob is not None
        raw = None if same else signal([each.raw_logprobs for each in completions])
        if raw is not None:
            columns["token.raw_logprob"] = raw
        if context.engine.can_fail:
            columns["error"] = pa.array([each.error for each in completions], pa.string())
    return {path: pa.array(values, FIELDS[path].type) for path, values in given.items()} | columns
