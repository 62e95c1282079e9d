"""slime's hooks on recorded calls: samples and rollout_data of the shape that slime passes. slime itself is not run here."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile
from apportion.stages.interop.slime import Credit
from typer.testing import Result

from .conftest import CreditOfFile


@dataclass
class Sample:
    """The fields of slime.utils.types.Sample that the hooks meet."""

    index: int
    group_index: int | None
    tokens: list[int]
    response_length: int
    reward: Any
    loss_mask: list[int] | None = None
    remove_sample: bool = False
    rollout_log_probs: list[float] | None = None
    rollout_id: int | None = None

    def get_reward_value(self, args: Any) -> float:
        return self.reward if not args.reward_key else self.reward[args.reward_key]


def arguments(**change: Any) -> Any:
    known = {"reward_key": None, "normalize_advantages": False, "advantage_estimator": "grpo"}
    return SimpleNamespace(**known | {"custom_advantage_function_path": "my_credit.advantages"} | change)


def uneven() -> list[Sample]:
    """Groups of three and of two, not in their order. The first calls a tool, whose two tokens are masked."""
    rows: list[tuple[int, list[int], float, list[int] | None]] = [
        (4, [5, 7, 90, 91, 9, 3], 1.0, [1, 1, 0, 0, 1, 1]), (9, [6], 0.0, None), (4, [5, 8], 0.0, [1, 1]),
        (9, [6, 2], 1.0, None), (4, [5, 7, 4], 0.5, [1, 1, 1]),
    ]  # fmt: skip
    return [
        Sample(40 + place, group, [1, 2, *ids], len(ids), reward, mask, rollout_log_probs=[-0.5] * len(ids))
        for place, (group, ids, reward, mask) in enumerate(rows)
    ]


def as_rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for sample in samples:
        own = [bool(each) for each in sample.loss_mask or [1] * sample.response_length]
        edges = np.flatnonzero(np.diff([0, *own, 0])).reshape(-1, 2)
        rows.append(
            {"ids": sample.tokens[-sample.response_length :], "own": own, "reward": sample.reward, "group": sample.group_index,
             "spans": [tuple(edge) for edge in edges.tolist()], "token.logprob": sample.rollout_log_probs}
        )  # fmt: skip
    return rows


def rank(samples: Sequence[Sample], *, local: Sequence[int] | None = None) -> dict[str, Any]:
    """rollout_data on a rank that got these samples. local: tokens of each on this rank of context parallelism."""
    lengths = [sample.response_length for sample in samples]
    return {
        "sample_indices": [sample.index for sample in samples], "tokens": [torch.tensor(sample.tokens) for sample in samples],
        "response_lengths": lengths, "total_lengths": [len(sample.tokens) for sample in samples],
        "kl": [torch.zeros(length) for length in local or lengths], "rewards": [0.0] * len(samples),
    }  # fmt: skip


def train(credit: Credit, samples: Sequence[Sample], ranks: Sequence[Sequence[int]]) -> dict[int, list[float]]:
    """Both hooks as slime calls them; → the advantages of each sample by its index."""
    found: dict[int, list[float]] = {}
    for places in ranks:
        data = rank([samples[place] for place in places])
        credit.advantages(arguments(), data)
        assert [each.tolist() for each in data["returns"]] == [each.tolist() for each in data["advantages"]]
        found |= {index: each.tolist() for index, each in zip(data["sample_indices"], data["advantages"], strict=True)}
    return found


@pytest.mark.parametrize(
    ("method", "options"), [("rloo", {}), ("tempo", {}), ("turn_return", {"scale": "std"}), ("spo_tree", {})]
)
def test_recorded_calls_give_ranks_what_assign_credit_gives(
    method: str, options: dict[str, Any], credit_of_file: CreditOfFile, tmp_path: Path
) -> None:
    credit, samples = Credit(method, folder=tmp_path / "shared", **options), uneven()
    raw, rewards = credit.rewards(arguments(), samples)
    assert raw == rewards == [1.0, 0.0, 0.0, 1.0, 0.5]
    found = train(credit, samples, [[0, 3], [4, 1, 2]])  # groups are spread over ranks
    expected = credit_of_file(method, as_rows(samples), **options)
    assert np.any(np.concatenate(expected))
    for sample, values in zip(samples, expected, strict=True):
        np.testing.assert_allclose(found[sample.index], values, atol=1e-6)


def test_the_file_between_the_hooks_is_a_rollout_file(cli: Callable[..., Result], tmp_path: Path) -> None:
    Credit("tempo", folder=tmp_path).save(arguments(), uneven())
    (path,) = tmp_path.glob("*.parquet")
    assert cli("validate", path).exit_code == 0
    assert cli("inspect", path).exit_code == 0
    batch = RolloutFile(path).read()
    assert [name.split("-")[0] for name in batch.strings("rollout_id")] == ["40", "42", "44", "41", "43"]
    assert batch.arrow("prompt_ids").to_pylist() == [[1, 2]] * 5


def test_an_asynchronous_loop_finds_each_batch(tmp_path: Path) -> None:
    """The next batch is there before this one is trained; a sample that was trained before is found in the newest."""
    credit, first = Credit("rloo", folder=tmp_path), uneven()
    credit.rewards(arguments(), first)
    (old,) = tmp_path.glob("*.parquet")
    os.utime(old, (1, 1))
    second = [Sample(60 + place, 9, [1, 8], 1, reward) for place, reward in enumerate([3.0, 1.0])]
    credit.rewards(arguments(), [first[0], first[2], *second])
    assert train(credit, first, [[1, 3]]) == {41: [-1.0], 43: [1.0, 1.0]}
    assert train(credit, [*first, *second], [[0, 5, 6]]) == {40: [1.0, 1.0, 0.0, 0.0, 1.0, 1.0], 60: [2.0], 61: [-2.0]}


def test_siblings_of_one_rollout_are_parts_of_one_episode(tmp_path: Path) -> None:
    """A recorded shape: a rollout that was split into samples with one rollout_id, and here with one index, too."""
    samples = [Sample(7, 0, [1, 5 + part], 1, 1.0, rollout_id=3) for part in range(3)]
    samples.append(Sample(8, 0, [1, 5, 5], 2, 0.0, rollout_id=4))
    credit = Credit("rloo", folder=tmp_path)
    # As rows, 1, 1, 1 and 0: +1/3 each. As two episodes, 1 and 0: +1 and -1.
    assert credit.save(arguments(), samples) == [[1.0], [1.0], [1.0], [-1.0, -1.0]]
    data = rank([samples[2], samples[0]])
    credit.advantages(arguments(), data)
    assert [each.tolist() for each in data["advantages"]] == [[1.0], [1.0]]
    with pytest.raises(DataError, match="tempo compares rollouts token by token"):
        Credit("tempo", folder=tmp_path).save(arguments(), samples)


def test_who_takes_part(tmp_path: Path) -> None:
    """None and NaN leave a sample out of its group; remove_sample only makes its credit 0, as in slime's own reward norm."""
    samples = [Sample(place, 0, [1, 5, 6], 2, reward) for place, reward in enumerate([1.0, None, float("nan"), 0.0])]
    credit = Credit("rloo", folder=tmp_path)
    assert credit.save(arguments(), samples) == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [-1.0, -1.0]]
    removed = [
        Sample(place, 0, [1, 5, 6], 2, reward, remove_sample=place == 1) for place, reward in enumerate([1.0, 1.0, 0.0])
    ]
    assert credit.save(arguments(), removed) == [[0.5, 0.5], [0.0, 0.0], [-1.0, -1.0]]
    empty = [Sample(place, 0, [1], 0, reward, loss_mask=[]) for place, reward in enumerate([1.0, 0.0])]
    assert Credit("tempo", folder=tmp_path).save(arguments(), empty) == [[], []]
    keyed = [Sample(place, 0, [1, 5], 1, {"acc": reward}) for place, reward in enumerate([1.0, 0.0])]
    assert credit.rewards(arguments(reward_key="acc"), keyed)[0] == [1.0, 0.0]


def test_one_hook_is_enough_where_a_samples_tokens_have_one_credit(tmp_path: Path) -> None:
    alone = arguments(custom_advantage_function_path=None)
    raw, scalars = Credit("rloo", folder=tmp_path).rewards(alone, uneven())
    assert (raw, scalars) == ([1.0, 0.0, 0.0, 1.0, 0.5], [0.75, -1.0, -0.75, 1.0, 0.0])
    for method, args in (
        ("tempo", alone),
        ("rloo", arguments(custom_advantage_function_path=None, advantage_estimator="ppo")),
    ):
        with pytest.raises(UsageError, match="set --custom-advantage-function-path"):
            Credit(method, folder=tmp_path).rewards(args, uneven())


def test_context_parallelism_takes_the_local_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the recorded name cuts credit as slime cuts log-probabilities; this one takes the last tokens."""
    cp_utils = ModuleType("slime.backends.megatron_utils.cp_utils")
    cp_utils.slice_log_prob_with_cp = lambda values, total, length: values[total - length :]  # type: ignore[attr-defined]
    folder = ModuleType("slime.backends.megatron_utils")
    folder.cp_utils = cp_utils  # type: ignore[attr-defined]
    for name in ("slime", "slime.backends"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, folder.__name__, folder)
    credit, samples = Credit("rloo", folder=tmp_path), uneven()[:1] + uneven()[2:3]
    credit.save(arguments(), samples)
    data = rank(samples, local=[4, 0])
    credit.advantages(arguments(), data)
    assert [each.tolist() for each in data["advantages"]] == [[0.0, 0.0, 1.0, 1.0], []]
    with pytest.raises(DataError, match=r"sample 40-\w+: credit of 4 tokens, expected 3"):
        credit.advantages(arguments(), rank(samples, local=[3, 0]))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    credit, samples = Credit("rloo", folder=tmp_path), uneven()
    credit.save(arguments(), samples)
    samples[0].tokens[-1] = 77
    with pytest.raises(DataError, match=r"has no credit of sample 40-\w+; all nodes must share the folder"):
        credit.advantages(arguments(), rank(samples))
    with pytest.raises(UsageError, match="--normalize-advantages changes the credit"):
        credit.advantages(arguments(normalize_advantages=True), rank(samples))
    with pytest.raises(DataError, match="sample 40: loss_mask has 1 values for 6 response tokens"):
        credit.save(arguments(), [Sample(40, 0, [1, 2, 3, 4, 5, 6, 7], 6, 1.0, [1])])
    with pytest.raises(DataError, match="sample 40 has no group_index"):
        credit.save(arguments(), [Sample(40, None, [1], 1, 1.0)])
    with pytest.raises(DataError, match="two samples 40 have the same tokens, but not the same credit"):
        credit.save(arguments(), [Sample(40, 0, [1, 5], 1, reward) for reward in (1.0, 0.0)])
    with pytest.raises(DataError, match=r"needs 'token.logprob', and row 0 has none"):
        Credit("spo_tree", folder=tmp_path).save(arguments(), [Sample(40, 0, [1, 5], 1, 1.0)])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("mapo", {}, "mapo needs 'step.reward', which slime does not have"),
    ],
)
def test_what_cannot_work_fails_when_the_module_is_imported(
    method: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        Credit(method, folder=tmp_path, **options)
