"""Numbers that tell whether credit looks right, gathered while the file streams by."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...formats.flags import ERROR, TRUNCATED
from ...formats.invariants import is_credit
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 40
POSITIONS = 20  # equal shares of a response
STEPS = 20  # the last one holds all later steps too
SAMPLE = 1 << 20  # values of a signal that are kept, for quantiles and histograms


@dataclass(frozen=True)
class Histogram:
    """counts[k]: values in [edges[k], edges[k+1]), the last bin with its right edge. The outer edges are the smallest
    and the largest value; a single bin where these are equal. Of more than SAMPLE values, counts are estimates."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SignalStatistics:
    """Of one token signal over the tokens the policy wrote, where it was assigned.

    quantiles, magnitudes: of the value and of |value|, at QUANTILES; of more than SAMPLE values, those between the extremes
    are of a random sample of that size (of which a share is off by 0.001 at most, 19 times of 20). positive, negative, zero: shares of the tokens.
    sign_balance: (above 0 - below 0) / (above 0 + below 0), None where all are 0. correlation_length: Pearson, |signal|
    mass of a rollout against its length; None where either does not vary. by_position: share of the mass in each
    twentieth of the response. by_step: share of it in step 0, 1, … (of the mass that lies in steps), None without steps.
    """

    column: str
    tokens: int
    mean: float
    std: float
    quantiles: tuple[float, ...]  # 0, 5, 25, 50, 75, 95, 100 %
    positive: float
    negative: float
    zero: float
    correlation_length: float | None
    magnitudes: tuple[float, ...] = (0.0,) * len(QUANTILES)
    sign_balance: float | None = None
    histogram: Histogram | None = None
    by_position: tuple[float, ...] = (0.0,) * POSITIONS
    by_step: tuple[float, ...] | None = None


@dataclass(frozen=True)
class FileStatistics:
    """Of a whole file. episodes: rows that are parts of one count once, in all that follows but tokens, flags and signals.
    dead_groups: share of groups whose rewards are all equal, None without rewards. group_sizes: {episodes in a group: groups of
    that size}."""

    rollouts: int
    episodes: int
    groups: int
    tokens: int
    group_sizes: dict[int, int]
    mean_reward: float | None
    dead_groups: float | None
    flags: dict[str, int]
    signals: list[SignalStatistics]
    rewards: Histogram | None = None

    def figures(self) -> dict[str, float | None]:
        """What gates ask for and a run's log shows. Shares: of groups with siblings, those whose rewards are all equal; of
        groups, those of one; of rollouts, those cut off and those that failed."""
        sizes = sum(self.group_sizes.values())
        return {
            "groups": self.groups, "tokens": self.tokens, "mean_reward": self.mean_reward, "dead_group_share": self.dead_groups,
            "singleton_share": self.group_sizes.get(1, 0) / sizes if sizes else None,
            "truncated_share": self.flags.get(TRUNCATED, 0) / self.rollouts if self.rollouts else None,
            "error_share": self.flags.get(ERROR, 0) / self.rollouts if self.rollouts else None,
        }  # fmt: skip


class FileTally:
    """Statistics of a file from its batches of whole groups. Memory does not grow with the file.

    signals: with those of the token signals, which take most of the time.
    """

    def __init__(self, *, signals: bool = True) -> None:
        self._with_signals = signals
        self._rollouts = self._episodes = self._groups = self._tokens = 0
        self._sizes: Counter[int] = Counter()
        self._flags: Counter[str] = Counter()
        self._rewards: _Sample | None = None
        self._mean_reward = _Moments(1)
        self._compared = self._dead = 0  # groups with siblings; those whose rewards are all equal
        self._signals: dict[str, _SignalTally] = {}

    def add(self, batch: Rollouts) -> None:
        self._rollouts += len(batch)
        self._groups += len(batch.groups)
        self._tokens += batch.num_tokens
        episodes, first = batch.episodes, np.unique(batch.episodes, return_index=True)[1]
        groups = Segments.of_runs(batch.groups.ids[first])  # episodes are numbered group by group
        self._episodes += len(first)
        self._sizes.update(groups.sizes.tolist())
        if "reward" in batch:
            given = batch.numbers("reward").astype(np.float64)
            reward, known = np.full(len(first), np.nan), np.isfinite(given)
            reward[episodes[known]] = given[known]  # an episode's parts have its reward, or none
            scored = reward[np.isfinite(reward)]
            self._rewards = self._rewards or _Sample()
            self._rewards.add(scored)
            self._mean_reward.add(scored[:, None])
            compared = groups.sizes > 1
            self._compared += int(compared.sum())
            self._dead += int(groups.constant(reward)[compared].sum())
        if "flags" in batch:
            self._flags.update(flag for row in batch.strings("flags") for flag in row or ())
        for path in signals_of(batch.table.schema) if self._with_signals else ():
            self._signals.setdefault(path, _SignalTally(path)).add(batch)

    def result(self) -> FileStatistics:
        return FileStatistics(
            self._rollouts, self._episodes, self._groups, self._tokens, dict(sorted(self._sizes.items())),
            float(self._mean_reward.mean[0]) if self._mean_reward.count else None,
            self._dead / self._compared if self._rewards is not None and self._compared else None,
            dict(self._flags), [tally.result() for tally in self._signals.values()],
            self._rewards.histogram() if self._rewards is not None else None,
        )  # fmt: skip


def statistics_of(rollouts: Rollouts) -> FileStatistics:
    """Over all rollouts given; groups are whole."""
    tally = FileTally()
    tally.add(rollouts)
    return tally.result()


def signals_of(schema: pa.Schema) -> list[str]:
    """The number columns on the token ruler, credit first."""
    numbers = [
        f"token.{leaf.name}" for leaf in schema.field("token").type
        if leaf.name not in ("id", "mask") and pa.types.is_floating(getattr(leaf.type, "value_type", leaf.type))
    ]  # fmt: skip
    return sorted(numbers, key=lambda path: not is_credit(path))


def on_tokens(rollouts: Rollouts, path: str) -> Array:
    """[T] float64, a token signal on every response token; NaN in rollouts to which it was not assigned."""
    column = rollouts.ragged(path)
    if column.present is None:
        return column.values.astype(np.float64)
    values = np.full(rollouts.num_tokens, np.nan)
    values[rollouts.tokens.spread(column.present)] = column.values
    return values


def histogram_of(values: Array, bins: int = BINS) -> Histogram | None:
    """Of finite values [N]; None of none.

    >>> histogram_of(np.array([0.0, 1.0, 1.5, 4.0]), 4)
    Histogram(edges=(0.0, 1.0, 2.0, 3.0, 4.0), counts=(1, 2, 0, 1))
    """
    if len(values) == 0:
        return None
    least, most = float(values.min()), float(values.max())
    if least == most:
        return Histogram((least, most), (len(values),))
    edges = np.linspace(least, most, bins + 1)
    counts, _ = np.histogram(values, edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def mass_by_position(rollouts: Rollouts, mass: Array, shares: int = POSITIONS) -> Array:
    """[shares] how much of the mass [T] lies in each equal share of the responses.

    A token of a response of n tokens covers 1/n of it, so its mass is divided where a border runs through it.
    """
    responses = rollouts.tokens
    before = np.concatenate(([0.0], np.cumsum(mass)))
    places = responses.sizes[:, None] * np.arange(shares + 1) / shares  # [R, shares + 1], in tokens
    whole = np.floor(places).astype(np.int64)
    at = responses.starts[:, None] + whole
    up_to = before[at] + (places - whole) * np.append(mass, 0.0)[at]
    return np.diff(up_to).sum(axis=0)


def mass_by_step(rollouts: Rollouts, mass: Array, steps: int = STEPS) -> Array | None:
    """[at most `steps`] how much of the mass [T] lies in the first, second, … step; the last counts all later ones too.
    None without steps."""
    if "step.start" not in rollouts or "step.end" not in rollouts:
        return None
    starts, ends = rollouts.ragged("step.start"), rollouts.ragged("step.end")
    if not len(starts.values):
        return None
    before = np.concatenate(([0.0], np.cumsum(mass)))
    first = starts.segments.spread(rollouts.tokens.starts)
    found = before[first + ends.values] - before[first + starts.values]
    return np.bincount(np.minimum(starts.segments.positions, steps - 1), found)


class _SignalTally:
    """One signal's part of a FileTally."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sample = _Sample()
        self._values = _Moments(1)
        self._masses = _Moments(2)  # of rollouts: |signal| mass and length
        self._positive = self._negative = self._zero = 0
        self._by_position = np.zeros(POSITIONS)
        self._by_step, self._steps = np.zeros(STEPS), 0

    def add(self, batch: Rollouts) -> None:
        everywhere = on_tokens(batch, self._path)
        counts = batch.mask & ~np.isnan(everywhere)
        values, mass = everywhere[counts], np.abs(np.where(counts, everywhere, 0.0))
        self._sample.add(values)
        self._values.add(values[:, None])
        self._masses.add(np.stack([batch.tokens.sum(mass), batch.tokens.sizes.astype(np.float64)], axis=1))
        self._positive += int((values > 0).sum())
        self._negative += int((values < 0).sum())
        self._zero += int((values == 0).sum())
        self._by_position += mass_by_position(batch, mass)
        by_step = mass_by_step(batch, mass)
        if by_step is not None:
            self._by_step[: len(by_step)] += by_step
            self._steps = max(self._steps, len(by_step))

    def result(self) -> SignalStatistics:
        count, above, below = self._values.count, self._positive, self._negative
        if not count:
            return SignalStatistics(self._path, 0, 0.0, 0.0, (0.0,) * len(QUANTILES), 0.0, 0.0, 0.0, None)
        kept = self._sample.values()
        return SignalStatistics(
            self._path, count, float(self._values.mean[0]), float(self._values.std[0]),
            tuple(np.quantile(kept, QUANTILES).tolist()),
            above / count, below / count, self._zero / count, self._masses.correlation(),
            magnitudes=tuple(np.quantile(np.abs(kept), QUANTILES).tolist()),
            sign_balance=(above - below) / (above + below) if above + below else None,
            histogram=self._sample.histogram(),
            by_position=tuple(_shares(self._by_position).tolist()),
            by_step=tuple(_shares(self._by_step[: self._steps]).tolist()) if self._steps else None,
        )  # fmt: skip


class _Sample:
    """Up to SAMPLE of the values added, each with the same chance: those with the least random keys. All of them as long as
    they are no more."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._added = 0
        self._least, self._most = np.inf, -np.inf
        self._bound = np.inf  # no larger key can be among the least
        self._parts: list[tuple[Array, Array]] = []  # (keys, values)

    def add(self, values: Array) -> None:
        if not len(values):
            return
        self._added += len(values)
        self._least, self._most = min(self._least, float(values.min())), max(self._most, float(values.max()))
        keys = self._random.random(len(values), np.float32)
        chosen = keys < self._bound
        self._parts.append((keys[chosen], values[chosen]))
        if sum(len(keys) for keys, _ in self._parts) > 2 * SAMPLE:
            self._thin()

    def _thin(self) -> None:
        keys, values = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        if len(keys) > SAMPLE:
            chosen = np.argpartition(keys, SAMPLE)[:SAMPLE]
            keys, values = keys[chosen], values[chosen]
            self._bound = float(keys.max())
        self._parts = [(keys, values)]

    def values(self) -> Array:
        """Ascending; the first and the last are the extremes of all that was added."""
        if not self._parts:
            return np.empty(0)
        self._thin()
        kept = np.sort(self._parts[0][1])
        kept[0], kept[-1] = self._least, self._most
        return kept

    def histogram(self) -> Histogram | None:
        """Of all that was added."""
        kept = self.values()
        found = histogram_of(kept)
        if found is None or len(kept) == self._added:
            return found
        return Histogram(found.edges, tuple(round(count * self._added / len(kept)) for count in found.counts))


class _Moments:
    """Means and comoments of K numbers, from batches [N, K]; T. Chan's merging, stable where sums of squares are not."""

    def __init__(self, numbers: int) -> None:
        self.count = 0
        self.mean = np.zeros(numbers)  # [K]
        self._comoment = np.zeros((numbers, numbers))  # of the deviations from the mean
        self._least, self._most = np.full(numbers, np.inf), np.full(numbers, -np.inf)

    def add(self, rows: Array) -> None:
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        deviations, shift, total = rows - mean, mean - self.mean, self.count + len(rows)
        self._comoment += deviations.T @ deviations + np.outer(shift, shift) * (self.count * len(rows) / total)
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total
        self._least, self._most = np.minimum(self._least, rows.min(axis=0)), np.maximum(self._most, rows.max(axis=0))

    @property
    def std(self) -> Array:
        """[K] over all, without Bessel's correction."""
        return np.sqrt(np.diagonal(self._comoment) / self.count)

    def correlation(self) -> float | None:
        """Pearson's, of the first two; None where either does not vary."""
        if self.count < 2 or (self._least == self._most).any():
            return None
        spread = np.sqrt(np.diagonal(self._comoment))
        return float(np.clip(self._comoment[0, 1] / (spread[0] * spread[1]), -1, 1))


def _shares(amounts: Array) -> Array:
    amounts = np.maximum(amounts, 0.0)  # differences of running sums may fall below 0 by rounding
    total = amounts.sum()
    return amounts / total if total > 0 else np.zeros_like(amounts)
