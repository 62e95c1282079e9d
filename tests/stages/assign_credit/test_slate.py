from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.structure.turns import selection_probabilities

slate = METHODS["slate"].assign

NAN = float("nan")
# methods A, SLATE: five candidates of the first step, the fourth of which answers (its bonus is .1).
JUDGED = [2.0, 1.0, -1.0, 2.0, 2.0]
ADVANTAGE = [0.590976, -0.166686, -1.682010, 0.666743, 0.590976]
Cut = Sequence[tuple[list[int], float]]


def rows_of(
    rows: Sequence[Cut],
    *,
    forks: Sequence[int | None] | None = None,
    kinds: Sequence[Sequence[str]] | None = None,
    groups: list[int] | None = None,
    env: int = 99,
) -> Credit:
    """Rollouts as steps (tokens, reward); a token `env` was written by an environment and is in no step."""
    tokens = [[token for each, _ in row for token in each] for row in rows]
    starts: list[list[int]] = []
    ends: list[list[int]] = []
    for row in rows:
        at, begin, stop = 0, [], []
        for each, _ in row:
            begin.append(at)
            at += len(each)
            stop.append(at - each.count(env))
        starts.append(begin)
        ends.append(stop)
    columns: dict[str, Any] = {
        "step.start": Ragged.from_lists(starts, np.int32),
        "step.end": Ragged.from_lists(ends, np.int32),
        "step.reward": Ragged.from_lists([[reward for _, reward in row] for row in rows], np.float64),
        "step.kind": pa.array(kinds or [["search"] * len(row) for row in rows], pa.list_(pa.string())),
    }
    if forks is not None:
        columns["fork"] = pa.array(forks, pa.int32())
    mask = [[token != env for token in row] for row in tokens]
    return Credit(rollouts_of([0.0] * len(rows), tokens=tokens, mask=mask, groups=groups).with_columns(columns))


def first_steps(**kwargs: Any) -> Credit:
    kinds = [["search"]] * 3 + [["answer"], ["search"]]
    return rows_of([[([token], reward)] for token, reward in enumerate(JUDGED)], kinds=kinds, **kwargs)


def test_worked_example() -> None:
    np.testing.assert_allclose(slate(first_steps()), ADVANTAGE, atol=1e-6)


def test_worked_example_of_the_choice() -> None:
    chances = selection_probabilities(slate(first_steps()), eta=0.7)
    np.testing.assert_allclose(chances, [0.286370, 0.097019, 0.011136, 0.319105, 0.286370], atol=1e-6)
    assert selection_probabilities(np.array(ADVANTAGE), eta=0.0).tolist() == [0, 0, 0, 1, 0]
    assert selection_probabilities(np.array([1.0, 1.0]), eta=-1.0).tolist() == [1, 0]
    np.testing.assert_allclose(selection_probabilities(np.array([5000.0, 0.0])), [1.0, 0.0])


def test_equal_candidates_that_were_each_sampled_count_each() -> None:
    rows: list[Cut] = [[([1], 2.0)], [([2], 1.0)], [([1], 2.0)]]
    np.testing.assert_allclose(slate(rows_of(rows)), [0.577350, -1.154701, 0.577350], atol=1e-5)


TRUNCATED: list[Cut] = [
    [([1, 2, 99, 99], 2.0)],  # the chosen one, with what its search found
    [([3], 0.0)],
    [([1, 2, 99, 99], 2.0), ([4, 4], 1.0)],
    [([1, 2, 99, 99], 2.0), ([5], -1.0)],
    [([1, 2, 99, 99], 2.0), ([6], 0.0)],
]


def test_rows_sampled_a_step_at_a_time() -> None:
    found = slate(rows_of(TRUNCATED, forks=[None, None, 4, 4, 4]))
    half = 0.707106
    # A step that rows carry on counts once, and has credit in its own row only.
    expected = [half, half, 0, 0, -half, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_step_whose_own_row_is_gone_still_counts_once() -> None:
    found = slate(rows_of(TRUNCATED[1:], forks=[None, 4, 4, 4]))
    whole = slate(rows_of(TRUNCATED, forks=[None, None, 4, 4, 4]))
    np.testing.assert_allclose(found, whole[4:])


def test_a_step_that_begins_before_the_fork_is_the_rows_own_from_there_on() -> None:
    rows: list[Cut] = [[([1, 2, 3], 5.0)], [([1, 2, 4], 1.0)], [([1, 2, 5], 0.0)]]
    found = slate(rows_of(rows, forks=[None, 2, 2]))
    np.testing.assert_allclose(found, [0, 0, 0, 0, 0, 0.707106, 0, 0, -0.707106], atol=2e-6)


def test_whole_rollouts_are_compared_where_they_still_agree() -> None:
    rows: list[Cut] = [
        [([1, 1], 1.0), ([2], 1.0)],
        [([1, 1], 1.0), ([3], 0.0)],
        [([4], -1.0), ([2], 7.0)],  # no other begins after 4
    ]
    third = 0.577350
    expected = [third, third, 0.707106, third, third, -0.707106, -2 * third, 0]
    np.testing.assert_allclose(slate(rows_of(rows)), expected, atol=2e-6)


def test_the_bonus_falls_with_the_index_of_the_step_to_0() -> None:
    rows: list[Cut] = [
        [([1], 0.0), *[([token], 0.0) for token in range(steps)], ([8], 0.0)] for steps in [0, 1, 2, 3, 4]
    ]
    for row, expected in zip(rows, [0.075, 0.05, 0.025, 0.0, 0.0], strict=True):
        other = [*row[:-1], ([9], 1.0)]
        kinds = [["search"] * (len(row) - 1) + ["answer"], ["search"] * len(row)]
        # With an eps far larger than the std, the difference of the two shows: (r - mean) / eps.
        found = slate(rows_of([row, other], kinds=kinds), eps=1e6)
        assert found[len(row) - 1] * 2e6 == pytest.approx(expected - 1.0, abs=1e-5)
        found = slate(rows_of([row, other], kinds=kinds), eps=1e6, bonus=0.0)
        assert found[len(row) - 1] * 2e6 == pytest.approx(-1.0, abs=1e-5)
    found = slate(first_steps(), first=1)  # .075 in place of .1
    np.testing.assert_allclose(found[3], 0.653633, atol=1e-6)  # (2.075 - 1.215) / √(6.9245 / 4)


def test_divided_by_the_steps_of_the_longest_rollout_of_the_group() -> None:
    credit = rows_of(
        [*TRUNCATED, [([1], 1.0)], [([2], 0.0)]], forks=[None, None, 4, 4, 4, 0, 0], groups=[0] * 5 + [1] * 2
    )
    expected = slate(credit) / np.repeat([2, 1], [21, 2])
    np.testing.assert_allclose(slate(credit, divide_by_steps=True), expected)


def test_one_candidate_and_equal_rewards_give_exactly_0() -> None:
    assert not slate(rows_of([[([1], 0.7)]])).any()
    assert not slate(rows_of([[([token], 0.7)] for token in range(12)])).any()


def test_candidates_of_other_prompts_do_not_count() -> None:
    credit = rows_of([[([token], reward)] for token, reward in enumerate([1.0, 0.0, 9.0, 7.0])], groups=[0, 0, 1, 1])
    np.testing.assert_allclose(slate(credit), [0.707106, -0.707106, 0.707106, -0.707106], atol=2e-6)


def test_steps_of_an_environment_take_no_part() -> None:
    bare = slate(stepped([0.0] * 2, [[1, 1], [1, 1]], reward=[[1.0, 0.5], [0.2, 0.4]]), bonus=0)
    mask = [[False, True, True], [False, True, True]]
    credit = stepped([0.0] * 2, [[1, 1, 1], [1, 1, 1]], mask=mask, reward=[[NAN, 1.0, 0.5], [7.0, 0.2, 0.4]])
    np.testing.assert_allclose(slate(credit, bonus=0)[credit.mask], bare)
    assert not slate(credit, bonus=0)[~credit.mask].any()


def test_empty_responses_and_what_is_missing() -> None:
    assert len(slate(stepped([0.0, 0.0], [[], []], reward=[[], []]), bonus=0)) == 0
    with pytest.raises(DataError, match=r"step\.reward.*reward given for the step"):
        slate(stepped([0.0], [[1]]))
    with pytest.raises(DataError, match=r"row 1, column 'step\.reward'"):
        slate(rows_of([[([1], 1.0)], [([2], NAN)]]))
    with pytest.raises(DataError, match=r"'step\.kind'.*bonus=0"):
        slate(stepped([0.0], [[1]], reward=[[1.0]]))
    with pytest.raises(UsageError, match="budget must be at least 1, got 0"):
        METHODS.settle("slate", {"budget": 0})


def test_a_kind_for_every_step_is_needed() -> None:
    rollouts = first_steps().rollouts.with_columns({"step.kind": pa.array([["search"]] * 4 + [[]])})
    with pytest.raises(DataError, match=r"'step\.kind': 0 values for 1 steps"):
        slate(Credit(rollouts))


def oracle(rows: list[Cut], forks: list[int]) -> list[float]:
    """The definition, slowly: every set of candidates by its prefix."""
    sampled: dict[tuple[int, ...], list[tuple[int, int, float]]] = {}
    ends: dict[tuple[tuple[int, ...], tuple[int, ...]], bool] = {}
    out = [[0.0] * sum(len(each) for each, _ in row) for row in rows]
    pending: list[tuple[tuple[int, ...], tuple[int, ...], float]] = []
    for place, row in enumerate(rows):
        before: tuple[int, ...] = ()
        for each, reward in row:
            after = (*before, *each)
            if len(after) > forks[place]:
                start = after[: max(forks[place], len(before))]
                sampled.setdefault(start, []).append((place, len(after), reward))
                ends[start, after] = True
            else:
                pending.append((before, after, reward))
            before = after
    for before, after, reward in pending:
        if (before, after) not in ends:
            sampled.setdefault(before, []).append((-1, 0, reward))
            ends[before, after] = True
    for start, candidates in sampled.items():
        rewards = [reward for _, _, reward in candidates]
        if len(set(rewards)) > 1:
            for place, end, reward in candidates:
                if place >= 0:
                    value = (reward - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-6)
                    out[place][len(start) : end] = [float(value)] * (end - len(start))
    return [value for row in out for value in row]


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_the_definition_on_random_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    judged: dict[tuple[tuple[int, ...], ...], float] = {}  # a step has one reward, in whatever row it stands
    rows: list[Cut] = []
    forks: list[int] = []
    for _ in range(12):
        pieces = [tuple(rng.integers(0, 2, rng.integers(1, 3)).tolist()) for _ in range(rng.integers(0, 5))]
        path = [tuple(pieces[: end + 1]) for end in range(len(pieces))]
        rewards = [judged.setdefault(each, float(rng.integers(-2, 3))) for each in path]
        rows.append([(list(each), reward) for each, reward in zip(pieces, rewards, strict=True)])
        forks.append(int(rng.integers(0, 1 + sum(map(len, pieces)))) if rng.random() < 0.5 else 0)
    found = slate(rows_of(rows, forks=[fork or None for fork in forks]))
    np.testing.assert_allclose(found, oracle(rows, forks), atol=1e-9)
