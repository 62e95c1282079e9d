import numpy as np
import pytest
from apportion.formats.segments import Segments, recurrence

SEGMENTS = Segments.of_sizes(np.array([2, 0, 3]))
VALUES = np.array([1.0, 3.0, 2.0, 4.0, 9.0])


def test_reductions_treat_an_empty_stretch_as_nothing() -> None:
    assert SEGMENTS.sum(VALUES).tolist() == [4, 0, 15]
    assert SEGMENTS.mean(VALUES).tolist() == [2, 0, 5]
    assert SEGMENTS.max(VALUES).tolist() == [3, 0, 9]
    assert SEGMENTS.min(VALUES, empty=-1).tolist() == [1, -1, 2]
    assert SEGMENTS.first(VALUES).tolist() == [1, 0, 2]
    assert SEGMENTS.last(VALUES).tolist() == [3, 0, 9]
    assert SEGMENTS.any(VALUES > 8).tolist() == [False, False, True]


def test_std_has_the_divisor_it_says() -> None:
    # 1, 3: deviations 1 and 1 -> sample sqrt(2/1), population sqrt(2/2). 2, 4, 9: 9 + 1 + 16 = 26.
    np.testing.assert_allclose(SEGMENTS.std(VALUES, ddof=1), [np.sqrt(2), 0, np.sqrt(13)], rtol=1e-12)
    np.testing.assert_allclose(SEGMENTS.std(VALUES, ddof=0), [1, 0, np.sqrt(26 / 3)], rtol=1e-12)


def test_std_of_equal_values_is_exactly_zero() -> None:
    assert Segments.of_sizes(np.array([12])).std(np.full(12, 0.7)).tolist() == [0.0]


def test_places_know_their_stretch() -> None:
    assert SEGMENTS.ids.tolist() == [0, 0, 2, 2, 2]
    assert SEGMENTS.positions.tolist() == [0, 1, 0, 1, 2]
    assert SEGMENTS.spread(np.array([7, 8, 9])).tolist() == [7, 7, 9, 9, 9]


def test_running_sums_restart_at_every_stretch() -> None:
    assert SEGMENTS.cumsum(VALUES).tolist() == [1, 4, 2, 6, 15]


def test_discounted_sums_run_back_from_every_end() -> None:
    np.testing.assert_allclose(SEGMENTS.discounted(VALUES, 0.0), VALUES)
    sums = SEGMENTS.discounted(VALUES, 1.0)
    np.testing.assert_allclose(sums, SEGMENTS.spread(SEGMENTS.sum(VALUES)) - SEGMENTS.cumsum(VALUES) + VALUES)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 4096, 4097, 140_000])
def test_a_recurrence_is_what_the_loop_gives(count: int) -> None:
    rng = np.random.default_rng(count)
    values, factors = rng.normal(size=count), rng.random(count) * (rng.random(count) > 0.01)
    expected, after = np.empty(count), 0.0
    for place in range(count - 1, -1, -1):
        after = expected[place] = values[place] + factors[place] * after
    np.testing.assert_allclose(recurrence(values, factors), expected, rtol=1e-12, atol=1e-12)


def test_runs_are_cut_where_neighbours_differ() -> None:
    assert Segments.of_runs(np.array([4, 4, 1, 4])).offsets.tolist() == [0, 2, 3, 4]
    assert len(Segments.of_runs(np.array([]))) == 0


@pytest.mark.parametrize("size", [0, 1])
def test_an_axis_without_places_reduces_to_the_empty_value(size: int) -> None:
    segments = Segments.of_sizes(np.zeros(size, np.int64))
    assert segments.sum(np.empty(0)).tolist() == [0.0] * size
    assert segments.std(np.empty(0)).tolist() == [0.0] * size
