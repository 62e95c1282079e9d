from itertools import product
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS

turn_return = METHODS["turn_return"].assign

rloo = METHODS["rloo"].assign
grpo = METHODS["grpo"].assign

# ----------------------------------------------------------------------- the bandit: when to stop (verl#7244)
#
# Turn 0: stop and earn STOP, or pay COST and go on. Turn 1, if reached, earns ON. Going on is right: -0.1 + 1 > 0.5.

STOP, COST, ON = 0.5, -0.1, 1.0


def preference(going_on: np.ndarray, normalise: Any, **options: Any) -> float:
    """How much more credit the first turn gets for going on than for stopping, on average."""
    sizes = [[1, 1] if goes else [1] for goes in going_on]
    paid = [[COST, ON] if goes else [STOP] for goes in going_on]
    credit = stepped([0.0] * len(sizes), sizes, reward=paid)
    first = turn_return(credit, rewards="steps", normalise=normalise, **options)[credit.tokens.starts]
    return float(first[going_on].mean() - first[~going_on].mean())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_normalising_rewards_by_turn_index_charges_every_further_turn_its_mean_reward(share: float) -> None:
    going_on = np.arange(100) < 100 * share
    truth = COST + ON - STOP
    assert preference(going_on, "returns") == pytest.approx(truth)
    # The mean of turn 1 is taken off those that go on, and of them only: a bias of -E[R of turn 1].
    assert preference(going_on, "rewards") == pytest.approx(truth - ON)
    assert truth > 0 > truth - ON


@pytest.mark.parametrize(("normalise", "learnt"), [("returns", 1.0), ("rewards", 0.0)])
def test_a_policy_learns_to_stop_for_no_reason_when_rewards_are_normalised_by_turn_index(
    normalise: Any, learnt: float
) -> None:
    """REINFORCE on the one logit of going on, groups of 16."""
    rng, logit = np.random.default_rng(7), 0.0
    for _ in range(150):
        chance = 1 / (1 + np.exp(-logit))
        going_on = rng.random(16) < chance
        if going_on.all() or not going_on.any():
            continue
        sizes = [[1, 1] if goes else [1] for goes in going_on]
        credit = stepped([0.0] * 16, sizes, reward=[[COST, ON] if goes else [STOP] for goes in going_on])
        advantage = turn_return(credit, rewards="steps", normalise=normalise)[credit.tokens.starts]
        logit += float(np.mean(advantage * (going_on - chance)))
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(learnt, abs=0.15)


def test_costs_of_turns_vanish_which_is_a_bonus_for_length() -> None:
    # Both ways end with the same outcome; the longer one pays 0.5 for its further turn, and should be avoided.
    paid = [[1.0], [0.0, -0.5, 1.0]] * 4
    credit = stepped([0.0] * 8, [[1], [1, 1, 1]] * 4, reward=paid)
    short, long = credit.tokens.starts[0], credit.tokens.starts[1]
    right = turn_return(credit, rewards="steps")
    wrong = turn_return(credit, rewards="steps", normalise="rewards")
    assert right[short] - right[long] == pytest.approx(0.5)
    assert wrong[short] - wrong[long] == pytest.approx(1.0)  # 0.5 - (-0.5 + 1.0): all that came later is forgotten


# ------------------------------------------------------------- two turns: the expected gradient, every group enumerated
#
# Turn 0: stop (and earn 0.2), or pay 0.1 and go on with chance GO. Turn 1, if reached: right with chance RIGHT, which earns
# 1, else 0. Each turn has a logit of its own, so the gradient has one number a turn.

GO, RIGHT = 0.3, 0.6
OUTCOMES = [
    (1 - GO, [0.2], [0 - GO]),
    (GO * RIGHT, [-0.1, 1.0], [1 - GO, 1 - RIGHT]),
    (GO * (1 - RIGHT), [-0.1, 0.0], [1 - GO, 0 - RIGHT]),
]  # chance, rewards, and d log(chance of the action) / d logit of each turn
TRUTH = np.array([GO * (1 - GO) * (-0.1 + RIGHT - 0.2), GO * RIGHT * (1 - RIGHT)])


def expected_gradient(size: int, **options: Any) -> np.ndarray:
    """[2] the mean of Σ A · d log p / d logit over a rollout's turns, exactly: over all groups of that size."""
    made = list(product(OUTCOMES, repeat=size))
    rollouts = [each for group in made for each in group]
    credit = stepped(
        [0.0] * len(rollouts), [[1] * len(paid) for _, paid, _ in rollouts],
        reward=[paid for _, paid, _ in rollouts], groups=np.repeat(np.arange(len(made)), size).tolist(),
    )  # fmt: skip
    advantage = turn_return(credit, rewards="steps", **options)
    chance = np.repeat([np.prod([each[0] for each in group]) for group in made], size)
    total = np.zeros(2)
    for row, (_, _, slopes) in enumerate(rollouts):
        for turn, slope in enumerate(slopes):
            total[turn] += chance[row] / size * advantage[credit.tokens.starts[row] + turn] * slope
    return total


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_mean_of_all_siblings_keeps_less_of_later_turns_gradient(size: int) -> None:
    reached = np.array([1.0, GO])
    kept = 1 - (1 - (1 - reached) ** size) / (size * reached)
    found = expected_gradient(size)
    np.testing.assert_allclose(found, kept * TRUTH, atol=1e-12)
    assert kept[0] == pytest.approx((size - 1) / size)
    assert kept[1] < 0.75 * kept[0]  # no number times the truth: the direction has changed


@pytest.mark.parametrize("size", [2, 3, 5])
def test_leaving_the_turn_itself_out_gives_the_true_gradient(size: int) -> None:
    np.testing.assert_allclose(expected_gradient(size, baseline="others", singleton="raw"), TRUTH, atol=1e-12)
    another = 1 - (1 - np.array([1.0, GO])) ** (size - 1)  # came as far as the turn
    np.testing.assert_allclose(expected_gradient(size, baseline="others"), another * TRUTH, atol=1e-12)


def test_the_groups_mean_holds_the_decision_it_judges_and_that_of_others_does_not() -> None:
    found = expected_gradient(3, siblings="group")
    assert not np.allclose(found / TRUTH, (found / TRUTH)[0], rtol=0.01)
    np.testing.assert_allclose(
        expected_gradient(3, siblings="group", baseline="others", singleton="raw"), TRUTH, atol=1e-12
    )


# ------------------------------------------------------------------------------------------------ the options


def test_leave_one_out_leaves_out_all_turns_of_the_rollout() -> None:
    credit = stepped([1.0, 0.0, 0.5], [[1, 1], [1, 1], [1]], states=[["a", "b"], ["b", "a"], ["b"]])
    # State b: 1 of the first, 0 of the second, .5 of the third (gamma 1); state a: 1 and 0.
    found = turn_return(credit, siblings="state", baseline="others")
    np.testing.assert_allclose(found, [1, 0.75, -0.75, -1, 0])
    found = turn_return(credit, siblings="group", baseline="others", gamma=0.5)  # returns .5 1 | 0 0 | .5
    np.testing.assert_allclose(found, [0.5 - 0.5 / 3, 1 - 0.5 / 3, -2 / 3, -2 / 3, 0.5 - 1.5 / 4])
    alone = stepped([1.0], [[1, 1]], states=[["s", "s"]])
    assert turn_return(alone, siblings="state", baseline="others", gamma=0.5).tolist() == [0, 0]
    assert turn_return(alone, siblings="state", baseline="others", gamma=0.5, singleton="raw").tolist() == [0.5, 1]
    with pytest.raises(DataError, match="singleton"):
        turn_return(alone, siblings="state", baseline="others", singleton="error")


def test_leave_one_out_of_one_turn_each_is_rloo() -> None:
    credit = stepped([1.0, 0.0, 0.5, 0.25], [[2], [1], [3], [1]])
    np.testing.assert_allclose(turn_return(credit, baseline="others"), credit.tokens.spread(rloo(credit)))
    assert not turn_return(stepped([0.7] * 12, [[1]] * 12), baseline="others").any()


def test_returns_by_turn_index() -> None:
    credit = stepped([0.0] * 2, [[1, 1, 1], [1, 1]], reward=[[1.0, 0.5, 0.8], [0.3, 0.6]])
    found = turn_return(credit, rewards="steps", gamma=0.85)  # G: 2.003 1.18 0.8 | 0.81 0.6
    np.testing.assert_allclose(found, [0.5965, 0.29, 0, -0.5965, -0.29])
    scaled = turn_return(credit, rewards="steps", gamma=0.85, scale="std")
    np.testing.assert_allclose(scaled, [0.707106, 0.707105, 0, -0.707106, -0.707105], atol=1e-5)


def test_returns_by_state_and_by_group_and_alone() -> None:
    credit = stepped([1.0, 0.0], [[1, 1], [1, 1]], states=[["a", "b"], ["b", "a"]])
    np.testing.assert_allclose(turn_return(credit, siblings="state", gamma=0.5), [0.25, 0.5, -0.5, -0.25])
    np.testing.assert_allclose(turn_return(credit, siblings="group", gamma=0.5), [0.125, 0.625, -0.375, -0.375])
    np.testing.assert_allclose(turn_return(credit, siblings="none", gamma=0.5), [0.5, 1, 0, 0])


def test_one_turn_each_is_grpo_without_std() -> None:
    credit = stepped([1.0, 0.0, 0.5], [[2], [1], [3]])
    np.testing.assert_allclose(turn_return(credit), credit.tokens.spread(grpo(credit, scale="none")))


def test_outcome_and_steps_add_up() -> None:
    credit = stepped([1.0, 0.0], [[1, 1], [1]], reward=[[0.1, 0.2], [0.3]])
    both = turn_return(credit, rewards="both", siblings="none")
    np.testing.assert_allclose(both, [1.3, 1.2, 0.3])


def test_equal_rewards_give_exactly_zero_and_prompts_do_not_mix() -> None:
    assert not turn_return(stepped([0.7] * 3, [[1, 1]] * 3), scale="std").any()
    assert not turn_return(stepped([1.0, 1.0, 0.0, 0.0], [[1]] * 4, groups=[0, 0, 1, 1])).any()


def test_a_turn_without_siblings() -> None:
    credit = stepped([1.0, 0.0], [[1, 1], [1]])
    assert turn_return(credit).tolist() == [0.5, 0.0, -0.5]
    assert turn_return(credit, singleton="raw").tolist() == [0.5, 1.0, -0.5]
    with pytest.raises(DataError, match="singleton"):
        turn_return(credit, singleton="error")


@pytest.mark.parametrize("normalise", ["returns", "rewards"])
def test_what_an_environment_wrote_changes_nothing(normalise: Any) -> None:
    bare = turn_return(stepped([1.0, 0.0], [[1, 1], [1]]), gamma=0.5, normalise=normalise)
    mask = [[True, False, True, False], [True]]
    credit = stepped([1.0, 0.0], [[1, 1, 1, 1], [1]], mask=mask)
    found = turn_return(credit, gamma=0.5, normalise=normalise)
    np.testing.assert_allclose(found[credit.mask], bare)
    assert not found[~credit.mask].any()


def test_missing_columns_and_rewards_are_named() -> None:
    with pytest.raises(DataError, match="score IN --with states"):
        turn_return(stepped([1.0], [[1]]), siblings="state")
    with pytest.raises(DataError, match=r"row 1, column 'step\.reward'"):
        turn_return(stepped([0.0] * 2, [[1], [1]], reward=[[1.0], [float("nan")]]), rewards="steps")


def test_no_responses_at_all() -> None:
    assert len(turn_return(stepped([1.0, 0.0], [[], []]))) == 0


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_definition_on_random_files(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, 10)
    paid = [rng.normal(size=n).tolist() for n in counts]
    sizes = [rng.integers(1, 4, n).tolist() for n in counts]
    groups = [0] * 6 + [1] * 4
    returns = {
        (i, t): sum(0.9 ** (k - t) * r[k] for k in range(t, len(r))) for i, r in enumerate(paid) for t in range(len(r))
    }
    expected = [
        value - np.mean([other for (j, k), other in returns.items() if k == t and groups[j] == groups[i]])
        for (i, t), value in returns.items()
    ]
    found = turn_return(stepped([0.0] * 10, sizes, groups=groups, reward=paid), rewards="steps", gamma=0.9)
    np.testing.assert_allclose(found, np.repeat(expected, [n for row in sizes for n in row]), atol=1e-12)
