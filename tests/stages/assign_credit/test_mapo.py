from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS, Credit

mapo = METHODS["mapo"].assign

NAN = float("nan")
PAID = [[1.0, 0.5, 0.8], [0.3, 0.6]]  # methods A, MAPO: gamma .85; immediate mean .64, std0 .241661


def test_worked_example() -> None:
    credit = stepped([0.0, 0.0], [[1, 1, 1], [1, 1]], reward=PAID)
    np.testing.assert_allclose(mapo(credit), [1.244845, 0.210338, 0.331042, -1.203465, -0.582761], atol=1e-5)
    np.testing.assert_allclose(
        mapo(credit, alpha=0.4, beta=0.6), [1.293814, 0.052406, 0.397251, -1.244158, -0.499313], atol=1e-5
    )
    np.testing.assert_allclose(mapo(credit, alpha=1, beta=0), [1, 1, 0, -1, -1], atol=1e-6)
    np.testing.assert_allclose(mapo(credit, statistics="group"), mapo(credit))


def test_the_batch_is_the_whole_file_and_the_group_is_not() -> None:
    credit = stepped([0.0] * 4, [[1]] * 4, reward=[[1.0], [0.0], [5.0], [4.0]], groups=[0, 0, 1, 1])
    options: Any = {"alpha": 0.0, "beta": 1.0}
    np.testing.assert_allclose(mapo(credit, statistics="group", **options), [1, -1, 1, -1], atol=1e-6)
    std = np.std([1.0, 0, 5, 4])
    np.testing.assert_allclose(mapo(credit, **options), (np.array([1.0, 0, 5, 4]) - 2.5) / std, atol=1e-6)
    # The same turn index of another prompt is no sibling.
    np.testing.assert_allclose(mapo(credit, alpha=1.0, beta=0.0), [1, -1, 1, -1], atol=1e-6)


def test_equal_rewards_give_exactly_zero() -> None:
    assert not mapo(stepped([0.0] * 3, [[2, 1]] * 3, reward=[[0.7, 0.7]] * 3)).any()


def test_a_reward_the_judge_could_not_give_is_the_mean_of_the_dialogue() -> None:
    sizes = [[1, 1, 1], [1, 1]]
    failed = mapo(stepped([0.0] * 2, sizes, reward=[[1.0, NAN, 0.5], [0.3, 0.6]]))
    np.testing.assert_allclose(failed, mapo(stepped([0.0] * 2, sizes, reward=[[1.0, 0.75, 0.5], [0.3, 0.6]])))
    none = mapo(stepped([0.0] * 2, sizes, reward=[[NAN] * 3, [0.3, 0.6]]))
    np.testing.assert_allclose(none, mapo(stepped([0.0] * 2, sizes, reward=[[0.0] * 3, [0.3, 0.6]])))
    with pytest.raises(DataError, match=r"row 0, column 'step\.reward'"):
        mapo(stepped([0.0] * 2, sizes, reward=[[1.0, NAN, 0.5], [0.3, 0.6]]), failed="error")


def test_a_turn_that_the_limit_cut_off_unjudged_takes_no_part() -> None:
    sizes, paid = [[1, 1, 2], [1, 1]], [[1.0, 0.5, NAN], [0.3, 0.6]]
    credit = stepped([0.0] * 2, sizes, reward=paid)
    cut = Credit(credit.rollouts.with_flag("truncated", np.array([True, False])))
    without = mapo(stepped([0.0] * 2, [[1, 1], [1, 1]], reward=[[1.0, 0.5], [0.3, 0.6]]))
    np.testing.assert_allclose(mapo(cut, failed="error"), [*without[:2], 0, 0, *without[2:]])
    # A turn in the middle, or one of a rollout that ended by itself, is the judge's failure.
    middle = stepped([0.0] * 2, sizes, reward=[[1.0, NAN, 0.5], [0.3, 0.6]])
    middle = Credit(middle.rollouts.with_flag("truncated", np.array([True, True])))
    for failed in (credit, middle):
        with pytest.raises(DataError, match="a turn without a reward"):
            mapo(failed, failed="error")


def test_turns_of_an_environment_change_nothing_and_get_nothing() -> None:
    bare = mapo(stepped([0.0] * 2, [[1, 1], [1, 1]], reward=[[1.0, 0.5], [0.2, 0.4]]))
    mask = [[True, False, False, True], [True, True]]
    credit = stepped([0.0] * 2, [[1, 2, 1], [1, 1]], mask=mask, reward=[[1.0, NAN, 0.5], [0.2, 0.4]])
    np.testing.assert_allclose(mapo(credit)[credit.mask], bare)
    assert not mapo(credit)[~credit.mask].any()


def test_empty_responses_and_missing_columns() -> None:
    assert len(mapo(stepped([0.0, 0.0], [[], []], reward=[[], []]))) == 0
    with pytest.raises(DataError, match=r"step\.reward.*reward given for the step"):
        mapo(stepped([0.0], [[1]]))
