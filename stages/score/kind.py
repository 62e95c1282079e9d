"""What a scorer is: rollouts in, columns out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...formats.errors import UsageError
from ...formats.rollouts import Rollouts
from ...formats.schema import Field
from ..core.kinds import Entry, Kind


@dataclass(frozen=True, kw_only=True)
class Scorer(Entry):
    """`function(rollouts, **options)` returns {column: values}: `reward`, `rewards.format`, `step.reward` …"""

    shown = ("granularity",)

    granularity: str


SCORERS: Kind[Scorer] = Kind("scorers", "scorer", __package__ or "", "apportion score IN --with {name} -o OUT")


def scorer(
    *,
    needs: tuple[str, ...],
    makes: tuple[str | Field, ...] = (),
    granularity: str,
    source: str,
    system: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Callable[..., Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
        SCORERS.add(
            Scorer(
                name=function.__name__, function=function, needs=needs, makes=makes, granularity=granularity,
                source=source, system=system,
            )
        )  # fmt: skip
        return function

    return register


def reward_column(column: str, whose: str) -> str:
    """The column a scorer was told to write its reward to. UsageError unless it is `reward` or `rewards.NAME`."""
    if column != "reward" and not re.fullmatch(r"rewards\.\w+", column):
        raise UsageError(f"scorer {whose}: column must be reward or rewards.NAME, got {column!r}")
    return column


def scored(batch: Rollouts, scorer: str, options: Mapping[str, Any]) -> Rollouts:
    """The batch with the columns the scorer gives."""
    return batch.with_columns(SCORERS[scorer].function(batch, **options))
