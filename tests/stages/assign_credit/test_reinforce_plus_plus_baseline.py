from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

reinforce_plus_plus_baseline = METHODS["reinforce_plus_plus_baseline"].assign

TOKENS = [[1, 2], [3, 4, 5], [6], [7, 8]]  # lengths 2, 3, 1, 2 (methods A, REINFORCE++)
REWARDS, GROUPS = [1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({}, [1.348076, -1.048503, 0.149786, 0.149786]),
        ({"ddof": 0, "floor": "clamp"}, [1.441153, -1.120897, 0.160128, 0.160128]),
    ],
    ids=["verl", "openrlhf"],
)
def test_worked_example(options: dict[str, Any], values: list[float]) -> None:
    found = reinforce_plus_plus_baseline(credit_of(REWARDS, tokens=TOKENS, groups=GROUPS), **options)
    np.testing.assert_allclose(found, np.repeat(values, [2, 3, 1, 2]), atol=1e-6)


def test_a_dead_group_is_moved_by_the_batchs_mean_unless_rollouts_are_counted() -> None:
    credit = credit_of(REWARDS, tokens=TOKENS, groups=GROUPS)
    assert (reinforce_plus_plus_baseline(credit)[5:] > 0.1).all()
    # Of c = 1/2, -1/2, 0, 0 the mean is 0 and the sample variance 1/6.
    found = reinforce_plus_plus_baseline(credit, unit="rollout", eps=0.0)
    np.testing.assert_allclose(found, np.repeat([np.sqrt(1.5), -np.sqrt(1.5), 0, 0], [2, 3, 1, 2]), rtol=1e-12)


def test_equal_rewards_give_exactly_0() -> None:
    credit = credit_of([0.7] * 12 + [0.3] * 2, tokens=[[1, 2, 3]] * 14, groups=[0] * 12 + [1] * 2)
    assert not reinforce_plus_plus_baseline(credit).any()
    assert not reinforce_plus_plus_baseline(credit, unit="rollout", ddof=0, eps=0.0).any()


def test_a_group_of_one_is_centred_to_0_or_left_raw() -> None:
    credit = credit_of([1.0, 0.0, 0.5], groups=[0, 0, 1])
    np.testing.assert_allclose(reinforce_plus_plus_baseline(credit, eps=0.0), [1, -1, 0], atol=1e-12)
    # c = 1/2, -1/2, 1/2: mean 1/6, sample variance 1/3.
    raw = reinforce_plus_plus_baseline(credit, eps=0.0, singleton="raw")
    np.testing.assert_allclose(raw, np.array([1 / 3, -2 / 3, 1 / 3]) / np.sqrt(1 / 3), rtol=1e-12)
    with pytest.raises(DataError, match="alone in its group"):
        reinforce_plus_plus_baseline(credit, singleton="error")


def test_environment_tokens_are_not_counted() -> None:
    plain = reinforce_plus_plus_baseline(credit_of([1.0, 0.0], tokens=[[1, 2], [3]]))
    tokens, mask = [[1, 9, 9, 2], [9, 3]], [[True, False, False, True], [False, True]]
    holed = reinforce_plus_plus_baseline(credit_of([1.0, 0.0], tokens=tokens, mask=mask))
    np.testing.assert_array_equal(holed[[0, 3, 5]], plain)
    assert not holed[[1, 2, 4]].any()


def test_an_empty_response_counts_in_its_groups_mean() -> None:
    found = reinforce_plus_plus_baseline(credit_of([1.0, 0.0, 1.0, 0.0], tokens=[[3], [], [4], [5]], groups=GROUPS))
    # c = 1/2, 1/2 and -1/2 on the tokens: mean 1/6, sample variance 1/3.
    np.testing.assert_allclose(found, np.array([1 / 3, 1 / 3, -2 / 3]) / np.sqrt(1 / 3), rtol=1e-6)
