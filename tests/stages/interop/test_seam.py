"""What the adapters share, without any trainer."""

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError
from apportion.stages.assign_credit import TokenCredit, credit_tokens
from apportion.stages.interop._seam import credit_rows, paid_in_turns, repad, unpad


def test_rows_of_one_length_that_begin_with_a_tools_tokens_are_no_padding() -> None:
    ids, own = [[90, 5, 7], [90, 5, 8]], [[False, True, True], [False, True, True]]
    with pytest.raises(DataError, match="row 0 begins with tokens that mask excludes"):
        credit_tokens("tempo", reward=[1.0, 0.0], group=[0, 0], token_ids=ids, mask=own)
    found, info = credit_rows(TokenCredit("tempo"), ids, own, reward=[1.0, 0.0], group=[0, 0])
    longer, _ = credit_rows(TokenCredit("tempo"), [*ids, [6]], [*own, [True]], reward=[1.0, 0.0, 1.0], group=[0, 0, 1])
    assert found == longer[:2] and info.tokens == 4
    assert found[0][0] == 0.0 and found[0][2] > 0 > found[1][2]


@pytest.mark.parametrize("left", [False, True])
def test_rows_come_back_to_the_places_they_were_in(left: bool) -> None:
    inside = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    inside = inside.flip(1) if left else inside
    values = torch.arange(12.0, dtype=torch.bfloat16).reshape(3, 4)
    rows = unpad(values, inside)
    assert [row.tolist() for row in rows] == [[2.0, 3.0] if left else [0.0, 1.0], [4.0, 5.0, 6.0, 7.0], []]
    back = repad(rows, inside)
    assert back.dtype == torch.float32
    assert torch.equal(back, torch.where(inside, values, 0).float())


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([1, 1, 0, 1, 0], [7.0, 24.0]),  # what follows a turn belongs to it
        ([0, 1, 1, 1, 1], [31.0]),  # what comes before the first, too
        ([1, 0, 1, 0, 1], [3.0, 12.0, 16.0]),
        ([0, 0, 0, 0, 0], []),
    ],
)
def test_every_turn_is_paid_what_comes_before_the_next(own: list[int], expected: list[float]) -> None:
    assert paid_in_turns(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array(own, bool)) == expected
