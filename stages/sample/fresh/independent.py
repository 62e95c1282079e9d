"""Independent sampling: every rollout starts at the prompt."""

from collections.abc import Iterator
from typing import Annotated

from ....formats.rollouts import Rollouts
from ...core.progress import progress
from ...core.ranges import AtLeast
from ...models.engine import Request
from ...models.policy import render_prompt
from ...tasks.played import is_played
from .._rows import row_seeds, to_rollouts
from ..kind import SamplingContext, strategy
from ..play._interact import played


@strategy(source="ours", turns=True)
def independent(context: SamplingContext, *, rows_at_once: Annotated[int, AtLeast(1)] = 2048) -> Iterator[Rollouts]:
    """n independent rollouts of every prompt; of an environment task, each is played to its end.

    Args:
        rows_at_once: rollouts generated before a part of the file is written; bounds the memory.
    """
    if is_played(context.task):
        yield from played(context, context.task, rows_at_once=rows_at_once)
        return
    at_once = max(1, rows_at_once // context.n)
    with progress(len(context.problems) * context.n, "sample") as advance:
        for first in range(0, len(context.problems), at_once):
            problems = context.problems[first : first + at_once]
            prompts = [render_prompt(context.tokenizer, problem.prompt) for problem in problems]
            requests = [
                Request(prefix_ids=prompt, seeds=row_seeds(context, problem))
                for prompt, problem in zip(prompts, problems, strict=True)
            ]
            yield to_rollouts(context, problems, prompts, context.engine.generate(requests, context.sampling, advance))
