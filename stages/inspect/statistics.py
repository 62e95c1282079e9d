"""Numbers that tell whether credit looks right."""

from dataclasses import dataclass

import numpy as np

from ...formats.invariants import is_credit
from ...formats.rollouts import Rollouts
from ...formats.segments import Array


@dataclass(frozen=True)
class SignalStatistics:
    """Of one token signal over the tokens the policy wrote. `correlation_length`: Pearson, |signal| mass of a rollout
    against its length; None where either does not vary."""

    column: str
    tokens: int
    mean: float
    std: float
    quantiles: tuple[float, ...]  # 0, 5, 25, 50, 75, 95, 100 %
    positive: float
    negative: float
    zero: float
    correlation_length: float | None


@dataclass(frozen=True)
class FileStatistics:
    """Of a whole file. dead_groups: share of groups whose rewards are all equal, None without rewards."""

    rollouts: int
    groups: int
    tokens: int
    group_sizes: dict[int, int]
    mean_reward: float | None
    dead_groups: float | None
    flags: dict[str, int]
    signals: list[SignalStatistics]


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def statistics_of(rollouts: Rollouts) -> FileStatistics:
    """Over all rollouts given; groups are whole."""
    sizes, counts = np.unique(rollouts.groups.sizes, return_counts=True)
    mean_reward = dead = None
    if "reward" in rollouts:
        reward = rollouts.numbers("reward").astype(np.float64)
        scored = np.isfinite(reward)
        mean_reward = float(reward[scored].mean()) if scored.any() else None
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
        [_signal(rollouts, path) for path in signals_of(rollouts)],
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


def _signal(rollouts: Rollouts, path: str) -> SignalStatistics:
    column = rollouts.ragged(path)
    mask = rollouts.mask if column.present is None else rollouts.mask[rollouts.tokens.spread(column.present)]
    values = column.values[mask].astype(np.float64)
    mass = column.segments.sum(np.abs(np.where(mask, column.values, 0)).astype(np.float64))
    if len(values) == 0:
        return SignalStatistics(path, 0, 0.0, 0.0, (0.0,) * len(QUANTILES), 0.0, 0.0, 0.0, None)
    return SignalStatistics(
        path, len(values), float(values.mean()), float(values.std()),
        tuple(np.quantile(values, QUANTILES).tolist()),
        float((values > 0).mean()), float((values < 0).mean()), float((values == 0).mean()),
        _correlation(mass, rollouts.tokens.sizes),
    )  # fmt: skip


def _correlation(a: Array, b: Array) -> float | None:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
