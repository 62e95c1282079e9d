from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS, Credit

reinforce_plus_plus = METHODS["reinforce_plus_plus"].assign

TOKENS = [[1, 2], [3, 4, 5], [6], [7, 8]]  # lengths 2, 3, 1, 2 (methods A, REINFORCE++)
REWARDS = [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [({}, 0.724569, -1.207615), ({"ddof": 0, "floor": "clamp"}, 0.774597, -1.290994)],
    ids=["verl", "openrlhf"],
)
def test_worked_example(options: dict[str, Any], right: float, wrong: float) -> None:
    found = reinforce_plus_plus(credit_of(REWARDS, tokens=TOKENS), **options)
    np.testing.assert_allclose(found, [right] * 2 + [wrong] * 3 + [right] * 3, atol=1e-6)


def test_groups_do_not_matter() -> None:
    one = reinforce_plus_plus(credit_of(REWARDS, tokens=TOKENS))
    two = reinforce_plus_plus(credit_of(REWARDS, tokens=TOKENS, groups=[0, 0, 1, 1]))
    np.testing.assert_array_equal(one, two)


def test_a_discount_counts_the_policys_tokens_alone() -> None:
    # Returns 1/4, 1/2, 1 and 0: mean 7/16, squares 9/256 + 1/256 + 81/256 + 49/256 = 140/256.
    tokens, mask = [[1, 9, 2, 3, 9], [4]], [[True, False, True, True, False], [True]]
    found = reinforce_plus_plus(credit_of([1.0, 0.0], tokens=tokens, mask=mask), gamma=0.5, ddof=0, eps=0.0)
    expected = (np.array([1 / 4, 1 / 2, 1, 0]) - 7 / 16) / np.sqrt(140 / 1024)
    np.testing.assert_allclose(found, [expected[0], 0, expected[1], expected[2], 0, expected[3]], rtol=1e-12)


def with_logprobs(rewards: list[float], logprob: list[list[float]], reference: list[list[float]]) -> Credit:
    batch = rollouts_of(rewards, tokens=[list(range(len(row))) for row in logprob])
    columns = {
        "token.logprob": Ragged.from_lists(logprob, np.float64),
        "token.reference_logprob": Ragged.from_lists(reference, np.float64),
    }
    return Credit(batch.with_columns(columns))


def test_the_kl_of_a_token_counts_for_it_and_those_before() -> None:
    # k1 = 0, 1 and 0; β 1/2: rewards 0, -1/2 of the first, 0 of the second; with R = 1 and 0: returns 1/2, 1/2, 0.
    credit = with_logprobs([1.0, 0.0], [[-1.0, -1.0], [-1.0]], [[-1.0, -2.0], [-1.0]])
    found = reinforce_plus_plus(credit, kl_coef=0.5, ddof=0, eps=0.0)
    np.testing.assert_allclose(found, [np.sqrt(0.5), np.sqrt(0.5), -np.sqrt(2)], rtol=1e-6)


def test_rewards_of_steps_are_paid_at_their_last_token() -> None:
    # Steps of 2 and 1 tokens with rewards 1 and 2, and of 1 token with 4; outcomes 8 and 0.
    credit = stepped([8.0, 0.0], [[2, 1], [1]], reward=[[1.0, 2.0], [4.0]])
    expected: dict[Any, list[float]] = {"steps": [3, 3, 2, 4], "both": [11, 11, 10, 4], "outcome": [8, 8, 8, 0]}
    for rewards, returns in expected.items():
        found = reinforce_plus_plus(credit, rewards=rewards, ddof=0, eps=0.0)
        np.testing.assert_allclose(found, (np.array(returns) - np.mean(returns)) / np.std(returns), rtol=1e-12)
    discounted = np.array([0.5 * 1 + 0.25 * 2, 1 + 0.5 * 2, 2, 4])
    found = reinforce_plus_plus(credit, rewards="steps", gamma=0.5, ddof=0, eps=0.0)
    np.testing.assert_allclose(found, (discounted - discounted.mean()) / discounted.std(), rtol=1e-12)


def test_a_step_that_ends_with_an_environments_tokens_pays_the_policys_last_one() -> None:
    mask = [[True, False, True, False], [True]]
    credit = stepped([0.0, 0.0], [[2, 2], [1]], mask=mask, reward=[[1.0, 2.0], [0.0]])
    found = reinforce_plus_plus(credit, rewards="steps", gamma=0.5, ddof=0, eps=0.0)
    returns = np.array([1 + 0.5 * 2, 2, 0])
    np.testing.assert_allclose(found[credit.mask], (returns - returns.mean()) / returns.std(), rtol=1e-12)
    assert not found[~credit.mask].any()


def test_rewards_of_steps_that_are_missing_or_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match=r"no column 'step\.reward'"):
        reinforce_plus_plus(stepped([1.0], [[1]]), rewards="steps")
    with pytest.raises(DataError, match=r"row 1, column 'step\.reward': expected finite numbers"):
        reinforce_plus_plus(stepped([1.0, 0.0], [[1], [1]], reward=[[1.0], [float("nan")]]), rewards="both")


def test_a_kl_without_a_reference_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no column 'token\.logprob'"):
        reinforce_plus_plus(credit_of(REWARDS, tokens=TOKENS), kl_coef=0.1)


@pytest.mark.parametrize("floor", ["add", "clamp"])
def test_equal_returns_give_exactly_0(floor: Any) -> None:
    credit = credit_of([0.7] * 12, tokens=[[1, 2, 3]] * 12)
    assert not reinforce_plus_plus(credit, floor=floor).any()
    assert not reinforce_plus_plus(credit_of([0.7], tokens=[[1]]), floor=floor).any()
    assert not reinforce_plus_plus(credit_of([0.7, 0.1], tokens=[[], []]), floor=floor).any()


def test_the_floor_stands_in_the_root() -> None:
    credit = credit_of([2.0, 0.0])  # population variance 1
    np.testing.assert_allclose(reinforce_plus_plus(credit, ddof=0, eps=3.0), [0.5, -0.5])
    np.testing.assert_allclose(reinforce_plus_plus(credit, ddof=0, eps=4.0, floor="clamp"), [0.5, -0.5])
    np.testing.assert_allclose(reinforce_plus_plus(credit, ddof=0, eps=0.5, floor="clamp"), [1, -1])


def oracle(credit: Credit, gamma: float, kl_coef: float) -> list[float]:
    """The definition, token by token from the end."""
    logprob, reference = (credit.rollouts.ragged(f"token.{name}") for name in ("logprob", "reference_logprob"))
    returns: list[float] = []
    for row, outcome in enumerate(credit.reward.tolist()):
        back: list[float] = []
        for place in reversed(range(len(logprob[row]))):
            reward = (outcome if not back else 0.0) - kl_coef * (
                float(logprob[row][place]) - float(reference[row][place])
            )
            back.append(reward + gamma * (back[-1] if back else 0.0))
        returns += back[::-1]
    mean = sum(returns) / len(returns)
    variance = sum((each - mean) ** 2 for each in returns) / (len(returns) - 1)
    return [(each - mean) / (variance + 1e-8) ** 0.5 for each in returns]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "kl_coef"), [(1.0, 0.0), (0.97, 0.0), (0.9, 0.3)])
def test_agrees_with_the_definition_on_random_rollouts(seed: int, gamma: float, kl_coef: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 40, 8)
    logprob, reference = ([(-rng.random(size)).tolist() for size in sizes] for _ in range(2))
    credit = with_logprobs(rng.random(8).tolist(), logprob, reference)
    found = reinforce_plus_plus(credit, gamma=gamma, kl_coef=kl_coef)
    np.testing.assert_allclose(found, oracle(credit, gamma, kl_coef), rtol=1e-9, atol=1e-9)
