"""Demonstrations: worked solutions written by the task itself, to train a first policy on."""

from collections.abc import Iterator
from random import Random
from typing import Annotated

import numpy as np

from ....formats.rollouts import Rollouts
from ...core.ranges import AtLeast, Between
from ...models.engine import Completion
from ...models.policy import render_prompt
from .._solutions import demonstrator
from ..kind import SamplingContext, strategy
from ..rows import row_seeds, to_rollouts


@strategy(source="ours", needs=("task.demonstrate",), engine=False)
def demonstrate(
    context: SamplingContext,
    *,
    mistakes: Annotated[float, Between(0, 1)] = 0.0,
    rows_at_once: Annotated[int, AtLeast(1)] = 8192,
) -> Iterator[Rollouts]:
    """Worked solutions, n of every prompt, written by the task instead of a model and flagged `demonstration`.

    No policy drew their tokens, so there are no log-probabilities.

    Args:
        mistakes: probability of the wrong choice at each step that offers one, 0 to 1.
        rows_at_once: solutions to write before a part of the file is written; bounds the memory.
    """
    write = demonstrator(context.task, "--strategy demonstrate needs them")
    end = context.tokenizer.eos_token_id
    for problems in context.portions(rows_at_once, context.n):
        prompts = [render_prompt(context.tokenizer, problem.prompt) for problem in problems]
        texts = [
            write(problem, Random(seed), mistakes=mistakes)
            for problem in problems
            for seed in row_seeds(context, problem)
        ]
        encoded = context.tokenizer(texts, add_special_tokens=False)["input_ids"]
        rows = iter([Completion(np.array([*ids, end], np.int32), None, "stop") for ids in encoded])
        yield to_rollouts(
            context, problems, prompts, [[next(rows) for _ in range(context.n)] for _ in problems],
            flags=("demonstration",),
        )  # fmt: skip
