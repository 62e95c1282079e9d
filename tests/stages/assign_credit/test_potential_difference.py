from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS

potential_difference = METHODS["potential_difference"].assign

NAN = float("nan")


def test_before_each_step() -> None:
    credit = stepped([1.0, 0.0], [[1, 1, 1], [1]], value=[[0.5, 0.25, 0.75], [0.5]])
    np.testing.assert_allclose(potential_difference(credit), [-0.25, 0.5, 0.25, -0.5])


def test_after_each_step_without_a_reward_the_last_potential_stays() -> None:
    credit = stepped([1.0], [[1, 1, 1]], score=[[0.2, 0.2, 0.9]])
    options: Any = {"potential": "step.score", "measured": "after"}
    np.testing.assert_allclose(potential_difference(credit, rewards="none", **options), [0.2, 0, 0.7])
    np.testing.assert_allclose(potential_difference(credit, rewards="none", initial=0.2, **options), [0, 0, 0.7])
    np.testing.assert_allclose(potential_difference(credit, **options), [0.2, 0, 0.8])  # the reward is paid instead


@pytest.mark.parametrize("measured", ["before", "after"])
@pytest.mark.parametrize("smear", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_steps_of_a_rollout_add_up_to_its_outcome(seed: int, smear: float, measured: Any) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, 8)
    value = [rng.random(n).tolist() for n in counts]
    reward = rng.random(8)
    credit = stepped(reward.tolist(), [[1] * n for n in counts], value=value)
    found = credit.tokens.sum(potential_difference(credit, smear=smear, measured=measured))
    start = [row[0] for row in value] if measured == "before" else np.zeros(8)
    np.testing.assert_allclose(found, reward - start, atol=1e-12)


def test_smear_shares_a_change_with_the_steps_before_it() -> None:
    credit = stepped([0.0], [[1, 1, 1]], value=[[0.0, 0.0, 1.4]])
    found = potential_difference(credit, smear=0.5, rewards="none", measured="after")
    np.testing.assert_allclose(found, [0.2, 0.4, 0.8])  # weights 1/7, 2/7, 4/7


def test_gamma_discounts_the_next_potential() -> None:
    credit = stepped([1.0], [[1, 1]], value=[[0.5, 0.8]])
    np.testing.assert_allclose(potential_difference(credit, gamma=0.5), [0.4 - 0.5, 1 - 0.8])


def test_a_step_that_was_not_measured_leaves_its_change_to_the_next_that_was() -> None:
    credit = stepped([1.0, 0.0], [[1, 1, 1], [1]], value=[[0.5, NAN, 0.75], [NAN]])
    np.testing.assert_allclose(potential_difference(credit), [0, 0.25, 0.25, 0])
    np.testing.assert_allclose(potential_difference(credit, initial=0.25), [0, 0.25, 0.25, -0.25])


def test_step_rewards_are_added() -> None:
    credit = stepped([1.0], [[1, 1]], value=[[0.5, 0.5]], reward=[[0.1, -0.1]])
    np.testing.assert_allclose(potential_difference(credit, rewards="steps"), [0.1, -0.6])
    np.testing.assert_allclose(potential_difference(credit, rewards="both"), [0.1, 0.4])


def test_what_an_environment_changed_goes_to_the_step_before() -> None:
    mask = [[True, False, True]]
    credit = stepped([1.0], [[1, 1, 1]], mask=mask, value=[[0.5, 0.25, 0.75]])
    np.testing.assert_allclose(potential_difference(credit), [0.25, 0, 0.25])  # -0.25 and 0.5 of the environment
    inside = stepped([1.0], [[2, 1]], mask=mask, value=[[0.5, 0.75]])
    np.testing.assert_allclose(potential_difference(inside), [0.25, 0, 0.25])


def test_empty_responses_and_missing_columns() -> None:
    assert len(potential_difference(stepped([1.0], [[]], value=[[]]))) == 0
    with pytest.raises(DataError, match=r"no column 'step\.value'.*--with values"):
        potential_difference(stepped([1.0], [[1]]))
