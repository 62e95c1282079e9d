"""Dynamic sampling: go on until enough prompts have rollouts that differ."""

import sys
from collections.abc import Iterator
from math import ceil
from typing import Annotated

import numpy as np

from ....formats.flags import ERROR
from ....formats.rollouts import Rollouts
from ....formats.segments import Array, Segments
from ...core.progress import progress
from ...core.ranges import AtLeast
from ...score.outcome.verify import verify
from ..kind import STRATEGIES, SamplingContext, strategy

MARGIN = 1.1  # problems tried over what the live share so far asks for


@strategy(source="arXiv:2503.14476, §3.2 (DAPO)", makes=("reward",))
def dynamic(
    context: SamplingContext, *, live: Annotated[int, AtLeast(1)], rows_at_once: Annotated[int, AtLeast(1)] = 2048
) -> Iterator[Rollouts]:
    """Independent rollouts of one prompt after the other until `live` groups have different rewards (DAPO).

    --prompts is how many there are at most. Rewards are the task's own, and are written as `reward`. Nothing is thrown
    away: a group of equal rewards stays, flagged `dead_group`, and so do live groups beyond the number asked for, which
    the last batch may bring. Where the prompts do not suffice, a line on standard error says so.

    Args:
        live: groups wanted in which not all rewards are equal.
        rows_at_once: rollouts generated before a part of the file is written, at most; fewer where fewer are missing.
    """
    at_once = max(1, rows_at_once // context.n)
    tried, found = _kept(context)
    problems = list(context.problems)
    with progress(live, "dynamic, live groups") as advance:
        advance(min(found, live))
        while problems and found < live:
            share = max(found, 1) / max(tried, 1)
            count = min(at_once, ceil(MARGIN * (live - found) / share)) if tried else min(at_once, live)
            some, problems = problems[:count], problems[count:]
            for batch in STRATEGIES["independent"].function(context.of(some), rows_at_once=rows_at_once):
                batch = batch.with_columns(verify(batch))
                dead = _dead(batch)
                yield batch.with_flag("dead_group", batch.groups.spread(dead))
                tried, found = tried + len(dead), found + int(np.sum(~dead))
                advance(int(np.sum(~dead)))
    if found < live:
        print(
            f"dynamic: {found:,} of {live:,} groups are live after all {tried:,} prompts; more with --prompts",
            file=sys.stderr,
        )


def _kept(context: SamplingContext) -> tuple[int, int]:
    """(groups, live groups) of a run that was stopped and is gone on with."""
    if context.kept is None:
        return 0, 0
    dead = np.concatenate([_dead(batch) for batch in context.kept.batches()])
    return len(dead), int(np.sum(~dead))


def _dead(batch: Rollouts) -> Array:
    """[G] whether there is nothing to compare in a group: all that did not fail earned the same."""
    rows = np.flatnonzero(~batch.flagged(ERROR))
    reward, groups = batch.numbers("reward")[rows], Segments.of_runs(batch.groups.ids[rows])
    dead = np.ones(len(batch.groups), bool)
    dead[batch.groups.ids[rows][groups.starts]] = groups.constant(reward)
    return dead
