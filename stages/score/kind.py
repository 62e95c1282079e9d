"""What a scorer is: rollouts in, columns out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...formats.errors import UsageError
from ...formats.rollouts import Rollouts
from ..core.registry import Registry


@dataclass(frozen=True)
class Scorer:
    """`function(rollouts, **options)` returns {column: values}: `reward`, `rewards.format`, `step.reward` …"""

    name: str
    function: Callable[..., Mapping[str, Any]]
    needs: tuple[str, ...]
    granularity: str
    source: str

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]


SCORERS: Registry[Scorer] = Registry("scorer", __package__ or "", "scorers")


def scorer(*, needs: tuple[str, ...], granularity: str, source: str) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Callable[..., Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
        SCORERS.add(Scorer(function.__name__, function, needs, granularity, source))
        return function

    return register


def reward_column(column: str, whose: str) -> str:
    """The column a scorer was told to write its reward to. UsageError unless it is `reward` or `rewards.NAME`."""
    if column != "reward" and not re.fullmatch(r"rewards\.\w+", column):
        raise UsageError(f"option 'column' of scorer {whose!r}: {column!r}, needed is reward or rewards.NAME")
    return column


def scored(batch: Rollouts, scorer: str, options: Mapping[str, Any]) -> Rollouts:
    """The batch with the columns the scorer gives."""
    return batch.with_columns(SCORERS[scorer].function(batch, **options))
