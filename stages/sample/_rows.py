"""Completions as rows of a rollout file."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.schema import FIELDS
from ..models.engine import Completion
from ..tasks import Problem
from ._strategy import SamplingContext


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from anything that names the sample: the same parts, the same seed, on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def row_seeds(context: SamplingContext, problem: Problem) -> list[int]:
    """One seed for each of the problem's n samples."""
    return [derived_seed(context.seed, context.round, problem.problem_id, index) for index in range(context.n)]


def to_rollouts(
    context: SamplingContext,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Completion]],
    *,
    flags: tuple[str, ...] = (),
) -> Rollouts:
    """One group per problem. A response cut by the token limit is flagged truncated.

    What says how tokens were drawn is recorded if a policy drew them, all of them.
    """
    salt = hashlib.blake2b(f"{context.policy}/{context.seed}/{context.round}".encode(), digest_size=4).hexdigest()
    flat = [completion for group in completions for completion in group]
    sizes = [len(group) for group in completions]

    def each(values: Sequence[Any]) -> list[Any]:
        return [value for value, size in zip(values, sizes, strict=True) for _ in range(size)]

    group_ids = [f"{problem.problem_id}@{salt}" for problem in problems]
    texts = context.tokenizer.batch_decode([row.ids.tolist() for row in flat], skip_special_tokens=True)
    seeds = [seed for problem, size in zip(problems, sizes, strict=True) for seed in row_seeds(context, problem)[:size]]
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
        "text": texts,
        "finish_reason": [row.finish_reason for row in flat],
        "purpose": [context.purpose] * rows,
        "seed": seeds,
        "flags": [[*flags, *(("truncated",) if row.finish_reason == "length" else ())] for row in flat],
    }  # fmt: skip
    ids = Ragged.from_lists([row.ids for row in flat], np.int32)
    tokens: dict[str, Any] = {"token.id": ids, "token.mask": ids.with_values(np.ones(len(ids.values), bool))}
    logprobs = [row.logprobs for row in flat if row.logprobs is not None]
    if len(logprobs) == rows:
        columns |= {
            "policy": [context.policy] * rows,
            "temperature": [context.sampling.temperature] * rows,
            "top_p": [context.sampling.top_p] * rows,
            "top_k": [context.sampling.top_k] * rows,
            "logprob_kind": ["sampling"] * rows,
        }
        tokens["token.logprob"] = ids.with_values(np.concatenate(logprobs).astype(np.float32))
    table = pa.table({name: pa.array(values, FIELDS[name].type) for name, values in columns.items()})
    return Rollouts(table).with_columns(tokens)
