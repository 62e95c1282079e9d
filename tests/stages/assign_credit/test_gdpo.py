from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit

grpo = METHODS["grpo"].assign
gdpo = METHODS["gdpo"].assign


def several(rewards: dict[str, list[float]], **kwargs: Any) -> Credit:
    rows = len(next(iter(rewards.values())))
    columns = {f"rewards.{name}": np.array(values) for name, values in rewards.items()}
    return Credit(rollouts_of([0.0] * rows, **kwargs).with_columns(columns))


SCORES = {"helpful": [4.0, 5, 3, 2], "personal": [2.0, 1, 4, 2], "creative": [3.0, 3, 3, 5]}
THIRDS = dict.fromkeys(SCORES, 1 / 3)


def test_worked_example() -> None:
    # methods D, multi-reward, B: TRL's 1e-4 in both places.
    found = gdpo(several(SCORES), weights=THIRDS, eps=1e-4, batch="none")
    np.testing.assert_allclose(found, [-0.103782, -0.110488, 0.167810, 0.046460], atol=1e-6)
    found = gdpo(several(SCORES), weights=THIRDS, eps=1e-4, batch_eps=1e-4)
    np.testing.assert_allclose(found, [-0.778045, -0.828323, 1.258059, 0.348309], atol=1e-6)


def test_mixes_that_grpo_cannot_tell_apart() -> None:
    # Sums 1, 1 and 0: GRPO gives the first two the same. Here the rare reward weighs more.
    found = gdpo(several({"a": [1.0, 0, 0, 0], "b": [0.0, 1, 1, 0]}), batch="none")
    assert found[0] > found[1] + 0.1 > 0.1
    same = grpo(credit_of([1.0, 1, 1, 0]))
    assert same[0] == same[1]


def test_tokens_or_rollouts_of_the_batch() -> None:
    credit = several({"a": [1.0, 0.0]}, tokens=[[1, 2, 3], [4]])
    # S = ±.707107 on 3 tokens and 1: mean .353553, sample variance (3 · .125 + 1.125) / 3 = .5.
    found = gdpo(credit, eps=0.0, batch="token", batch_eps=0.0)
    np.testing.assert_allclose(found, [0.5, 0.5, 0.5, -1.5], atol=1e-12)
    # Over the two rollouts: mean 0, sample std 1.
    found = gdpo(credit, eps=0.0, batch="rollout", batch_eps=0.0)
    np.testing.assert_allclose(found, [0.707107, 0.707107, 0.707107, -0.707107], atol=1e-6)


def test_one_reward_without_the_batch_is_grpo() -> None:
    rewards, groups = [0.1, 0.7, 0.4, 1.0, 0.0], [0, 0, 0, 1, 1]
    found = gdpo(several({"a": rewards}, groups=groups), batch="none")
    np.testing.assert_allclose(found, grpo(credit_of(rewards, groups=groups)), rtol=1e-12)


def test_weights_choose_rewards() -> None:
    credit = several({"a": [1.0, 0.0], "b": [0.0, 1.0]})
    np.testing.assert_array_equal(gdpo(credit, weights={"a": 1}), gdpo(several({"a": [1.0, 0.0]})))
    assert not gdpo(credit).any()


def test_a_reward_that_is_constant_adds_exactly_0() -> None:
    varied, constant = [1.0, 0.0] * 6, [0.7] * 12
    np.testing.assert_array_equal(gdpo(several({"a": varied, "b": constant})), gdpo(several({"a": varied})))
    for batch in ("rollout", "token", "none"):
        assert not gdpo(several({"b": constant}), eps=0.0, batch=batch, batch_eps=0.0).any()  # type: ignore[arg-type]


def test_a_group_of_one() -> None:
    assert not gdpo(several({"a": [0.5]})).any()
    assert gdpo(several({"a": [0.5]}), batch="none", singleton="raw").tolist() == [0.5]
    with pytest.raises(DataError, match="alone in its group"):
        gdpo(several({"a": [0.5]}), singleton="error")


def test_environment_tokens_are_not_counted() -> None:
    plain = gdpo(several({"a": [1.0, 0.0]}, tokens=[[1, 2], [3]]), batch="token")
    tokens, mask = [[1, 9, 2], [3, 9, 9]], [[True, False, True], [True, False, False]]
    holed = gdpo(several({"a": [1.0, 0.0]}, tokens=tokens, mask=mask), batch="token")
    np.testing.assert_array_equal(holed[[0, 2, 3]], plain)
    assert not holed[[1, 4, 5]].any()


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(DataError, match=r"no column 'rewards\.NAME'"):
        gdpo(credit_of([1.0, 0.0]))
    with pytest.raises(DataError, match=r"row 1, column 'rewards\.a': nan"):
        gdpo(several({"a": [1.0, float("nan")]}))
    with pytest.raises(UsageError, match=r"no reward 'b' \(found: a\)"):
        gdpo(several({"a": [1.0, 0.0]}), weights={"b": 1.0})
    with pytest.raises(UsageError, match="weights must name at least one reward"):
        gdpo(several({"a": [1.0, 0.0]}), weights={})
