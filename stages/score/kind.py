"""What a scorer is: rollouts in, columns out."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...formats.errors import PluginError, UsageError
from ...formats.invariants import lacking
from ...formats.rollouts import Rollouts
from ...formats.schema import Field
from ..core.kinds import Entry, Evidence, Kind
from ..core.remedies import check_needs
from ..core.several import Settled, short_name


@dataclass(frozen=True, kw_only=True)
class Scorer(Entry):
    """`function(rollouts, **options)` returns {column: values}: `reward`, `rewards.format`, `step.reward` …"""

    shown = ("granularity",)

    granularity: str

    def writes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns that it says it makes, a reward where the option `column` puts it."""
        column = options.get("column")
        kept = [path for path in self.columns if not (column and (path == "reward" or path.startswith("rewards.")))]
        return tuple(dict.fromkeys([*kept, *([str(column)] if column else [])]))


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


def needs_in_order(settled: Sequence[Settled[Scorer]]) -> dict[str, dict[str, str]]:
    """{scorer: {column: way around}} of what a file has to have: what a scorer reads and none before it makes.

    UsageError for two scorers that write one column.
    """
    found: dict[str, dict[str, str]] = {}
    written: dict[str, str] = {}
    for each in settled:
        ways = each.entry.ways_around(each.options)
        found[each.name] = {path: ways[path] for path in lacking(written, ways)}
        for path in each.entry.writes(each.options):
            if path in written:
                advice = f"; --set {short_name(each.name)}.column=rewards.NAME keeps them apart" * (
                    "column" in each.options
                )
                raise UsageError(f"--with: {written[path]} and {each.name} both write column {path!r}{advice}")
            written[path] = each.name
    return found


def score_in_order(batch: Rollouts, scorers: Sequence[tuple[str, Mapping[str, Any]]]) -> Rollouts:
    """`score_batch` of one scorer after the other."""
    for name, options in scorers:
        batch = score_batch(batch, name, options)
    return batch
