"""ROSE: segments between branchings, and length calibration."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.structure.step_tree import add_step_tree

rose = METHODS["rose"].assign

# r0 and two that left it after four tokens; r3 begins anew. Lengths 10, 14, 8, 6.
SHARED = [1, 2, 3, 4]
TOKENS = [SHARED + [10] * 6, SHARED + [11] * 10, SHARED + [12] * 4, [20] * 6]
REWARDS = [1.0, 1.0, 0.0, 0.0]


def forked(parents: list[int | None], forks: list[int | None], rewards: list[float], tokens: list[list[int]]) -> Credit:
    rollouts = credit_of(rewards, tokens=tokens).rollouts
    names = [None if parent is None else f"r{parent}" for parent in parents]
    return Credit(rollouts.with_columns({"parent_id": names, "fork": pa.array(forks, pa.int32())}))


EXAMPLE = ([None, 0, 0, None], [None, 4, 4, None], REWARDS, TOKENS)


def runs(values: Any) -> list[tuple[float, int]]:
    """(value, how often) one after another."""
    found: list[tuple[float, int]] = []
    for value in np.round(values, 6).tolist():
        if found and found[-1][0] == value:
            found[-1] = (value, found[-1][1] + 1)
        else:
            found.append((value, 1))
    return found


@pytest.mark.parametrize("key", ["prefix", "position"])
def test_the_worked_example(key: Any) -> None:
    found = rose(forked(*EXAMPLE), alpha=0.0, key=key)
    assert runs(found) == [
        (0.166667, 4), (0.333333, 6), (0.166667, 4), (0.333333, 10), (0.166667, 4), (-0.666667, 4), (-0.5, 6),
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["prefix", "position"])
@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 0.258199), (1.0, 0.2), (2.0, 0.12)])
def test_a_longer_right_answer_gets_less_behind_the_branching(key: Any, alpha: float, expected: float) -> None:
    found = rose(forked(*EXAMPLE), alpha=alpha, key=key)
    assert runs(found[10:24]) == [(0.166667, 4), (expected, 10)]
    untouched = np.delete(np.arange(38), np.arange(10, 24))
    np.testing.assert_array_equal(found[untouched], rose(forked(*EXAMPLE), alpha=0.0, key=key)[untouched])


def test_calibration_makes_what_is_negative_more_so() -> None:
    """A right rollout can lose by a segment; there the factor is added to the loss."""
    tokens = [[1, 2, 9, 9], [1, 3], [1, 2, 8], [4]]
    credit = credit_of([0.5, 1.0, 1.0, 0.0], tokens=tokens)
    plain, found = rose(credit, alpha=0.0), rose(credit, alpha=1.0)
    assert plain[:4].round(4).tolist() == [0.2083, -0.0833, -0.25, -0.25]
    factor = 1 - (2 - 1) / (4 - 1)
    np.testing.assert_allclose(found[1:4], plain[1:4] - np.abs(plain[1:4]) * factor)
    assert found[0] == plain[0]


def test_numbers_of_tokens_that_are_the_same_count_as_one_in_the_released_code() -> None:
    """Two trees of one prompt are cut after two tokens each: by position their values mix, by prefix they do not."""
    tokens = [[1, 2, 3], [1, 2, 4], [5, 6, 7], [5, 6, 8]]
    credit = forked([None, 0, None, 2], [None, 2, None, 2], [1.0, 1.0, 1.0, 0.0], tokens)
    assert rose(credit, alpha=0.0).tolist() == [0.25, 0.25, 0.0] * 2 + [-0.25, -0.25, 0.5, -0.25, -0.25, -0.5]
    assert rose(credit, alpha=0.0, key="position").tolist() == [0, 0, 0.25] * 3 + [0, 0, -0.75]


def test_positions_go_up_and_down_the_forks() -> None:
    """r2 left r1 before r1 left r0: r0 has the place too. r3 left r0 behind it: it has it by inheritance.

    r2 has r1's place, 3, though it was gone by then: its reward counts there.
    """
    tokens = [[1, 2, 3, 4, 5], [1, 2, 3, 6, 7], [1, 8, 8], [1, 2, 3, 4, 9]]
    credit = forked([None, 0, 1, 0], [None, 3, 1, 4], [1.0, 0.0, 0.0, 1.0], tokens)
    found = rose(credit, alpha=0.0, key="position")
    root, one, three, four = 0.5, 0.5, 0.5, 1.0
    np.testing.assert_allclose(
        found,
        [
            one - root,
            three - one,
            three - one,
            four - three,
            1 - four,
            one - root,
            three - one,
            three - one,
            -three,
            -three,
            one - root,
            -one,
            -one,
            one - root,
            three - one,
            three - one,
            four - three,
            1 - four,
        ],
    )


def test_where_the_released_code_goes_by_numbers_it_can_count_rollouts_that_never_came_there() -> None:
    """methods A, ROSE, "keys differ": r2 left r0's text, by way of r1, before r1 did."""
    tokens = [[1, 2, 3, 4, 5, 5], [1, 2, 3, 4, 6, 6], [1, 2, 3, 7, 7]]
    credit = forked([None, 0, 1], [None, 4, 3], [1.0, 1.0, 0.0], tokens)
    found = rose(credit, alpha=0.0, key="position")
    np.testing.assert_allclose(found, [0, 0, 0, 0, 1 / 3, 1 / 3] * 2 + [0, 0, 0, 0, -2 / 3], atol=1e-12)
    found = rose(credit, alpha=0.0)
    np.testing.assert_allclose(found, [0, 0, 0, 1 / 3, 0, 0] * 2 + [0, 0, 0, -2 / 3, -2 / 3], atol=1e-12)


def test_of_several_shortest_right_answers_the_released_code_takes_the_first() -> None:
    # r0 and r1 are shortest; r2 left r1 after three tokens, r1 left r0 after one.
    tokens = [[1, 2, 2, 2], [1, 3, 3, 3], [1, 3, 3, 4, 4, 4], [9]]
    credit = forked([None, 0, 1, None], [None, 1, 3, None], [1.0, 1.0, 1.0, 0.0], tokens)
    plain = rose(credit, alpha=0.0)
    nearest, first = rose(credit), rose(credit, shortest="first")
    factors = {"nearest": 1 - 1 / 3, "first": 1 - 3 / 5}
    np.testing.assert_allclose(nearest[8:14], np.where(np.arange(6) >= 3, 1 - factors["nearest"], 1) * plain[8:14])
    np.testing.assert_allclose(first[8:14], np.where(np.arange(6) >= 1, 1 - factors["first"], 1) * plain[8:14])


def test_what_is_a_right_answer() -> None:
    tokens, rewards = [[1, 2], [1, 3, 3, 3], [4, 4]], [-1.0, -1.0, 0.0]
    credit = credit_of(rewards, tokens=tokens)
    np.testing.assert_array_equal(rose(credit), rose(credit, alpha=0.0))
    plain, found = rose(credit, alpha=0.0), rose(credit, correct_above="nonzero")
    np.testing.assert_allclose(found[3:6], plain[3:6] - np.abs(plain[3:6]) * (1 - 1 / 3))


def test_a_rollout_that_ends_where_another_goes_on() -> None:
    """The part they share is not lowered: it is the shortest answer itself."""
    credit = credit_of([1.0, 1.0, 0.0], tokens=[[1, 5, 6, 7], [1, 5], [2]])
    np.testing.assert_allclose(rose(credit), [1 / 3, 1 / 3, 0, 0, 1 / 3, 1 / 3, -2 / 3])


def test_tokens_of_an_environment_change_nothing() -> None:
    plain = rose(credit_of(REWARDS, tokens=TOKENS))
    holed = [[90, *tokens[:4], 91, 91, *tokens[4:]] for tokens in TOKENS]
    mask = [[token < 90 for token in tokens] for tokens in holed]
    found = rose(credit_of(REWARDS, tokens=holed, mask=mask))
    own = np.array([each for row in mask for each in row])
    assert not found[~own].any()
    np.testing.assert_allclose(found[own], plain)


@pytest.mark.parametrize("key", ["prefix", "position"])
def test_nothing_to_learn_is_exactly_0(key: Any) -> None:
    credit = forked([None, 0, 0, None], [None, 4, 4, None], [0.7] * 4, TOKENS)
    assert not rose(credit, alpha=0.0, key=key).any()
    assert not rose(credit, alpha=1.0, key=key).any()
    assert rose(forked([None], [None], [1.0], [[1, 2]]), key=key).tolist() == [0.0, 0.0]
    assert rose(forked([None, None], [None, None], [1.0, 0.0], [[], [3]]), key=key).tolist() == [-0.5]


def slow(rewards: list[float], tokens: list[list[int]], alpha: float) -> list[list[float]]:
    """Prefix by prefix: V of a prefix is the mean reward of those who have it; what changes is due where they part."""

    def value(prefix: list[int]) -> float:
        return float(np.mean([r for r, row in zip(rewards, tokens, strict=True) if row[: len(prefix)] == prefix]))

    def who(prefix: list[int]) -> list[int]:
        return [at for at, row in enumerate(tokens) if row[: len(prefix)] == prefix]

    found = []
    right = [row for reward, row in zip(rewards, tokens, strict=True) if reward > 1e-6]
    shortest = min((len(row) for row in right), default=0)
    for reward, row in zip(rewards, tokens, strict=True):
        # Places where the set of rollouts that have the prefix changes, after the place.
        places = [0, *(at for at in range(1, len(row)) if who(row[: at + 1]) != who(row[:at]))]
        credits: list[float] = []
        for begin, end in zip(places, [*places[1:], len(row)], strict=True):
            after = reward if end == len(row) else value(row[:end])
            credits += [after - value(row[:begin])] * (end - begin)
        if alpha and reward > 1e-6 and len(row) > shortest:
            common = 0
            for model in (each for each in right if len(each) == shortest):
                ends = [0, *(at for at in places if row[:at] == model[:at] and at <= len(model))]
                common = max(common, *ends)
            factor = 1 - ((shortest - common) / (len(row) - common)) ** alpha
            credits = [a - abs(a) * factor if at >= common else a for at, a in enumerate(credits)]
        found.append(credits)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_definition_on_random_trees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(1, 3, rng.integers(0, 7)).tolist() for _ in range(rng.integers(1, 9))]
    rewards = rng.choice([0.0, 0.5, 1.0], len(tokens)).tolist()
    alpha = float(rng.choice([0.0, 0.5, 1.0, 2.0]))
    expected = [value for row in slow(rewards, tokens, alpha) for value in row]
    if len(set(rewards)) == 1:
        expected = [0.0] * len(expected)
    np.testing.assert_allclose(rose(credit_of(rewards, tokens=tokens), alpha=alpha), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_a_tree_of_steps_has_branchings_only_where_rollouts_part(seed: int) -> None:
    """Cut into steps of one token, the tree by step is the prefix tree with chains: they are no branchings."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(1, 3, rng.integers(0, 7)).tolist() for _ in range(rng.integers(2, 9))]
    credit = credit_of(rng.choice([0.0, 0.5, 1.0], len(tokens)).tolist(), tokens=tokens)
    spans = {
        f"step.{leaf}": Ragged.from_lists([[at + more for at in range(len(row))] for row in tokens], np.int32)
        for more, leaf in enumerate(("start", "end"))
    }
    by_step = Credit(add_step_tree(credit.rollouts.with_columns(spans)))
    np.testing.assert_allclose(rose(by_step), rose(credit), atol=1e-12)


def forest(rng: np.random.Generator) -> tuple[list[list[int]], list[int | None], list[int | None]]:
    """(tokens, parents, forks): rollouts that leave one before them, some to end at once. Tokens of two never agree."""
    tokens: list[list[int]] = []
    parents: list[int | None] = []
    forks: list[int | None] = []
    for row in range(rng.integers(1, 9)):
        found = [each for each in range(row) if tokens[each]]
        parent = int(rng.choice(found)) if found and rng.random() < 0.7 else None
        fork = None if parent is None else int(rng.integers(0, len(tokens[parent])))
        begun = [] if parent is None else tokens[parent][:fork]
        tokens.append(begun + [100 * row + int(each) for each in rng.integers(1, 9, rng.integers(0, 6))])
        parents.append(parent)
        forks.append(fork)
    return tokens, parents, forks


def slow_by_position(
    rewards: list[float],
    tokens: list[list[int]],
    parents: list[int | None],
    forks: list[int | None],
    alpha: float,
    shortest_is: str,
) -> list[float]:
    """Steps 5 to 8 of the released code, rollout by rollout."""
    rows = range(len(rewards))
    places: list[set[int]] = [{0} for _ in rows]
    for row in rows:
        line: int | None = row
        while line is not None:
            places[row].add(forks[line] or 0)
            line = parents[line]
    for row in rows:
        parent, place = parents[row], forks[row]
        if place is None:
            continue
        while parent is not None:
            places[parent].add(place)
            hangs_by = forks[parent]
            parent = parents[parent] if hangs_by is not None and place <= hangs_by else None
    for row in rows:
        parent, place = parents[row], forks[row]
        if parent is not None and place is not None:
            places[row] |= {each for each in places[parent] if each < place}

    def value(place: int) -> float:
        return float(np.mean([rewards[row] for row in rows if place in places[row]]))

    right = [row for row in rows if rewards[row] > 1e-6]
    shortest = min((len(tokens[row]) for row in right), default=0)
    found: list[float] = []
    for row in rows:
        length = len(tokens[row])
        cuts = [*sorted(place for place in places[row] if place < length), length]
        credits: list[float] = []
        for begin, end in itertools.pairwise(cuts):
            credits += [(rewards[row] if end == length else value(end)) - value(begin)] * (end - begin)
        if alpha and row in right and length > shortest:
            models = [each for each in right if len(tokens[each]) == shortest]
            models = models[:1] if shortest_is == "first" else models
            common = max(max(p for p in places[row] & places[each] if p <= shortest) for each in models)
            factor = 1 - ((shortest - common) / (length - common)) ** alpha
            credits = [a - abs(a) * factor if at >= common else a for at, a in enumerate(credits)]
        found += credits
    return found


@pytest.mark.parametrize("shortest", ["nearest", "first"])
@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_the_released_steps_on_random_forests(seed: int, shortest: Any) -> None:
    rng = np.random.default_rng(seed)
    tokens, parents, forks = forest(rng)
    rewards = rng.choice([0.0, 0.5, 1.0], len(tokens)).tolist()
    alpha = float(rng.choice([0.0, 0.5, 1.0, 2.0]))
    expected = slow_by_position(rewards, tokens, parents, forks, alpha, shortest)
    if len(set(rewards)) == 1:
        expected = [0.0] * len(expected)
    found = rose(forked(parents, forks, rewards, tokens), alpha=alpha, key="position", shortest=shortest)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_rollout_keeps_its_own_fork_when_the_one_it_left_is_not_in_the_file() -> None:
    credit = forked([7, 7, None], [1, 1, None], [1.0, 0.0, 0.0], [[1, 2], [1, 3], [4]])
    np.testing.assert_allclose(rose(credit, alpha=0.0, key="position"), [1 / 6, 1 / 2, 1 / 6, -1 / 2, -1 / 3])


@pytest.mark.parametrize("parents", [[0, None], [1, 0]])
def test_rollouts_that_left_one_another_are_refused(parents: list[int | None]) -> None:
    credit = forked(parents, [1, 1], [1.0, 0.0], [[1, 2], [1, 3]])
    with pytest.raises(DataError, match="row 0, column 'parent_id': the rollouts it left lead back to it"):
        rose(credit, key="position")
    assert rose(credit, alpha=0.0).tolist() == [0.0, 0.5, 0.0, -0.5]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match=r"no column 'parent_id', which rose needs; .* or --set key=prefix"):
        rose(credit_of([1.0, 0.0]), key="position")
    with pytest.raises(UsageError, match="credit method rose: alpha must be at least 0, got -1"):
        METHODS.settle("rose", {"alpha": -1})
