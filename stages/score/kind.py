"""What a scorer is: rollouts in, columns out."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...formats.errors import UsageError
from ...formats.rollouts import Rollouts
from ...formats.schema import Field
from ..core.kinds import Entry, Evidence, Kind
from ..core.remedies import check_needs


@dataclass(frozen=True, kw_only=True)
class Scorer(Entry):
    """`function(rollouts, **options)` returns {column: values}: `reward`, `rewards.format`, `step.reward` …"""

    shown = ("granularity",)

    granularity: str


SCORERS: Kind[Scorer] = Kind("scorers", "scorer", __package__ or "", "apportion score IN --with {name} -o OUT")


def scorer(
    *,
    needs: tuple[str, ...],
    needs_with: Callable[..., Iterable[str]] | None = None,
    makes: tuple[str | Field, ...] = (),
    granularity: str,
    source: str,
    evidence: Evidence | None = None,
    system: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options.

    needs_with: called with the options, gives the columns that these need beside `needs`.
    """
    return SCORERS.adder(
        Scorer, needs=needs, needs_with=needs_with, makes=makes, granularity=granularity, source=source, evidence=evidence,
        system=system,
    )  # fmt: skip


def reward_column(column: str, whose: str) -> str:
    """The column a scorer was told to write its reward to. UsageError unless it is `reward` or `rewards.NAME`."""
    if column != "reward" and not re.fullmatch(r"rewards\.\w+", column):
        raise UsageError(f"scorer {whose}: column must be reward or rewards.NAME, got {column!r}")
    return column


def score_batch(batch: Rollouts, scorer: str, options: Mapping[str, Any]) -> Rollouts:
    """The batch with the columns the scorer gives. DataError where it lacks what the scorer needs."""
    chosen = SCORERS[scorer]
    check_needs(chosen, batch.paths, options)
    return batch.with_columns(chosen.function(batch, **options))
