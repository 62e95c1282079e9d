"""What a scorer is: rollouts in, columns out."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...formats.errors import PluginError, UsageError
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
    """The batch with the columns the scorer gives. DataError where it lacks what the scorer needs, PluginError where a plugin's
    gives no such columns."""
    chosen = SCORERS[scorer]
    check_needs(chosen, batch.paths, options)
    made = chosen.function(batch, **options)
    if scorer not in SCORERS.brought_by:
        return batch.with_columns(made)
    if not isinstance(made, Mapping):
        raise PluginError(f"scorer {scorer}: must give {{column: one value a rollout}}, gave {made!r:.60}")
    for path, values in made.items():
        if not hasattr(values, "__len__") or len(values) != len(batch):
            got = f"{len(values)} values" if hasattr(values, "__len__") else f"{values!r:.60}"
            raise PluginError(
                f"scorer {scorer}: gave {got} for column {path!r}; must give {len(batch)}, one for each rollout"
            )
    try:
        return batch.with_columns(made)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise PluginError(
            f"scorer {scorer}: its columns {', '.join(map(repr, made))} are not what they must be: {error}"
        ) from error
