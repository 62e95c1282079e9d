"""How token losses become one number, on three rollouts of two prompts with 2, 1 and 3 trained tokens."""

from typing import get_args

import numpy as np
import pytest
from apportion.formats.ragged import Ragged
from apportion.stages.models.examples import Examples, micro_batches
from apportion.stages.train._loop import Aggregation, coefficients

MASK = [[True, True, False], [True], [True, True, True, False]]
LONGEST = 10


def examples_of(weight: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Examples:
    """Prompts of 2, 1 and 3 tokens; the first two rollouts are of one group."""
    return Examples(
        sequences=Ragged.from_lists([[1, 2, 3, 4, 5], [1, 6], [7, 8, 9, 1, 2, 3, 4]], np.int32),
        prompt_sizes=np.array([2, 1, 3]),
        mask=Ragged.from_lists(MASK, bool),
        group=np.array([0, 0, 1]),
        weight=np.array(weight),
        temperature=np.ones(3),
    )


@pytest.mark.parametrize(
    ("aggregation", "first", "second", "third"),
    [
        ("token-mean", 1 / 6, 1 / 6, 1 / 6),
        ("seq-mean-token-mean", 1 / (3 * 2), 1 / (3 * 1), 1 / (3 * 3)),
        ("seq-mean-token-sum", 1 / 3, 1 / 3, 1 / 3),
        ("seq-mean-token-sum-norm", 1 / (3 * 10), 1 / (3 * 10), 1 / (3 * 10)),
        ("group-mean-token-mean", 1 / (2 * 3), 1 / (2 * 3), 1 / (2 * 3)),
    ],
)
def test_what_a_token_counts(aggregation: Aggregation, first: float, second: float, third: float) -> None:
    found = coefficients(examples_of(), np.arange(3), aggregation, LONGEST)
    np.testing.assert_allclose(found, [first, first, 0, second, third, third, third, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("aggregation", "each"),
    [
        ("token-mean", [1 / 4, 1 / 4]),  # 1 + 3 trained tokens
        ("seq-mean-token-mean", [1 / 2, 1 / 6]),
        ("seq-mean-token-sum", [1 / 2, 1 / 2]),
        ("seq-mean-token-sum-norm", [1 / 20, 1 / 20]),
        ("group-mean-token-mean", [1 / (2 * 1), 1 / (2 * 3)]),
    ],
)
def test_only_the_rows_of_the_minibatch_count(aggregation: Aggregation, each: list[float]) -> None:
    found = coefficients(examples_of(), np.array([1, 2]), aggregation, LONGEST)
    np.testing.assert_allclose(found, [each[0], each[1], each[1], each[1], 0], rtol=1e-12)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_the_weight_of_a_rollout_multiplies_its_tokens(aggregation: Aggregation) -> None:
    plain = coefficients(examples_of(), np.arange(3), aggregation, LONGEST)
    weighted = coefficients(examples_of((0.5, 0.0, 2.0)), np.arange(3), aggregation, LONGEST)
    np.testing.assert_allclose(weighted, plain * [0.5, 0.5, 0.5, 0, 2, 2, 2, 2], rtol=1e-12)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean", "group-mean-token-mean"])
def test_the_coefficients_of_a_mean_sum_to_one(aggregation: Aggregation) -> None:
    assert coefficients(examples_of(), np.arange(3), aggregation, LONGEST).sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("budget", [1, 7, 10, 14, 100])
def test_micro_batches_hold_every_trained_token_once_where_it_stands(budget: int) -> None:
    examples = examples_of()
    coefficient = coefficients(examples, np.arange(3), "token-mean", LONGEST)
    found: dict[int, tuple[int, float]] = {}
    for batch in micro_batches(examples, np.arange(3), coefficient, budget):
        assert batch.ids.size <= budget or len(batch.ids) == 1
        for row, position, place, weight in zip(batch.row, batch.position, batch.place, batch.coefficient, strict=True):
            assert int(place) not in found
            found[int(place)] = (int(batch.ids[row, position]), float(weight))
    assert found == {place: (token, 1 / 6) for place, token in {0: 3, 1: 4, 3: 6, 4: 1, 5: 2, 6: 3}.items()}


def test_micro_batches_leave_out_a_rollout_without_gradient() -> None:
    examples = examples_of((1.0, 0.0, 1.0))
    coefficient = coefficients(examples, np.arange(3), "token-mean", LONGEST)
    assert sum(len(batch.ids) for batch in micro_batches(examples, np.arange(3), coefficient, 100)) == 2


def test_the_logits_kept_reach_the_first_response_token() -> None:
    examples = examples_of()
    coefficient = coefficients(examples, np.arange(3), "token-mean", LONGEST)
    [batch] = micro_batches(examples, np.arange(3), coefficient, 100)
    first_kept = batch.ids.shape[1] - batch.keep
    assert first_kept == (batch.position - 1).min()
