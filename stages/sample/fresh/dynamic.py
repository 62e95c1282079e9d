"""Dynamic sampling: sample prompts until enough of them have rollouts that differ."""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Annotated, Any

import numpy as np

from ....formats.flags import ERROR
from ....formats.rollouts import Rollouts
from ....formats.segments import Array, Segments
from ...core.progress import progress
from ...core.ranges import AtLeast
from ..kind import SamplingContext, strategy
from ..rows import respond

MARGIN = 1.1  # safety factor on the number of problems that the live share so far suggests


def _remark(counts: Mapping[str, int], *, live: int, **_: Any) -> str | None:
    found, tried = counts.get("live", 0), counts.get("tried", 0)
    if found >= live:
        return None
    return f"{found:,} of {live:,} groups are live after all {tried:,} prompts; raise --prompts for more"


@strategy(source="arXiv:2503.14476, §3.2 (DAPO)", evidence="code", makes=("reward",), verifies=True, remark=_remark)
def dynamic(
    context: SamplingContext, *, live: Annotated[int, AtLeast(1)], rows_at_once: Annotated[int, AtLeast(1)] = 2048
) -> Iterator[Rollouts]:
    """Independent rollouts, prompt after prompt, until `live` groups have different rewards (DAPO).

    --prompts limits the number of prompts. The task's verifier, or --verifier, gives the rewards, written as `reward`. Nothing is
    thrown away: a group of equal rewards stays, flagged `dead_group`, and so do live groups in excess, which the last
    batch may bring. If the prompts do not suffice, a line on standard error says so.

    Args:
        live: how many groups must have rewards that are not all equal.
        rows_at_once: most rollouts to generate before a part of the file is written; fewer if fewer are missing.
    """
    at_once = max(1, rows_at_once // context.n)
    tried, found = (context.tally.get(name, 0) for name in ("tried", "live"))
    problems = list(context.problems)
    with progress(live, "dynamic, live groups") as advance:
        advance(min(found, live))
        while problems and found < live:
            share = max(found, 1) / max(tried, 1)
            count = min(at_once, ceil(MARGIN * (live - found) / share)) if tried else min(at_once, live)
            some, problems = problems[:count], problems[count:]
            batch = context.with_rewards(respond(context, some))
            dead = _dead(batch)
            fresh = int(np.sum(~dead))
            context.count(tried=len(dead), live=fresh)
            yield batch.with_flag("dead_group", batch.groups.spread(dead))
            tried, found = tried + len(dead), found + fresh
            advance(fresh)


def _dead(batch: Rollouts) -> Array:
    """[G] whether a group has nothing to compare: all rollouts that did not fail earned the same."""
    rows = np.flatnonzero(~batch.flagged(ERROR))
    reward, groups = batch.numbers("reward")[rows], Segments.of_runs(batch.groups.ids[rows])
    dead = np.ones(len(batch.groups), bool)
    dead[batch.groups.ids[rows][groups.starts]] = groups.constant(reward)
    return dead
