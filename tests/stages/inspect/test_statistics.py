"""Statistics of a signal, against numbers worked out by hand."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.inspect import statistics
from apportion.stages.inspect.statistics import (
    BINS,
    POSITIONS,
    QUANTILES,
    FileTally,
    Histogram,
    SignalStatistics,
    histogram_of,
    mass_by_position,
    mass_by_step,
    on_tokens,
    statistics_of,
)


def credited(credit: Sequence[Sequence[float] | None], **extra: Sequence) -> Rollouts:
    """Rollouts of one group with this credit, rewards 0, 1, 2 …"""
    tokens = [[7] * (1 if row is None else len(row)) for row in credit]
    batch = rollouts_of([float(row) for row in range(len(credit))], tokens=tokens, **extra)
    return batch.with_columns({"token.advantage": pa.array(credit, pa.list_(pa.float32()))})


def only(rollouts: Rollouts) -> SignalStatistics:
    (signal,) = statistics_of(rollouts).signals
    return signal


def test_signs_and_zeros_are_shares_of_the_tokens() -> None:
    signal = only(credited([[1, 0, -2, 0], [3, 0, 0, 0]]))
    assert (signal.tokens, signal.positive, signal.negative, signal.zero) == (8, 2 / 8, 1 / 8, 5 / 8)
    assert signal.sign_balance == (2 - 1) / (2 + 1)


def test_mean_and_std() -> None:
    signal = only(credited([[1, -1], [3, -3]]))
    assert (signal.mean, signal.std) == (0, pytest.approx(((1 + 1 + 9 + 9) / 4) ** 0.5))


def test_quantiles_of_the_value_and_of_its_size() -> None:
    signal = only(credited([[-4, -3, -2, -1, 0]]))
    # Linear between the sorted values: 5 % is at place 0.2, 95 % at 3.8.
    assert signal.quantiles == pytest.approx((-4, -3.8, -3, -2, -1, -0.2, 0))
    assert signal.magnitudes == pytest.approx((0, 0.2, 1, 2, 3, 3.8, 4))


def test_tokens_of_an_environment_do_not_count() -> None:
    signal = only(credited([[1, 0, 5]], mask=[[True, False, True]]))
    assert (signal.tokens, signal.zero, signal.mean) == (2, 0, 3)


def test_a_rollout_without_the_signal_does_not_count() -> None:
    rollouts = credited([[1, 3], None])
    assert np.isnan(on_tokens(rollouts, "token.advantage")).tolist() == [False, False, True]
    assert (only(rollouts).tokens, only(rollouts).mean) == (2, 2)


def test_a_signal_assigned_to_no_one_is_all_zero() -> None:
    signal = only(credited([None, None]))
    assert (signal.tokens, signal.histogram, signal.sign_balance) == (0, None, None)
    assert signal.by_position == (0,) * POSITIONS


def test_all_zero_has_no_balance_and_no_mass() -> None:
    signal = only(credited([[0, 0]]))
    assert (signal.zero, signal.sign_balance, signal.by_position) == (1, None, (0,) * POSITIONS)


def test_mass_grows_with_length() -> None:
    # Masses 1, 2, 3 at lengths 1, 2, 3.
    assert only(credited([[1], [1, -1], [1, 1, 1]])).correlation_length == pytest.approx(1)
    assert only(credited([[1], [2]])).correlation_length is None


def test_mass_by_position_splits_a_token_over_the_shares_it_covers() -> None:
    rollouts = credited([[4.0], [0, 3]])
    # One token over the whole response: 2 + 2. Two tokens: the second half has 3.
    mass = np.array([4.0, 0, 3])
    assert mass_by_position(rollouts, mass, 2).tolist() == pytest.approx([2, 5])
    # In thirds: 4/3 each; of the second rollout half a token, 1.5 · (1/3) / (1/2) = 1, and the rest, 2.
    assert mass_by_position(rollouts, mass, 3).tolist() == pytest.approx([4 / 3, 4 / 3 + 1, 4 / 3 + 2])


def test_mass_by_position_sums_to_one_whatever_the_lengths() -> None:
    credit = [list(range(1, n + 1)) for n in (1, 7, 19, 20, 333)]
    shares = only(credited(credit)).by_position
    assert len(shares) == POSITIONS
    assert sum(shares) == pytest.approx(1, rel=1e-12)


def test_mass_by_position_allows_an_empty_response() -> None:
    rollouts = credited([[1, 1], []])
    assert mass_by_position(rollouts, np.array([1.0, 1.0]), 2).tolist() == [1, 1]


def test_mass_by_step_counts_what_lies_in_steps() -> None:
    rollouts = credited([[1, -2, 3], [4, 0]]).with_columns(
        {
            "step.start": Ragged.from_lists([[0, 1], [0]], np.int32),
            "step.end": Ragged.from_lists([[1, 3], [1]], np.int32),
        }
    )
    # First steps: 1 and 4. Second step: 2 + 3.
    assert only(rollouts).by_step == pytest.approx((5 / 10, 5 / 10))
    both = mass_by_step(rollouts, np.array([1.0, 2, 3, 4, 0]), 1)
    assert both is not None
    assert both.tolist() == [10]


def test_no_steps_no_mass_by_step() -> None:
    assert only(credited([[1, 2]])).by_step is None


def test_a_histogram_begins_and_ends_at_the_extremes() -> None:
    found = histogram_of(np.array([-0.1, 0.3, 0.7]))
    assert found is not None
    assert (found.edges[0], found.edges[-1]) == (-0.1, 0.7)
    assert (len(found.counts), sum(found.counts)) == (BINS, 3)
    assert (found.counts[0], found.counts[-1]) == (1, 1)


def test_a_histogram_of_equal_values_is_one_bin() -> None:
    assert histogram_of(np.array([2.0, 2.0])) == Histogram((2, 2), (2,))
    assert histogram_of(np.array([])) is None


def random_file(groups: int, seed: int = 0) -> Rollouts:
    random = np.random.default_rng(seed)
    rows, lengths = 3 * groups, random.integers(0, 30, 3 * groups)
    batch = rollouts_of(
        random.integers(0, 3, rows).astype(float).tolist(), tokens=[[5] * length for length in lengths],
        groups=[row // 3 for row in range(rows)],
    )  # fmt: skip
    ends = Ragged.from_lists([[length // 2, length] if length else [] for length in lengths], np.int32)
    starts = Ragged.from_lists([[0, length // 2] if length else [] for length in lengths], np.int32)
    credit = Ragged(random.normal(3, 1, batch.num_tokens).astype(np.float32), batch.tokens.offsets)
    flags = pa.array([["truncated"] if row % 4 == 0 else None for row in range(rows)], pa.list_(pa.string()))
    return batch.with_columns({"token.advantage": credit, "step.start": starts, "step.end": ends, "flags": flags})


def numbers(found: object) -> list[float]:
    """Every number in it, in order."""
    if isinstance(found, dict):
        return [number for each in found.values() for number in numbers(each)]
    if isinstance(found, list | tuple):
        return [number for each in found for number in numbers(each)]
    return [float(found)] if isinstance(found, int | float) else []


def test_batches_give_the_statistics_of_the_whole() -> None:
    rollouts = random_file(40)
    tally = FileTally()
    borders = rollouts.groups.offsets[[0, 1, 2, 17, 18, 40]].tolist()
    for start, end in pairwise(borders):
        tally.add(rollouts.slice(start, end))
    piecewise, whole = asdict(tally.result()), asdict(statistics_of(rollouts))
    assert numbers(piecewise) == pytest.approx(numbers(whole), rel=1e-9, abs=1e-12)
    values = rollouts.ragged("token.advantage").values.astype(np.float64)
    masses = rollouts.tokens.sum(np.abs(values))
    (signal,) = tally.result().signals
    assert signal.std == pytest.approx(float(values.std()), rel=1e-12)
    assert signal.quantiles == pytest.approx(np.quantile(values, QUANTILES).tolist(), rel=1e-12)
    assert signal.correlation_length == pytest.approx(np.corrcoef(masses, rollouts.tokens.sizes)[0, 1], rel=1e-12)


def test_a_large_file_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantiles and bins are estimates then; the extremes and all else are exact."""
    monkeypatch.setattr(statistics, "SAMPLE", 1000)
    parts = [random_file(60, seed) for seed in range(8)]
    tally = FileTally()
    for part in parts:
        tally.add(part)
    values = np.concatenate([part.ragged("token.advantage").values for part in parts]).astype(np.float64)
    (signal,) = tally.result().signals
    assert (signal.tokens, signal.quantiles[0], signal.quantiles[-1]) == (len(values), values.min(), values.max())
    assert signal.magnitudes[-1] == np.abs(values).max()
    assert signal.mean == pytest.approx(values.mean(), rel=1e-12)
    shares = [(values < found).mean() for found in signal.quantiles[1:-1]]
    assert shares == pytest.approx(list(QUANTILES[1:-1]), abs=0.06)  # four standard errors of a median of 1000
    assert signal.histogram is not None
    assert sum(signal.histogram.counts) == pytest.approx(len(values), rel=0.002)
    assert signal.histogram.edges[0] == values.min()


def test_equal_masses_do_not_correlate() -> None:
    """0.3 + 0.3 + 0.3 has rounding in its mean; a mass that does not vary is told by its extremes."""
    assert only(credited([[0.3], [0.3, 0.0], [0.3, 0.0, 0.0]])).correlation_length is None


def test_of_the_file() -> None:
    batch = rollouts_of([1.0, 1.0, 0.0, 1.0, 5.0], groups=[0, 0, 1, 1, 2])
    found = statistics_of(batch)
    assert (found.rollouts, found.groups, found.tokens) == (5, 3, 5)
    assert found.group_sizes == {1: 1, 2: 2}
    assert found.dead_groups == 1 / 2  # of the two groups with siblings
    assert found.mean_reward == 8 / 5
    assert found.rewards is not None
    assert sum(found.rewards.counts) == 5
