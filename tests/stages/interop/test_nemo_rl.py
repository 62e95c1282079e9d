"""NeMo-RL's estimator on recorded calls: arguments of the shape that grpo_train passes. NeMo-RL itself is not run here."""

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError, UsageError
from apportion.stages.interop.nemo_rl import Credit, install

from .conftest import CreditOfFile

Turns = list[tuple[str, list[int]]]

# Groups of three. The first rollout calls a tool; the prompt of both groups is the same.
LOGS: list[Turns] = [
    [("user", [1, 2]), ("assistant", [5, 7]), ("environment", [90]), ("assistant", [9, 3])],
    [("user", [1, 2]), ("assistant", [5, 8])],
    [("user", [1, 2]), ("assistant", [5, 7, 4])],
    [("user", [1, 2]), ("assistant", [6])],
    [("user", [1, 2]), ("assistant", [6, 2])],
    [("user", [1, 2]), ("assistant", [6, 3])],
]
REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 1.0]


def recorded(
    logs: Sequence[Turns], rewards: Sequence[float], *, sample_mask: Sequence[float] | None = None
) -> dict[str, Any]:
    """What compute_advantage gets: sequences are padded on the right to a multiple of four; tokens stand in messages."""
    message_log = [
        [{"role": role, "token_ids": torch.tensor(ids), "content": ""} for role, ids in turns] for turns in logs
    ]
    longest = max(sum(len(ids) for _, ids in turns) for turns in logs)
    mask = torch.zeros(len(logs), (longest + 3) // 4 * 4)
    for row, turns in enumerate(logs):
        own = [float(role == "assistant") for role, ids in turns for _ in ids]
        mask[row, : len(own)] = torch.tensor(own) * (1.0 if sample_mask is None else sample_mask[row])
    return {
        "prompt_ids": torch.tensor([[1, 2]] * len(logs)), "rewards": torch.tensor(rewards), "mask": mask,
        "repeated_batch": {"message_log": message_log, "total_reward": torch.tensor(rewards)},
        "logprobs_policy": torch.full(mask.shape, -0.5), "logprobs_reference": None,
    }  # fmt: skip


def as_rows(logs: Sequence[Turns], rewards: Sequence[float], size: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, (turns, reward) in enumerate(zip(logs, rewards, strict=True)):
        ids = [token for _, each in turns[1:] for token in each]
        own = [role == "assistant" for role, each in turns[1:] for _ in each]
        edges = np.flatnonzero(np.diff([0, *own, 0])).reshape(-1, 2)
        rows.append(
            {"ids": ids, "own": own, "reward": reward, "group": number // size, "spans": [tuple(edge) for edge in edges.tolist()],
             "token.logprob": [-0.5 * each for each in own]}
        )  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("method", "options"), [("rloo", {}), ("tempo", {}), ("turn_return", {"scale": "std"}), ("spo_tree", {})]
)
def test_a_recorded_call_gives_what_assign_credit_gives(
    method: str, options: dict[str, Any], credit_of_file: CreditOfFile
) -> None:
    call = recorded(LOGS, REWARDS)
    found = Credit(method, group_size=3, **options).compute_advantage(**call)
    assert (found.shape, found.dtype) == (call["mask"].shape, torch.float32)
    expected = credit_of_file(method, as_rows(LOGS, REWARDS, 3), **options)
    assert np.any(np.concatenate(expected))
    for row, values in enumerate(expected):
        np.testing.assert_allclose(found[row, 2 : 2 + len(values)], values, atol=1e-6)
    assert not found[call["mask"] == 0].any()


def test_equal_prompts_are_no_group() -> None:
    """The recorded prompts are all alike; two groups of three have their own baselines."""
    found = Credit("rloo", group_size=3).compute_advantage(**recorded(LOGS, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    assert not found.any()
    with pytest.raises(UsageError, match="equal prompts may be of two groups; give group_size"):
        Credit("rloo").compute_advantage(**recorded(LOGS, REWARDS))
    with pytest.raises(DataError, match="6 rows are no whole groups of 4"):
        Credit("rloo", group_size=4).compute_advantage(**recorded(LOGS, REWARDS))


def test_numbers_of_groups_may_stand_in_the_place_of_prompts() -> None:
    """The recorded shape of releases with pull request 3882: one number a row; groups may be uneven and in any order."""
    call = recorded(LOGS, [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]) | {"prompt_ids": torch.tensor([7, 7, 3, 3, 3, 7])}
    found = Credit("rloo").compute_advantage(**call)
    np.testing.assert_allclose(found[:, 2], [1.0, -0.5, 0.5, 0.5, -1.0, -0.5])
    with pytest.raises(DataError, match="prompt_ids: 2 groups for 6 rows"):
        Credit("rloo").compute_advantage(**call | {"prompt_ids": torch.tensor([0, 1])})


def test_who_takes_part() -> None:
    """NaN and valid_mask leave a row out of its group; a mask alone only makes its credit 0, as in NeMo-RL's estimators."""
    logs = LOGS[:3]
    nan = Credit("rloo", group_size=3).compute_advantage(**recorded(logs, [1.0, float("nan"), 0.0]))
    assert nan[:, 2].tolist() == [1.0, 0.0, -1.0]
    call = recorded(logs, [1.0, 5.0, 0.0])
    invalid = Credit("rloo", group_size=3).compute_advantage(**call, valid_mask=torch.tensor([1.0, 0.0, 1.0]))
    assert invalid[:, 2].tolist() == [1.0, 0.0, -1.0]
    masked = Credit("rloo", group_size=3).compute_advantage(
        **recorded(logs, [1.0, 1.0, 0.0], sample_mask=[1.0, 0.0, 1.0])
    )
    assert masked[:, 2].tolist() == [0.5, 0.0, -1.0]
    empty = Credit("tempo", group_size=3).compute_advantage(**recorded(logs, [1.0, 1.0, 0.0], sample_mask=[0.0] * 3))
    assert not empty.any()


@pytest.mark.parametrize("method", ["rloo", "turn_return"])
def test_without_tokens_methods_that_need_none_go_on(method: str) -> None:
    """A recorded shape: the data plane hands over rewards and masks alone, and older releases no batch at all."""
    call = recorded(LOGS, REWARDS)
    expected = Credit(method, group_size=3).compute_advantage(**call)
    for batch in (None, {"total_reward": call["rewards"]}):
        found = Credit(method, group_size=3).compute_advantage(**call | {"repeated_batch": batch})
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"repeated_batch": None}, UsageError, "tempo compares tokens, and this path of NeMo-RL hands none"),
        ({"rewards": torch.ones(2)}, DataError, "rewards: 2 values for 6 rows"),
        ({"mask": torch.ones(6, 8)}, DataError, "row 0: the mask of 8 tokens is not that of its 7 message tokens"),
        ({"repeated_batch": {"message_log": []}}, DataError, "message_log: 0 rows for 6 of mask"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Credit("tempo", group_size=3).compute_advantage(**recorded(LOGS, REWARDS) | change)


@pytest.mark.parametrize("form", ["mapping", "model"])
def test_install_stands_where_the_estimator_is_made(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the recorded name takes the place of nemo_rl.algorithms.grpo."""
    grpo = ModuleType("nemo_rl.algorithms.grpo")
    algorithms = ModuleType("nemo_rl.algorithms")
    algorithms.grpo = grpo  # type: ignore[attr-defined]
    for name, module in (("nemo_rl", ModuleType("nemo_rl")), ("nemo_rl.algorithms", algorithms), (grpo.__name__, grpo)):
        monkeypatch.setitem(sys.modules, name, module)
    install("rloo")
    config = {"num_generations_per_prompt": 3}
    made = grpo._create_advantage_estimator(
        {"grpo": config} if form == "mapping" else SimpleNamespace(grpo=SimpleNamespace(**config))
    )
    expected = Credit("rloo", group_size=3).compute_advantage(**recorded(LOGS, REWARDS))
    np.testing.assert_array_equal(made.compute_advantage(**recorded(LOGS, REWARDS)), expected)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("mapo", {}, "mapo needs 'step.reward', which NeMo-RL does not have"),
    ],
)
def test_what_cannot_work_fails_before_the_loop(method: str, options: dict[str, Any], message: str) -> None:
    for make in (Credit, install):
        with pytest.raises(UsageError, match=message):
            make(method, **options)
