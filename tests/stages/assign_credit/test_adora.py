"""ADORA's weights."""

from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit

adora = METHODS["adora"].assign


def group(rewards: list[float], lengths: list[int], **kwargs: Any) -> Credit:
    return credit_of(rewards, tokens=[[7] * length for length in lengths], **kwargs)


def preset(name: str, **others: Any) -> dict[str, Any]:
    return {**METHODS.settle("adora", {}, name), **others}


def test_worked_example_right_answers_are_shorter_and_what_was_cut_off_does_not_count() -> None:
    credit = group([1, 1, 0, 0], [100, 120, 300, 4096])
    expected = [0.086602, 0.086602, -0.086602, -0.086602]
    np.testing.assert_allclose(adora(credit, cap=4054), expected, atol=1e-6)
    np.testing.assert_allclose(adora(credit, cap=4054, low=1.0), np.array(expected) * 10, atol=1e-5)
    # The flag says the same, without a cap.
    flagged = credit.rollouts.with_flag("truncated", np.array([False, False, False, True]))
    np.testing.assert_array_equal(adora(Credit(flagged)), adora(credit, cap=4054))
    # Counted, it would not: the mean of 300 and 4096 is above 120, too. Without the 300 it decides.
    assert adora(group([1, 0], [500, 4096]), low=0.0).tolist() == [0.0, 0.0]
    assert adora(group([1, 0], [500, 4096]), low=0.0, cap=4096).tolist() != [0.0, 0.0]


def test_worked_example_amplify() -> None:
    credit = group([1, 0, 0, 0, 0], [9, 5, 5, 5, 5])
    np.testing.assert_allclose(adora(credit, mode="amplify"), [3.577701] + [-0.894425] * 4, atol=1e-5)
    np.testing.assert_allclose(adora(credit, mode="amplify", tau=0.1), [1.788850] + [-0.447213] * 4, atol=1e-5)
    short = group([1, 0, 0, 0, 0], [5, 9, 9, 9, 9])
    np.testing.assert_allclose(adora(short, mode="amplify"), [1.788850] + [-0.447213] * 4, atol=1e-5)


def test_worked_example_wrong_only_where_it_was_cut_off_in_both_releases() -> None:
    credit = group([1, 0], [5, 5000])
    weights = [adora(credit, **preset(name, correct=0.5))[0] / 0.7071 for name in ("llm", "vl")]
    np.testing.assert_allclose(weights, [1.0, 0.1], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "all_right", "all_wrong"), [("llm", 1.0, 0.1), ("vl", 0.1, 1.0)]
)  # fmt: skip
def test_groups_without_right_or_without_wrong_answers(name: str, all_right: float, all_wrong: float) -> None:
    """With a format reward beside the outcome they are not constant."""
    options = preset(name, correct=0.5)
    for rewards, weight in (([1.0, 0.8], all_right), ([0.2, 0.0], all_wrong)):
        plain = adora(group(rewards, [4, 4]), **preset(name, correct=0.5, low=1.0))
        np.testing.assert_allclose(adora(group(rewards, [4, 4]), **options), plain * weight, rtol=1e-12)


def test_equal_lengths_are_not_longer() -> None:
    assert adora(group([1, 0], [5, 5]), low=0.0).tolist() == [0.0, 0.0]
    assert adora(group([1, 0], [6, 5]), low=0.0).tolist() != [0.0, 0.0]


def test_every_group_has_its_own_weight() -> None:
    both = adora(group([1, 0, 1, 0], [9, 2, 2, 9], groups=[0, 0, 1, 1]))
    np.testing.assert_array_equal(both[:2], adora(group([1, 0], [9, 2])))
    np.testing.assert_array_equal(both[2:], adora(group([1, 0], [2, 9])))
    assert both[0] == pytest.approx(10 * both[2])


def test_lengths_are_those_of_the_policys_tokens() -> None:
    mask = [[True] * 3 + [False] * 9, [True] * 4]
    assert adora(group([1, 0], [12, 4], mask=mask), low=0.0).tolist() == [0.0, 0.0]


def remembered(success: list[float], right: list[float], wrong: list[float]) -> Credit:
    rollouts = rollouts_of([1.0, 0.0] * len(success), groups=[each // 2 for each in range(2 * len(success))])
    columns = {"problem.success": success, "problem.right_length": right, "problem.wrong_length": wrong}
    return Credit(rollouts.with_columns({path: np.repeat(values, 2) for path, values in columns.items()}))


def test_a_memory_stands_in_for_the_group() -> None:
    nan = float("nan")
    credit = remembered([0.5, 0.5, 1.0, 0.0, nan], [9, 9, 9, nan, nan], [5, 50, nan, 5, nan])
    weights = adora(credit, statistics="memory", eps=0.0)[::2] / 0.7071067811865476
    np.testing.assert_allclose(weights, [1.0, 0.1, 1.0, 0.1, 0.1])
    weights = adora(credit, statistics="memory", mode="amplify", eps=0.0)[::2] / 0.7071067811865476
    np.testing.assert_allclose(weights, [2.0, 1.0, 1.0, 1.0, 1.0])


def test_without_the_memory_it_says_how_to_get_one() -> None:
    with pytest.raises(
        DataError,
        match=r"no column 'problem.success', which adora needs; run .* --with problems --set memory=MEMORY .*statistics=group",
    ):
        adora(credit_of([1.0, 0.0]), statistics="memory")


def test_a_weight_below_0_is_refused() -> None:
    with pytest.raises(UsageError, match=r"credit method adora: low must be at least 0, got -0\.1"):
        METHODS.settle("adora", {"low": -0.1})
