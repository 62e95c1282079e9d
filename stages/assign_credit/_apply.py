"""A credit method applied to a batch: its values as a column, and the flags that say where there was nothing to learn."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...formats.errors import DataError
from ...formats.flags import DEAD_GROUP, SINGLETON
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..structure.batch import Credit, credit_of_batch
from ..structure.episodes import Episodes, join_parts
from .kind import METHODS, Method

MADE = (SINGLETON, DEAD_GROUP)


@dataclass(frozen=True)
class Assignment:
    """A method with its options, all of them, and the column of the token ruler that its credit stands in."""

    method: str
    column: str
    options: Mapping[str, Any]


@dataclass
class Assigning:
    """`assign_each` for every batch of a file; what a method remarks goes to standard error, once."""

    assignments: Sequence[Assignment]
    clip: float | None = None
    told: set[str] = field(default_factory=set[str], init=False)

    def __call__(self, batch: Rollouts) -> Rollouts:
        return assign_each(batch, self.assignments, self.clip, seen=self._remark)

    def _remark(self, assignment: Assignment, credit: Credit) -> None:
        remark = METHODS[assignment.method].remark
        if remark is None or assignment.method in self.told:
            return
        said = remark(credit, **assignment.options)
        if said is not None:
            print(f"{assignment.method}: {said}", file=sys.stderr)
            self.told.add(assignment.method)


def assign_to(
    batch: Rollouts, method: str, column: str, options: Mapping[str, Any], clip: float | None = None
) -> Rollouts:
    """`assign_each` of one method."""
    return assign_each(batch, [Assignment(method, column, options)], clip)


def assign_each(
    batch: Rollouts,
    assignments: Sequence[Assignment],
    clip: float | None = None,
    *,
    seen: Callable[[Assignment, Credit], None] = lambda assignment, credit: None,
) -> Rollouts:
    """The batch with the `token.{column}` of each, 0 where the mask is false, and the flags dead_group and singleton.

    All methods see one `Credit`: the trees and groups that they share are built once. clip: credit is cut off at ± this.
    seen: called with what a method saw, an episode a row, once its credit is sound.

    Probes, evals and rows flagged `error` take no part in any group's statistics and get no credit (null); a method that
    wants probes finds them in `credit.probes`. DataError when a method gives a value that is not finite.
    """
    batch = batch.with_missing("flags")
    credit, trained = credit_of_batch(batch)
    if trained.all():
        return _assign_each(batch, credit, assignments, clip, seen)
    if not trained.any():
        empty = _only(batch.token_ids.with_values(np.zeros(batch.num_tokens, np.float32)), trained)
        return batch.with_columns({f"token.{each.column}": empty for each in assignments})
    rows = np.flatnonzero(trained)
    result = _assign_each(credit.rollouts, credit, assignments, clip, seen)
    whole = batch
    for each in assignments:
        values = np.zeros(batch.num_tokens, np.float32)
        values[batch.tokens.spread(trained)] = result.ragged(f"token.{each.column}").values
        whole = whole.with_columns({f"token.{each.column}": _only(batch.token_ids.with_values(values), trained)})
    for flag in MADE:
        flagged = np.zeros(len(batch), bool)
        flagged[rows] = result.flagged(flag)
        whole = whole.with_flag(flag, flagged)
    return whole


def _only(values: Ragged, rows: Array) -> Ragged:
    """The lists of these rows, the others missing."""
    return Ragged(
        values.values[values.segments.spread(rows)], Segments.of_sizes(values.segments.sizes * rows).offsets, rows
    )


def on_tokens(method: Method, batch: Rollouts, values: Array) -> Array:
    """[T] float32: what the method gave, on every token; 0 where the mask is false."""
    values = values.astype(np.float32)
    if len(values) == len(batch) and method.granularity == "rollout":
        values = batch.tokens.spread(values)
    mask = batch.trainable
    return values if mask.all() else np.where(mask, values, np.float32(0.0))


@dataclass(eq=False)
class Joined:
    """What methods see of rollouts: those that are parts of one episode taken together, once for all methods."""

    rows: Credit
    episodes: Episodes | None = field(init=False)
    credit: Credit = field(init=False)

    def __post_init__(self) -> None:
        self.episodes = join_parts(self.rows.rollouts)
        whole = self.episodes
        self.credit = self.rows if whole is None else Credit(whole.rollouts, self.rows.probe_rollouts)


def assign_whole(method: Method, credit: Credit, options: Mapping[str, Any]) -> "Assigned":
    """The method's credit of rollouts, those that are parts of one episode taken together."""
    return assign_joined(method, Joined(credit), options)


def assign_joined(method: Method, joined: Joined, options: Mapping[str, Any]) -> "Assigned":
    """The same, of what is joined already."""
    credit, episodes = joined.credit, joined.episodes
    if episodes is not None and method.compares_rows:
        raise DataError(
            f"credit method {method.name} compares rollouts token by token, or with probes, and an episode in several parts is no "
            "single line of tokens; choose a method without trees and probes"
        )
    values = on_tokens(method, credit.rollouts, method.assign(credit, **options))
    return Assigned(values if episodes is None else episodes.split(values, joined.rows.tokens), credit, episodes)


@dataclass(frozen=True, eq=False)
class Assigned:
    """Credit of R rows. values: [T] float32 on their tokens, in the rows' order. credit: what the method saw, a row an episode.
    episodes: how these are made of the rows; None where every row is one."""

    values: Array
    credit: Credit
    episodes: Episodes | None

    @property
    def singletons(self) -> Array:
        """[R] bool, the row's episode is alone in its group."""
        return self._on_rows(self.credit.groups.spread(self.credit.groups.sizes == 1))

    @property
    def dead_groups(self) -> Array:
        """[G] bool, the rewards of the group's episodes, two or more, are all equal."""
        groups = self.credit.groups
        return groups.constant(self.credit.reward) & (groups.sizes > 1)

    @property
    def dead(self) -> Array:
        """[R] bool, the row is in such a group."""
        return self._on_rows(self.credit.groups.spread(self.dead_groups))

    def _on_rows(self, per_episode: Array) -> Array:
        return per_episode if self.episodes is None else self.episodes.spread(per_episode)


def _assign_each(
    batch: Rollouts,
    credit: Credit,
    assignments: Sequence[Assignment],
    clip: float | None,
    seen: Callable[[Assignment, Credit], None],
) -> Rollouts:
    joined, result = Joined(credit), batch
    for each in assignments:
        chosen = METHODS[each.method]
        assigned = assign_joined(chosen, joined, each.options)
        values = assigned.values
        if not np.isfinite(values).all():
            row = int(np.searchsorted(batch.tokens.offsets, np.flatnonzero(~np.isfinite(values))[0], "right") - 1)
            raise DataError(f"row {row}: {each.method} gave credit that is not finite; check its reward and options")
        seen(each, assigned.credit)
        if clip is not None:
            bound = np.float32(min(clip, float(np.finfo(np.float32).max)))
            values = np.clip(values, -bound, bound)
        result = result.with_columns({f"token.{each.column}": batch.token_ids.with_values(values)})
        result = result.with_flag(SINGLETON, assigned.singletons)
        if "reward" in chosen.needs:
            result = result.with_flag(DEAD_GROUP, assigned.dead)
    return result
