from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS, Credit

gigpo = METHODS["gigpo"].assign

grpo = METHODS["grpo"].assign

STATES = [["s0", "s1", "s2"], ["s0", "s1"]]
PAID = [[0.0, 0.0, 1.0], [0.0, 0.0]]


def example() -> Credit:
    """One group (methods A, GiGPO): rollout A sees s0, s1, s2 and ends well, B sees s0, s1."""
    return stepped([1.0, 0.0], [[1, 1, 1], [1, 1]], states=STATES, reward=PAID)


@pytest.mark.parametrize("rewards", ["outcome", "steps"])
@pytest.mark.parametrize(
    ("scale", "statistics", "expected"),
    [
        ("std", "steps", [1.437401, 1.437401, 0.730295, -1.802549, -1.802549]),
        ("std", "trajectories", [1.414211, 1.414212, 0.707106, -1.414211, -1.414212]),
        ("none", "steps", [0.85125, 0.875, 0.4, -1.05125, -1.075]),
        ("none", "trajectories", [0.95125, 0.975, 0.5, -0.95125, -0.975]),
    ],
)
def test_worked_example(scale: Any, statistics: Any, rewards: Any, expected: list[float]) -> None:
    found = gigpo(example(), scale=scale, statistics=statistics, rewards=rewards)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_weight_is_of_the_step_part() -> None:
    base, full = gigpo(example(), weight=0.0), gigpo(example())
    np.testing.assert_allclose(gigpo(example(), weight=0.5), (base + full) / 2)


def test_states_that_never_meet_reduce_to_grpo() -> None:
    credit = stepped([1.0, 0.0, 0.5], [[2, 1], [1], [1, 1]], states=[["a", "b"], ["c"], ["d", "e"]])
    np.testing.assert_allclose(gigpo(credit), credit.tokens.spread(grpo(credit)))


def test_states_never_meet_across_prompts() -> None:
    credit = stepped([1.0, 0.0], [[1], [1]], states=[["same"], ["same"]], groups=[0, 1])
    assert not gigpo(credit, scale="none").any()


def test_a_rollout_that_comes_back_to_a_state_is_its_own_sibling() -> None:
    credit = stepped([1.0], [[1, 1]], states=[["s", "s"]])
    np.testing.assert_allclose(gigpo(credit, scale="none", gamma=0.5), [-0.25, 0.25])


@pytest.mark.parametrize("statistics", ["steps", "trajectories"])
def test_equal_rewards_give_exactly_zero(statistics: Any) -> None:
    credit = stepped([0.7] * 3, [[2], [1], [3]], states=[["s"]] * 3)
    assert not gigpo(credit, statistics=statistics).any()


def test_a_group_of_one() -> None:
    credit = stepped([0.5], [[2]], states=[["s"]])
    assert gigpo(credit).tolist() == [0.0, 0.0]
    assert gigpo(credit, singleton="raw").tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="singleton=zero"):
        gigpo(credit, singleton="error")


def test_what_an_environment_wrote_changes_nothing_and_gets_nothing() -> None:
    sizes, states = [[1, 2], [2]], [["a", "b"], ["a"]]
    bare = gigpo(stepped([1.0, 0.0], sizes, states=states))
    # The environment answers inside of the first step, and in a step of its own before the second.
    mask = [[True, False, False, True, True], [True, True, False]]
    credit = stepped([1.0, 0.0], [[2, 1, 2], [3]], mask=mask, states=[["a", "tool", "b"], ["a"]])
    found = gigpo(credit)
    np.testing.assert_allclose(found[credit.mask], bare)
    assert not found[~credit.mask].any()


def test_rollouts_without_tokens_count_in_the_mean() -> None:
    credit = stepped([1.0, 0.0], [[1], []], states=[["a"], []])
    np.testing.assert_allclose(gigpo(credit, scale="none"), [0.5])


def test_alike_states_meet_at_the_threshold() -> None:
    texts = [["You are in the kitchen. You see a cup."], ["You are in the kitchen. You see a cap."]]  # ratio 0.973684
    credit = stepped([1.0, 0.0], [[1], [1]], states=texts)
    np.testing.assert_allclose(gigpo(credit, scale="none", similarity=0.95), [1.0, -1.0])
    np.testing.assert_allclose(gigpo(credit, scale="none", similarity=0.98), [0.5, -0.5])


@pytest.mark.parametrize("similarity", [0.0, 1.5])
def test_a_threshold_out_of_range_is_refused(similarity: float) -> None:
    with pytest.raises(UsageError, match="similarity must be above 0 and at most 1"):
        METHODS.settle("gigpo", {"similarity": similarity})


def test_an_invalid_step_pays_alone() -> None:
    credit = stepped([1.0, 0.0], [[1, 1], [1, 1]], states=[["a", "b"], ["a", "b"]], valid=[[1, 0], [1, 1]])
    change = gigpo(credit, scale="none", penalty=0.1) - gigpo(credit, scale="none")
    # 0.1 of its episode score; and 0.1 of its return, half of which its only sibling gains.
    np.testing.assert_allclose(change, [0, -0.1 - 0.05, 0, 0.05], atol=1e-12)
    with pytest.raises(DataError, match=r"step\.valid"):
        gigpo(example(), penalty=0.1)


def test_an_invalid_step_of_a_dead_group_is_not_blown_up() -> None:
    credit = stepped([1.0, 1.0], [[1, 1], [1, 1]], states=[["a", "b"], ["c", "d"]], valid=[[1, 0], [1, 1]])
    np.testing.assert_allclose(gigpo(credit, penalty=0.1), [0, -0.1, 0, 0], atol=1e-12)


def test_missing_columns_name_what_makes_them() -> None:
    with pytest.raises(DataError, match="score IN --with states"):
        gigpo(stepped([1.0], [[1]]))
    nameless = stepped([1.0, 0.0], [[1], [1, 1]], states=[["a"], ["a", "b"]]).rollouts
    with pytest.raises(DataError, match=r"row 1, column 'step\.state': a step without a state; run .* --with states"):
        gigpo(Credit(nameless.with_columns({"step.state": [["a"], ["a", None]]})))
    with pytest.raises(DataError, match=r"step\.reward"):
        gigpo(stepped([1.0], [[1]], states=[["a"]]), rewards="steps")
    with pytest.raises(DataError, match="1 values for 2 steps"):
        gigpo(stepped([1.0], [[1, 1]], states=[["a"]]))


def test_the_presets_are_the_released_defaults() -> None:
    options = METHODS.settle("gigpo", {}, "verl-agent")
    np.testing.assert_allclose(gigpo(example(), **options), [0.85125, 0.875, 0.4, -1.05125, -1.075])


@pytest.mark.parametrize(
    ("preset", "more", "expected"),
    [
        # Scores 1, .9 | 0, 0 less their mean; Q .95, 1 - .1 | 0, 0 less the mean of those in the same state.
        ("verl-agent", {}, [0.525 + 0.475, 0.425 + 0.45, -0.475 - 0.475, -0.475 - 0.45]),
        # Σ(score - .475)² = .9075, so the std is .55; of two values it is their difference by √2, ±.707106 each
        ("verl-agent-alfworld", {}, [0.954544 + 0.707106, 0.772726 + 0.707106, -0.863635 - 0.707106, -0.863635 - 0.707106]),
        ("slea", {"similarity": 1.0}, [1.0, 0.875, -0.95, -0.925]),
    ],
)  # fmt: skip
def test_the_presets_have_the_released_penalty(preset: str, more: dict[str, Any], expected: list[float]) -> None:
    credit = stepped([1.0, 0.0], [[1, 1], [1, 1]], states=[["a", "b"], ["a", "b"]], valid=[[1, 0], [1, 1]])
    options = METHODS.settle("gigpo", more, preset)
    np.testing.assert_allclose(gigpo(credit, **options), expected, atol=3e-6)


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, [0.975, 1.0, -0.975, -1.0]), ({"similarity": 1.0}, [0.5, 1.0, -0.5, -1.0])],
    ids=["paper", "released"],
)
def test_worked_example_of_slea(more: dict[str, Any], expected: list[float]) -> None:
    cup, shelf, bath = (
        "You are in the kitchen. You see a cup on the table.",
        "You are in the kitchen. You see a cup on the shelf.",
        "You are in the bathroom.",
    )
    ratios = [SequenceMatcher(None, *pair).ratio() for pair in ((cup, shelf), (cup, bath), (shelf, bath))]
    np.testing.assert_allclose(ratios, [0.921569, 0.506667, 0.506667], atol=1e-6)
    credit = stepped([1.0, 0.0], [[1, 1], [1, 1]], states=[[cup, bath], [shelf, bath]], reward=[[0.0, 1.0], [0.0, 0.0]])
    for rewards in ("outcome", "steps"):
        options = METHODS.settle("gigpo", {"rewards": rewards, **more}, "slea")
        np.testing.assert_allclose(gigpo(credit, **options), expected, atol=1e-12)


def oracle(
    credit: Credit, states: list[list[str]], paid: list[list[float]], groups: list[int], threshold: float, **o: Any
) -> list[float]:
    """Row by row, in lists; a row is a step, as in the released code."""
    rows = [(i, t) for i, row in enumerate(paid) for t in range(len(row))]
    q = {(i, t): sum(o["gamma"] ** (k - t) * paid[i][k] for k in range(t, len(paid[i]))) for i, t in rows}

    def normal(value: float, others: Sequence[float]) -> float:
        if max(others) == min(others):
            return 0.0
        std = float(np.std(others, ddof=1)) + 1e-6 if o["scale"] == "std" else 1.0
        return (value - float(np.mean(others))) / std

    leader: dict[tuple[int, int], str] = {}
    seen: dict[int, list[str]] = {}
    for i, t in rows:
        known = seen.setdefault(groups[i], [])
        text = states[i][t]
        like = [each for each in known if SequenceMatcher(None, text, each).ratio() >= threshold]
        leader[i, t] = like[0] if like else text
        if not like:
            known.append(text)
    out: list[float] = []
    for i, t in rows:
        if o["statistics"] == "steps":
            scores: list[float] = [sum(paid[j]) for j, _ in rows if groups[j] == groups[i]]
        else:
            scores = [sum(paid[j]) for j in range(len(paid)) if groups[j] == groups[i]]
        same = [q[j, k] for j, k in rows if groups[j] == groups[i] and leader[j, k] == leader[i, t]]
        out.append(normal(sum(paid[i]), scores) + o["weight"] * normal(q[i, t], same))
    return out


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_the_slow_version_on_random_files(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, 12)
    states = [["".join(rng.choice(list("ab"), 3)) for _ in range(n)] for n in counts]
    paid = [rng.integers(-1, 3, n).astype(float).tolist() for n in counts]
    groups = [0] * 5 + [1] * 4 + [2] * 3
    sizes = [rng.integers(1, 4, n).tolist() for n in counts]
    options: dict[str, Any] = {
        "gamma": 0.9, "weight": 0.7, "scale": ["std", "none"][seed % 2],
        "statistics": ["steps", "trajectories"][seed // 2 % 2],
    }  # fmt: skip
    threshold = [1.0, 0.6][seed // 4 % 2]
    credit = stepped([0.0] * 12, sizes, states=states, groups=groups, reward=paid)
    found = gigpo(credit, rewards="steps", similarity=threshold, **options)
    expected = oracle(credit, states, paid, groups, threshold, **options)
    np.testing.assert_allclose(found, np.repeat(expected, [n for row in sizes for n in row]), atol=1e-9)
