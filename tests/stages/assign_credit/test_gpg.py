from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit.kind import METHODS

dr_grpo = METHODS["dr_grpo"].assign
gpg = METHODS["gpg"].assign
grpo = METHODS["grpo"].assign

# Two of three groups differ, 4 of 6 rollouts; 3 of 6 rewards are not 0.
REWARDS, GROUPS = [1.0, 0.0, 1.0, 0.0, 0.5, 0.5], [0, 0, 1, 1, 2, 2]


def test_live_groups_make_up_for_dead_ones() -> None:
    found = gpg(credit_of(REWARDS, groups=GROUPS))
    np.testing.assert_allclose(found, [0.75, -0.75, 0.75, -0.75, 0, 0], rtol=1e-12)  # α = 6 / 4


def test_rewards_that_are_not_0() -> None:
    found = gpg(credit_of(REWARDS, groups=GROUPS), live="nonzero")  # α = 6 / 4 again: 1, 1, .5, .5
    np.testing.assert_allclose(found, [0.75, -0.75, 0.75, -0.75, 0, 0], rtol=1e-12)
    found = gpg(credit_of([1.0, 0, 0, 0]), live="nonzero")  # α = 4
    np.testing.assert_allclose(found, [3, -1, -1, -1], rtol=1e-12)


def test_all_live_is_the_centred_reward_or_grpo() -> None:
    credit = credit_of([0.1, 0.9, 0.3, 0.2], groups=[0, 0, 1, 1])
    np.testing.assert_allclose(gpg(credit), dr_grpo(credit))
    np.testing.assert_allclose(gpg(credit_of(REWARDS, groups=GROUPS), live="all")[0], 0.5)
    np.testing.assert_allclose(gpg(credit, scale="std"), grpo(credit))


def test_f_norm_divides() -> None:
    credit = credit_of([*REWARDS, 1.0], groups=[*GROUPS, 3])
    choices: list[dict[str, Any]] = [{}, {"scale": "std"}, {"live": "nonzero", "singleton": "raw"}]
    for options in choices:
        np.testing.assert_allclose(gpg(credit, f_norm=2.5, **options), gpg(credit, **options) / 2.5, rtol=1e-12)
    with pytest.raises(UsageError, match="gpg: f_norm must be above 0, got 0"):
        METHODS.settle("gpg", {"f_norm": 0.0})


def test_dead_batches_and_groups_of_one() -> None:
    assert not gpg(credit_of([0.7] * 12)).any()
    assert not gpg(credit_of([0.7] * 12), scale="std", eps=0.0, live="nonzero").any()
    assert not gpg(credit_of([0.0, 0.0]), live="nonzero").any()
    assert gpg(credit_of([0.5])).tolist() == [0.0]
    # As in verl: the raw reward of the group of one, times α = 3 / 2.
    raw = gpg(credit_of([1.0, 0.0, 0.5], groups=[0, 0, 1]), live="nonzero", singleton="raw")
    np.testing.assert_allclose(raw, [0.75, -0.75, 0.75], rtol=1e-12)
    with pytest.raises(DataError, match="alone in its group"):
        gpg(credit_of([0.5]), singleton="error")
