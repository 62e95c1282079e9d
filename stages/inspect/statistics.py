"""Numbers that tell whether credit looks right."""

from dataclasses import dataclass

import numpy as np

from ...formats.invariants import is_credit
from ...formats.rollouts import Rollouts
from ...formats.segments import Array

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 40
POSITIONS = 20  # equal shares of a response
STEPS = 20  # the last one holds all later steps too


@dataclass(frozen=True)
class Histogram:
    """counts[k]: values in [edges[k], edges[k+1]), the last bin with its right edge. The outer edges are the smallest
    and the largest value; a single bin where these are equal."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SignalStatistics:
    """Of one token signal over the tokens the policy wrote, where it was assigned.

    quantiles, magnitudes: of the value and of |value|, at QUANTILES. positive, negative, zero: shares of the tokens.
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
    """Of a whole file. dead_groups: share of groups whose rewards are all equal, None without rewards. group_sizes:
    {rollouts in a group: groups of that size}."""

    rollouts: int
    groups: int
    tokens: int
    group_sizes: dict[int, int]
    mean_reward: float | None
    dead_groups: float | None
    flags: dict[str, int]
    signals: list[SignalStatistics]
    rewards: Histogram | None = None


def statistics_of(rollouts: Rollouts) -> FileStatistics:
    """Over all rollouts given; groups are whole."""
    sizes, counts = np.unique(rollouts.groups.sizes, return_counts=True)
    mean_reward = dead = rewards = None
    if "reward" in rollouts:
        reward = rollouts.numbers("reward").astype(np.float64)
        scored = np.isfinite(reward)
        mean_reward = float(reward[scored].mean()) if scored.any() else None
        rewards = histogram_of(reward[scored])
        dead = (
            float(rollouts.groups.constant(reward)[rollouts.groups.sizes > 1].mean())
            if (rollouts.groups.sizes > 1).any()
            else None
        )
    flags: dict[str, int] = {}
    if "flags" in rollouts:
        for row in rollouts.strings("flags"):
            for flag in row or ():
                flags[flag] = flags.get(flag, 0) + 1
    return FileStatistics(
        len(rollouts), len(rollouts.groups), rollouts.num_tokens,
        dict(zip(sizes.tolist(), counts.tolist(), strict=True)), mean_reward, dead, flags,
        [_signal(rollouts, path) for path in signals_of(rollouts)], rewards,
    )  # fmt: skip


def signals_of(rollouts: Rollouts) -> list[str]:
    """The number columns on the token ruler, credit first."""
    import pyarrow as pa

    numbers = [
        path
        for path in rollouts.paths
        if path.startswith("token.") and path not in ("token.id", "token.mask")
        and pa.types.is_floating(rollouts.arrow(path).type.value_type)
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
    """[shares], summing to 1: how much of the mass [T] lies in each equal share of the responses; zeros of no mass.

    A token of a response of n tokens covers 1/n of it, so its mass is divided where a border runs through it.
    """
    responses = rollouts.tokens
    before = np.concatenate(([0.0], np.cumsum(mass)))
    places = responses.sizes[:, None] * np.arange(shares + 1) / shares  # [R, shares + 1], in tokens
    whole = np.floor(places).astype(np.int64)
    at = responses.starts[:, None] + whole
    up_to = before[at] + (places - whole) * np.append(mass, 0.0)[at]
    return _shares(np.diff(up_to).sum(axis=0))


def mass_by_step(rollouts: Rollouts, mass: Array, steps: int = STEPS) -> Array | None:
    """[at most `steps`], summing to 1: how much of the mass [T] in steps lies in the first, second, …; the last counts
    all later ones too. None without steps."""
    if "step.start" not in rollouts or "step.end" not in rollouts:
        return None
    starts, ends = rollouts.ragged("step.start"), rollouts.ragged("step.end")
    if not len(starts.values):
        return None
    before = np.concatenate(([0.0], np.cumsum(mass)))
    first = starts.segments.spread(rollouts.tokens.starts)
    found = before[first + ends.values] - before[first + starts.values]
    return _shares(np.bincount(np.minimum(starts.segments.positions, steps - 1), found))


def _signal(rollouts: Rollouts, path: str) -> SignalStatistics:
    everywhere = on_tokens(rollouts, path)
    counts = rollouts.mask & ~np.isnan(everywhere)
    values, mass = everywhere[counts], np.abs(np.where(counts, everywhere, 0.0))
    if len(values) == 0:
        return SignalStatistics(path, 0, 0.0, 0.0, (0.0,) * len(QUANTILES), 0.0, 0.0, 0.0, None)
    above, below = int((values > 0).sum()), int((values < 0).sum())
    by_step = mass_by_step(rollouts, mass)
    return SignalStatistics(
        path, len(values), float(values.mean()), float(values.std()),
        tuple(np.quantile(values, QUANTILES).tolist()),
        above / len(values), below / len(values), float((values == 0).mean()),
        _correlation(rollouts.tokens.sum(mass), rollouts.tokens.sizes),
        magnitudes=tuple(np.quantile(np.abs(values), QUANTILES).tolist()),
        sign_balance=(above - below) / (above + below) if above + below else None,
        histogram=histogram_of(values),
        by_position=tuple(mass_by_position(rollouts, mass).tolist()),
        by_step=None if by_step is None else tuple(by_step.tolist()),
    )  # fmt: skip


def _shares(amounts: Array) -> Array:
    amounts = np.maximum(amounts, 0.0)  # differences of running sums may fall below 0 by rounding
    total = amounts.sum()
    return amounts / total if total > 0 else np.zeros_like(amounts)


def _correlation(a: Array, b: Array) -> float | None:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
