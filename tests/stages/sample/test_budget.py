"""Knapsack RL: how a budget of rollouts is divided."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.sample import sample
from apportion.stages.sample.fresh._knapsack import allocation, rollouts_needed, success_rate, value
from apportion.stages.score import score

from .conftest import Sampled


@pytest.mark.parametrize(
    ("p", "expected"), [(0.1, 0.046132), (0.25, 0.126544), (0.5, 0.124023), (0.75, 0.042181), (0.9, 0.005126)]
)
def test_the_value_of_eight_rollouts(p: float, expected: float) -> None:
    assert value(np.array([8]), p)[0] == pytest.approx(expected, abs=1e-6)


def test_rollouts_until_a_group_is_mixed() -> None:
    assert rollouts_needed(0.1, 0.9) == pytest.approx(21.8543, abs=1e-4)
    assert rollouts_needed(0.5, 0.9) == pytest.approx(3.3219, abs=1e-4)
    assert rollouts_needed(0.01, 0.9) == pytest.approx(229.1, abs=0.1)
    assert rollouts_needed(0.0, 0.9) == rollouts_needed(1.0, 0.9) == np.inf
    assert rollouts_needed(0.1, 0.9, "expectation") == pytest.approx(10.1111, abs=1e-4)
    assert rollouts_needed(0.01, 0.9, "expectation") == pytest.approx(100.0101, abs=1e-4)
    assert rollouts_needed(0.0, 0.9, "expectation") == rollouts_needed(1.0, 0.9, "expectation") == np.inf


def test_the_worked_batch() -> None:
    for mode in ("paper", "released"):
        assert allocation([0.1, 0.5, 0.9, 0, 1], 8, mode=mode) == [24, 8, 4, 2, 2]


def test_where_paper_and_code_part() -> None:
    """Ten rollouts for two prompts, four of which are given."""
    assert allocation([0.5, 0.9], 5, confidence=0.99999) == [8, 2]
    assert allocation([0.5, 0.9], 5, confidence=0.99999, mode="released") == [7, 3]
    both = value(np.array([8]), 0.5) + value(np.array([2]), 0.9)
    assert both[0] == pytest.approx(0.125643, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_divides_it_better(seed: int) -> None:
    """Against all divisions of the rest, tried one by one."""
    rng = np.random.default_rng(seed)
    rates = rng.choice([0.05, 0.2, 0.5, 0.7, 0.95], 3).tolist()
    n = int(rng.integers(3, 6))
    found = allocation(rates, n, most=9, confidence=1 - 1e-12)
    total = n * 3

    def worth(counts: tuple[int, ...]) -> float:
        return sum(float(value(np.array([count]), p)[0]) for count, p in zip(counts, rates, strict=True))

    best = max(worth(counts) for counts in product(range(2, 10), repeat=3) if sum(counts) == total)
    assert sum(found) == total
    assert worth(tuple(found)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([None, None], [8, 8]),
        ([1.0, 1.0], [8, 8]),
        ([0, 0, 1.0], [11, 11, 2]),
        (
            [0.5, 0],
            [5, 11],
        ),  # the first needs 3 more of the 12 that are left; the one that never succeeds gets the rest
        ([0.5, None], [5, 11]),
        ([0.5, 1.0], [5, 11]),
    ],
    ids=str,
)
def test_prompts_on_which_nothing_is_to_be_won(rates: list[float | None], expected: list[int]) -> None:
    found = allocation(rates, 8)
    assert sum(found) == 8 * len(rates)
    assert found == expected


def test_by_expectation_a_prompt_needs_fewer_rollouts() -> None:
    """[.1, .5, .9, 0, 1], 30 of 40 left: 21 + 3 + 21 are needed with 90 % confidence, 10 + 3 + 10 on average."""
    assert allocation([0.1, 0.5, 0.9, 0, 1], 8) == [24, 8, 4, 2, 2]
    # So 7 are spare, and go to the one that never succeeds; 23 are divided by value.
    found = allocation([0.1, 0.5, 0.9, 0, 1], 8, cost="expectation")
    assert sum(found) == 40 and found[3:] == [9, 2]
    options = range(24)
    worth = {
        (a, b): value(np.array([2 + a]), 0.1)[0] + value(np.array([2 + b]), 0.5)[0] + value(np.array([25 - a - b]), 0.9)[0]
        for a, b in product(options, options) if a + b <= 23
    }  # fmt: skip
    assert (found[0] - 2, found[1] - 2) == max(worth, key=lambda each: worth[each])


def test_prompts_of_no_use_may_get_nothing() -> None:
    assert allocation([0.1, 0.1, 0, 1], 8, failing=0, solved=0) == [16, 16, 0, 0]
    assert allocation([0.5, 0], 8, failing=0) == [5, 11]  # what is left over is tried on it all the same


def test_prompts_without_a_history_are_taken_for_failing_ones_by_the_release() -> None:
    # The first needs 3 of the 12 (or 10) that are left; the rest goes to the failing one, or is shared with the unknown one.
    assert allocation([0.5, 0, None], 8) == [5, 11, 8]
    assert allocation([0.5, 0, None], 8, unknown="as_zero") == [5, 7, 12]
    assert allocation([1.0, None], 8) == [8, 8]
    assert allocation([1.0, None], 8, unknown="as_zero") == [2, 14]


def test_more_than_there_is_to_begin_with_is_refused() -> None:
    with pytest.raises(UsageError, match="add up to 8 rollouts, but there are only 4; raise -n"):
        allocation([0.5, 0.5], 2, least=4)


@pytest.mark.parametrize("name", ["negative_n", "positive_n"])
def test_fewer_than_no_rollouts_are_refused(sampled: Sampled, tmp_path: Path, name: str) -> None:
    (tmp_path / "history").write_text("")
    with pytest.raises(UsageError, match=f"strategy budget: {name} must be at least 0, got -1"):
        sampled("budget", history=[str(tmp_path / "history")], **{name: -1})


def test_no_more_at_most_than_at_least_is_refused(sampled: Sampled, tmp_path: Path) -> None:
    (tmp_path / "history").write_text("")
    with pytest.raises(UsageError, match=r"strategy budget: max_n must be at least min_n \(2\), got 1"):
        sampled("budget", history=[str(tmp_path / "history")], min_n=2, max_n=1)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ([[0, 0, 1, 0, 0, 0, 0, 0], [1, 1]], 0.3),
        ([[1] * 16, [0] * 12 + [1] * 4], 0.25),
        ([[1] * 20, [0] * 8], 0.5),
        ([[1] * 7], None),
        ([], None),
        ([[-1.0] * 8], 0.0),
    ],
    ids=str,
)
def test_the_estimate(epochs: list[list[float]], expected: float | None) -> None:
    assert success_rate(epochs) == expected


def test_rollouts_go_where_they_are_worth_most(sampled: Sampled, tmp_path: Path) -> None:
    common: dict[str, Any] = {"prompts": 6, "max_tokens": 40, "device": "cpu"}
    sample(**common, n=16, seed=3, out=tmp_path / "first")
    score(tmp_path / "first", out=tmp_path / "scored")
    earlier = RolloutFile(tmp_path / "scored").read()
    rates = np.round(earlier.groups.mean(earlier.numbers("reward")), 6).tolist()
    assert len({rate for rate in rates if 0 < rate < 1}) > 1
    options = {"prompts": 6, "n": 8, "seed": 3}
    found = sampled("budget", history=[str(tmp_path / "scored")], options=options)
    assert found.groups.sizes.tolist() == allocation(rates, 8)
    assert sampled("budget", history=[str(tmp_path / "scored")], rows_at_once=1, options=options).strings("text") == found.strings("text")  # fmt: skip
    unknown = sampled("budget", history=[str(tmp_path / "scored")], options=options | {"seed": 99})
    assert unknown.groups.sizes.tolist() == [8] * 6
    never = earlier.with_columns({"reward": np.where(earlier.groups.ids < 2, 0.0, earlier.groups.positions % 4 == 0)})
    write_rollouts(tmp_path / "never", [never], Provenance())
    found = sampled("budget", history=[str(tmp_path / "never")], negative_n=0, options=options | {"n": 4})
    assert found.groups.sizes.tolist() == [6] * 4  # 24 for the four others, whose p is a quarter
    assert found.strings("problem_id")[0] == earlier.strings("problem_id")[2 * 16]
    half = np.arange(len(earlier)) % 2 == 1
    rates = [float(np.mean(each)) for each in np.split(earlier.numbers("reward")[~half], 6)]
    reward = [None if each else value for each, value in zip(half, earlier.numbers("reward").tolist(), strict=True)]
    changed = earlier.with_columns({"reward": reward})
    for name, batch in (
        ("failed", changed.with_flag("error", half)),
        ("probes", changed.with_columns({"purpose": ["probe" if each else "train" for each in half]})),
    ):
        write_rollouts(tmp_path / name, [batch], Provenance())
        found = sampled("budget", history=[str(tmp_path / name)], options=options)
        assert found.groups.sizes.tolist() == allocation(rates, 8)
    write_rollouts(tmp_path / "torn", [changed], Provenance())
    with pytest.raises(DataError, match=r"rollout '.*', column 'reward': missing; run `apportion score"):
        sampled("budget", history=[str(tmp_path / "torn")], options=options)
