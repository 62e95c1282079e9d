from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit

grpo = METHODS["grpo"].assign
hepo = METHODS["hepo"].assign


def uncertain(rewards: list[float], entropy: list[list[float]], **kwargs: Any) -> Credit:
    batch = rollouts_of(rewards, tokens=[list(range(len(row))) for row in entropy], **kwargs)
    return Credit(batch.with_columns({"token.entropy": Ragged.from_lists(entropy, np.float32)}))


def test_a_fifth_of_all_tokens_of_the_file() -> None:
    # 10 tokens, k = 2: the entropies 3 and 2, in the first rollout of the first group and the second of the second.
    entropy = [[0.1, 3.0, 0.2], [0.1, 0.1], [0.5, 0.4], [0.3, 2.0, 0.2]]
    found = hepo(uncertain([1.0, 0.0, 1.0, 0.0], entropy, groups=[0, 0, 1, 1]), scale="none")
    assert found.tolist() == [0, 0.5, 0, 0, 0, 0, 0, 0, -0.5, 0]


def test_all_tokens_reduce_to_grpo_and_none_to_zero() -> None:
    credit = uncertain([1.0, 0.0, 0.5], [[1.0, 2.0], [0.0], [3.0, 1.0]])
    np.testing.assert_array_equal(hepo(credit, rho=1), credit.tokens.spread(grpo(credit)))
    assert not hepo(credit, rho=0).any()


def test_the_earlier_of_equals_comes_first() -> None:
    assert hepo(uncertain([1.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]), rho=0.5, scale="none").tolist() == [0.5, 0.5, 0, 0]


def test_the_share_is_not_lost_to_rounding() -> None:
    credit = uncertain([1.0, 0.0], [[float(place) for place in range(50)]] * 2)
    assert np.count_nonzero(hepo(credit, rho=0.29)) == 29


def test_environment_tokens_are_neither_counted_nor_chosen() -> None:
    plain = hepo(uncertain([1.0, 0.0], [[1.0, 2.0], [3.0, 0.0]]), rho=0.5)
    mask = [[False, True, True], [True, False, True]]
    holed = hepo(uncertain([1.0, 0.0], [[9.0, 1.0, 2.0], [3.0, 9.0, 0.0]], mask=mask), rho=0.5)
    np.testing.assert_array_equal(holed[[1, 2, 3, 5]], plain)
    assert not holed[[0, 4]].any()


def test_equal_rewards_groups_of_one_and_empty_responses() -> None:
    assert not hepo(uncertain([0.7] * 3, [[1.0], [2.0], []]), rho=1).any()
    assert not hepo(uncertain([1.0], [[1.0, 2.0]]), rho=1).any()
    assert hepo(uncertain([0.5], [[1.0, 2.0]]), rho=0.5, scale="none", singleton="raw").tolist() == [0, 0.5]


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(DataError, match=r"'token\.entropy'"):
        hepo(credit_of([1.0, 0.0]))
    with pytest.raises(UsageError, match=r"rho must be between 0 and 1, got 1\.5"):
        METHODS.settle("hepo", {"rho": 1.5})
    credit = uncertain([1.0, 0.0], [[1.0], [1.0]])
    absent = Ragged(np.array([1.0]), np.array([0, 1, 1]), np.array([True, False]))
    with pytest.raises(DataError, match=r"row 1, column 'token\.entropy'"):
        hepo(Credit(credit.rollouts.with_columns({"token.entropy": absent})))
