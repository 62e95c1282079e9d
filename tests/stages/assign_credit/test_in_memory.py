"""Methods on padded tensors, as a trainer calls them."""

from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError, UsageError
from apportion.stages.assign_credit import credit_tokens
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit

tempo = METHODS["tempo"].assign

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
IDS = [[5, 7, 9, 2, 0], [5, 7, 8, 2, 0], [5, 6, 4, 0, 0], [5, 7, 9, 3, 2]]
REWARDS = [1.0, 0.0, 1.0, 0.0]


def padded(device: str = "cpu") -> dict[str, Any]:
    ids = torch.tensor(IDS, device=device)
    return {"reward": torch.tensor(REWARDS, device=device), "group": [0] * 4, "token_ids": ids, "mask": ids > 0}


@pytest.mark.parametrize("device", DEVICES)
def test_the_credit_is_that_of_the_file_and_comes_back_where_it_came_from(device: str) -> None:
    found = credit_tokens("tempo", **padded(device))
    assert (found.device.type, found.dtype, found.shape) == (device, torch.float32, (4, 5))
    expected = tempo(credit_of(REWARDS, tokens=[[token for token in row if token] for row in IDS]))
    np.testing.assert_allclose(found.cpu().numpy()[np.array(IDS) > 0], expected, rtol=1e-6)
    assert not found.cpu().numpy()[np.array(IDS) == 0].any()


@pytest.mark.parametrize("device", DEVICES)
def test_the_order_of_rows_means_nothing(device: str) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 4, (12, 6))
    mask = np.arange(6) < rng.integers(0, 7, 12)[:, None]
    group, reward = rng.integers(0, 3, 12), rng.random(12)
    order = rng.permutation(12)

    def credit(rows: Any) -> Any:
        shown = {"reward": reward[rows], "token_ids": ids[rows], "mask": mask[rows]}
        given: dict[str, Any] = {name: torch.tensor(value, device=device) for name, value in shown.items()}
        return credit_tokens(
            "spo_tree", group=torch.tensor(group[rows]), **given,
            signals={"token.logprob": torch.full((12, 6), -1.0, dtype=torch.bfloat16)},
        )  # fmt: skip

    np.testing.assert_allclose(credit(order).cpu(), credit(np.arange(12)).cpu()[order], atol=1e-6)


def test_masked_tokens_are_part_of_the_response_and_padding_is_not() -> None:
    ids = np.array([[5, 90, 7, 0], [5, 90, 8, 90]])
    mask = np.array([[1, 0, 1, 0], [1, 0, 1, 0]])
    found = credit_tokens("tempo", reward=[1.0, 0.0], group=["a", "a"], token_ids=ids, mask=mask, lengths=[3, 4])
    batch = rollouts_of(
        [1.0, 0.0], tokens=[[5, 90, 7], [5, 90, 8, 90]], mask=[[True, False, True], [True, False, True, False]]
    )
    from apportion.stages.structure.prefix_tree import add_prefix_tree

    expected = tempo(Credit(add_prefix_tree(batch)))
    np.testing.assert_allclose(
        np.concatenate((found[0, :3], found[1])),
        np.where(mask.ravel().astype(bool)[[0, 1, 2, 4, 5, 6, 7]], expected, 0),
        rtol=1e-6,
    )
    assert isinstance(found, np.ndarray)


@pytest.mark.parametrize("method", ["tempo", "grpo"])
def test_rows_padded_on_the_left_are_refused(method: str) -> None:
    """Their common beginnings are padding, and a tree of them is wrong."""
    shown = padded()
    ids = torch.stack([row.roll(int((row == 0).sum())) for row in shown["token_ids"]])
    left = {**shown, "token_ids": ids, "mask": ids > 0}
    with pytest.raises(
        DataError, match="row 0 begins with tokens that mask excludes: expected responses padded on the"
    ):
        credit_tokens(method, **left)
    with pytest.raises(DataError, match="row 0: mask is true beyond the row's length; expected padding on the right"):
        credit_tokens(method, **left, lengths=(ids > 0).sum(1))


def test_an_environment_may_begin_where_lengths_say_so() -> None:
    ids, mask = np.array([[90, 5, 7], [90, 5, 0]]), np.array([[0, 1, 1], [0, 1, 0]])
    found = credit_tokens("rloo", reward=[1.0, 0.0], group=[0, 0], token_ids=ids, mask=mask, lengths=[3, 2])
    assert found.tolist() == [[0.0, 1.0, 1.0], [0.0, -1.0, 0.0]]


@pytest.mark.parametrize("name", ["grpo", "rloo", "passk", "maxrl", "reinforce_plus_plus"])
def test_presets_and_options_reach_the_method(name: str) -> None:
    preset = next(iter(METHODS[name].presets))
    assert credit_tokens(name, **padded(), preset=preset).shape == (4, 5)
    with pytest.raises(UsageError, match=r"credit method .*: unknown option"):
        credit_tokens(name, **padded(), nonsense=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": torch.ones(4, 4)}, DataError, "expected two of"),
        ({"group": [0]}, DataError, "group: 1 values for 4 rollouts"),
        ({"reward": [1.0]}, DataError, r"signal 'reward' of shape \(1,\)"),
        ({"signals": {"token.logprob": torch.ones(4)}}, DataError, r"signal 'token.logprob' of shape \(4,\)"),
        ({"method": "gae"}, DataError, "needs 'token.value', which is not among the signals"),
        ({"method": "gigpo"}, UsageError, "needs 'step.start'"),
        ({"method": "tempoo"}, UsageError, "did you mean 'tempo'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        credit_tokens(**{"method": "grpo", **padded(), **change})
