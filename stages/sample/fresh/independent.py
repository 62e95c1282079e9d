"""Independent sampling: every rollout starts at the prompt."""

from collections.abc import Iterator
from typing import Annotated

from ....formats.rollouts import Rollouts
from ...core.ranges import AtLeast
from ...tasks.played import is_played
from ..kind import SamplingContext, strategy
from ..play._interact import play_problems
from ..rows import respond


@strategy(source="ours", turns=True)
def independent(context: SamplingContext, *, rows_at_once: Annotated[int, AtLeast(1)] = 2048) -> Iterator[Rollouts]:
    """Independent rollouts, n of every prompt; those of an environment task are played to their end.

    Args:
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.
    """
    if is_played(context.task):
        yield from play_problems(context, context.task, rows_at_once=rows_at_once)
        return
    for problems in context.portions(rows_at_once, context.n):
        yield respond(context, problems)
