"""Preference pairs: the loss on numbers, and training on pairs of the built-in model's right and wrong rollouts."""

import json
from collections.abc import Callable
from math import exp, inf, log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.examples import micro_batches, to_examples
from apportion.stages.models.policy import load_policy
from apportion.stages.train._loop import minibatches
from apportion.stages.train.kind import OBJECTIVES, PairBatch
from apportion.stages.train.objectives.dpo import dpo
from safetensors.torch import load_file
from torch import Tensor

Train = Callable[..., Path]
Metrics = Callable[[Path], list[dict[str, float]]]


def pair_of(chosen: float, rejected: float, reference: tuple[float, float], tokens: int = 1) -> PairBatch:
    values = [torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected, *reference, float(tokens))]
    for value in values[:2]:
        value.requires_grad_()
    return PairBatch(*values)


@pytest.mark.parametrize(("nll_coef", "expected"), [(0.0, 0.545893), (0.05, 0.565893)])
def test_the_worked_example(nll_coef: float, expected: float) -> None:
    """margin = 0.4 · ((-3.2 + 3.0) - (-6.5 + 5.5)) = 0.32; of 8 tokens the likelihood term is 0.05 · 3.2/8."""
    loss, metrics = dpo(pair_of(-3.2, -6.5, (-3.0, -5.5), tokens=8), beta=0.4, nll_coef=nll_coef)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["margin"].item() == pytest.approx(0.32)
    assert metrics["chosen_reward"].item() == pytest.approx(-0.08)
    assert metrics["rejected_reward"].item() == pytest.approx(-0.4)
    assert metrics["accuracy"].item() == 1


def test_the_gradient_is_beta_times_how_wrong_the_pair_is() -> None:
    """Equation 7's gradient: beta · sigmoid(-margin), up for the chosen half and down for the other."""
    pair = pair_of(-4.0, -3.0, (-3.0, -3.0))
    loss, metrics = dpo(pair, beta=0.5)
    loss.sum().backward()
    share = 0.5 / (1 + exp(0.5 * (-4.0 + 3.0)))
    assert pair.chosen.grad is not None
    assert pair.rejected.grad is not None
    assert (pair.chosen.grad.item(), pair.rejected.grad.item()) == pytest.approx((-share, share), rel=1e-12)
    assert metrics["accuracy"].item() == 0


@pytest.fixture(scope="module")
def pairs_file(credit_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair of each group that has right and wrong rollouts, the rejected row before the chosen one in some."""
    return with_pairs(credit_file, tmp_path_factory.mktemp("pairs") / "pairs.parquet", lambda ids, roles: None)


def with_pairs(source: Path, out: Path, change: Callable[[list[Any], list[Any]], None]) -> Path:
    """`change(pair_ids, roles)` spoils what is said of the rows."""
    rollouts = RolloutFile(source).read()
    reward, groups = rollouts.numbers("reward"), rollouts.groups.ids
    ids: list[str | None] = [None] * len(rollouts)
    roles: list[str | None] = [None] * len(rollouts)
    for group in range(len(rollouts.groups)):
        rows = np.flatnonzero(groups == group)
        right, wrong = rows[reward[rows] == 1], rows[reward[rows] < 1]
        if len(right) and len(wrong):
            for row, role in ((right[0], "chosen"), (wrong[0], "rejected")):
                ids[row], roles[row] = f"pair {group}", role
    change(ids, roles)
    columns = {"pair_id": pa.array(ids, pa.string()), "pair_role": pa.array(roles, pa.string())}
    write_rollouts(out, [rollouts.with_columns(columns)], RolloutFile(source).provenance)
    return out


def halves(rollouts: Rollouts) -> list[tuple[int, int]]:
    """(chosen, rejected) rows of every pair."""
    ids, roles = rollouts.strings("pair_id"), rollouts.strings("pair_role")
    place = {(name, role): row for row, (name, role) in enumerate(zip(ids, roles, strict=True)) if name}
    return [(place[name, "chosen"], place[name, "rejected"]) for name in dict.fromkeys(filter(None, ids))]


def own_loss(model: Any, rollouts: Rollouts, reference: Any, beta: float) -> Tensor:
    """The definition: whole sequences one by one, sums over the response."""

    def total(model: Any, row: int) -> Tensor:
        prompt, ids = rollouts.ragged("prompt_ids")[row].tolist(), rollouts.token_ids[row].tolist()
        logprobs = torch.log_softmax(model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1], -1)
        return logprobs.gather(1, torch.tensor(ids)[:, None]).sum()

    losses: list[Tensor] = []
    for chosen, rejected in halves(rollouts):
        with torch.no_grad():
            before = total(reference, chosen) - total(reference, rejected)
        losses.append(-torch.nn.functional.logsigmoid(beta * (total(model, chosen) - total(model, rejected) - before)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("micro_tokens", [100_000, 1])
def test_the_update_is_the_definitions(
    pairs_file: Path, trained: Train, metrics_of: Metrics, micro_tokens: int
) -> None:
    """After one step from nothing, Adam's first moment is (1 - beta1) times the gradient."""
    options: dict[str, Any] = {"objective": "dpo", "max_grad_norm": 0.0, "micro_tokens": micro_tokens}
    checkpoint = trained(pairs_file, settings={"beta": 0.3}, **options)
    [entry] = metrics_of(checkpoint)
    assert entry["loss"] == pytest.approx(log(2), abs=1e-5), "the policy is its own reference"
    assert entry["margin"] == pytest.approx(0, abs=1e-4)
    policy = load_policy("builtin:tiny", device="cpu", shared=False)
    rollouts = RolloutFile(pairs_file).read()
    own_loss(policy.model, rollouts, policy.model, 0.3).backward()
    moments = load_file(checkpoint / "optimizer.safetensors")
    for name, parameter in policy.model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(moments[f"{name}.exp_avg"], 0.1 * parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_reference_may_be_another_policy(pairs_file: Path, trained: Train, metrics_of: Metrics) -> None:
    start = trained(pairs_file, "start", objective="dpo", lr=1e-3, epochs=3)
    [entry] = metrics_of(trained(pairs_file, model=str(start), reference="builtin:tiny", objective="dpo"))
    policy, reference = (load_policy(spec, device="cpu").model for spec in (str(start), "builtin:tiny"))
    with torch.no_grad():
        expected = own_loss(policy, RolloutFile(pairs_file).read(), reference, 0.1).item()
    assert entry["loss"] == pytest.approx(expected, abs=1e-4)
    assert entry["loss"] < log(2) - 0.01


def test_pairs_are_learnt(pairs_file: Path, trained: Train, metrics_of: Metrics) -> None:
    log_ = metrics_of(trained(pairs_file, objective="dpo", lr=1e-3, epochs=10, settings={"beta": 0.3}))
    assert log_[-1]["accuracy"] > 0.9
    assert log_[-1]["loss"] < 0.5 * log_[0]["loss"]
    assert log_[-1]["chosen_reward"] > log_[-1]["rejected_reward"]


def test_minibatches_and_micro_batches_hold_whole_pairs(pairs_file: Path) -> None:
    for wanted, sizes in ((4, [4, 4, 2]), (5, [4, 4, 2]), (1, [2] * 5), (0, [10])):
        parts = list(minibatches(10, wanted, 1, seed=0, together=2))
        assert [len(part) for part in parts] == sizes
        assert sorted(np.concatenate(parts)) == list(range(10))
        for part in parts:
            assert (part.reshape(-1, 2) % 2 == [0, 1]).all()
            assert (np.diff(part.reshape(-1, 2)) == 1).all()
    rollouts = RolloutFile(pairs_file).read()
    rows = np.array(halves(rollouts)).ravel()
    examples = to_examples(rollouts.take(rows), credit=None, old_logprobs=False)
    everything = examples.mask.values.astype(np.float64)
    for budget in (1, 60, 100_000):
        batches = list(micro_batches(examples, np.arange(len(rows)), everything, budget, together=2))
        for batch in batches:
            assert (batch.rows.reshape(-1, 2) % 2 == [0, 1]).all()
            assert (np.diff(batch.rows.reshape(-1, 2)) == 1).all()
            assert batch.ids.size <= budget or len(batch.rows) == 2
        assert sorted(row for batch in batches for row in batch.rows) == list(range(len(rows)))


def test_the_temperature_of_sampling_is_none_of_its_business(
    credit_file_of: Callable[..., Path], tmp_path: Path, trained: Train, metrics_of: Metrics
) -> None:
    """A preference, and a likelihood, are of the policy; only ratios are of the distribution that was sampled."""
    source = credit_file_of(temperature=0.5)
    file = with_pairs(source, tmp_path / "pairs.parquet", lambda ids, roles: None)
    checkpoint = trained(file, objective="dpo", max_grad_norm=0.0)
    policy = load_policy("builtin:tiny", device="cpu", shared=False)
    own_loss(policy.model, RolloutFile(file).read(), policy.model, 0.1).backward()
    moments = load_file(checkpoint / "optimizer.safetensors")
    for name, parameter in policy.model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(moments[f"{name}.exp_avg"], 0.1 * parameter.grad, rtol=1e-3, atol=1e-6)
    [entry] = metrics_of(trained(source, "sft", objective="sft"))
    raw = RolloutFile(source).read().ragged("token.raw_logprob").values
    assert entry["loss"] == pytest.approx(-raw.mean(), abs=1e-4)


def first(role: str) -> Callable[[list[Any], list[Any]], None]:
    """Forget the first row of that role."""

    def change(ids: list[Any], roles: list[Any]) -> None:
        row = roles.index(role)
        ids[row] = roles[row] = None

    return change


@pytest.mark.parametrize("role", ["chosen", "rejected"])
def test_a_half_without_the_other_is_left_out_and_told(
    credit_file: Path, tmp_path: Path, trained: Train, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    file = with_pairs(credit_file, tmp_path / "pairs.parquet", first(role))
    ids = [name for name in RolloutFile(file).read().strings("pair_id") if name]
    checkpoint = trained(file, objective="dpo")
    said = capsys.readouterr().err
    count = len(set(ids))
    assert f"1 of {count} pairs left out, since one half cannot be trained" in said
    assert json.loads((checkpoint / "apportion.json").read_text())["history"][-1]["counts"]["rollouts"] == 2 * (
        count - 1
    )


def doubled(ids: list[Any], roles: list[Any]) -> None:
    free = ids.index(None)
    row = roles.index("chosen")
    ids[free], roles[free] = ids[row], "chosen"


def misnamed(ids: list[Any], roles: list[Any]) -> None:
    roles[roles.index("rejected")] = "worse"


def emptied(ids: list[Any], roles: list[Any]) -> None:
    ids[:] = roles[:] = [None] * len(ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (doubled, "has more than one row of pair_role 'chosen'"),
        (misnamed, "pair_role 'worse', expected 'chosen' or 'rejected'"),
        (emptied, "no preference pair in it whose both rows can be trained"),
    ],
)
def test_what_is_no_pair_is_refused(
    credit_file: Path, tmp_path: Path, trained: Train, change: Callable[..., None], message: str
) -> None:
    file = with_pairs(credit_file, tmp_path / "pairs.parquet", change)
    with pytest.raises(DataError, match=message):
        trained(file, objective="dpo")


def test_a_file_without_pairs_says_what_makes_them(credit_file: Path, trained: Train) -> None:
    with pytest.raises(
        DataError, match="no column 'pair_id', which dpo needs; run `apportion sample --from IN --strat"
    ):
        trained(credit_file, objective="dpo")


@pytest.mark.parametrize(
    "options", [{"beta": 0.0}, {"beta": -0.1}, {"beta": inf}, {"nll_coef": -1.0}, {"nll_coef": inf}]
)
def test_options_without_a_meaning_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"objective dpo: {name}"):
        OBJECTIVES.settle("dpo", options)
