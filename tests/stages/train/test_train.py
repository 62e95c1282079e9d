"""One update and many, on rollouts of the built-in model."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from apportion.formats import parquet
from apportion.formats.errors import ApportionError, DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.models.examples import to_examples
from apportion.stages.models.policy import TINY, load_policy
from apportion.stages.sample import sample
from apportion.stages.train._loop import Settings, all_logprobs, learning_rate, minibatches
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

Train = Callable[..., Path]
Weights = Callable[[Path], dict[str, Tensor]]
Metrics = Callable[[Path], list[dict[str, float]]]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def logprobs_under(model: object, rollouts: Rollouts) -> np.ndarray[Any, Any]:
    """[T] what `model` gives the tokens of the rollouts."""
    examples = to_examples(rollouts, credit=None, old_logprobs=False)
    return all_logprobs(load_policy(str(model), device="cpu").model, examples, 0, torch.float32)


# ------------------------------------------------------------------------------------------------ the update


def test_micro_batches_give_the_update_of_one_batch(credit_file: Path, trained: Train, weights_of: Weights) -> None:
    options = {"lr": 1e-3, "aggregation": "seq-mean-token-mean"}
    whole = weights_of(trained(credit_file, "whole", micro_tokens=100_000, **options))
    split = weights_of(trained(credit_file, "split", micro_tokens=150, **options))
    start = load_file(TINY / "model.safetensors")
    assert max(float((whole[name] - start[name]).abs().max()) for name in start) > 5e-4
    # Adam divides by the gradient's size: where that is 1e-9, rounding decides; the bulk must agree to 1e-6.
    differences = torch.cat([(whole[name] - split[name]).abs().flatten() for name in start])
    assert float(differences.quantile(0.99)) < 1e-6


def test_micro_batches_give_the_gradient_of_one_batch(credit_file: Path, trained: Train) -> None:
    """After one step from nothing, Adam's first moment is (1 - beta1) times the gradient."""
    checkpoints = [trained(credit_file, f"micro-{size}", micro_tokens=size) for size in (100_000, 150)]
    whole, split = (load_file(path / "optimizer.safetensors") for path in checkpoints)
    moments = [name for name in whole if name.endswith(".exp_avg")]
    assert moments
    assert_close({name: split[name] for name in moments}, {name: whole[name] for name in moments}, atol=1e-7)


def test_accumulated_minibatches_are_averaged(credit_file: Path, trained: Train) -> None:
    """Two minibatches of 32 of 64 rollouts, each a mean over rollouts: their mean is the mean over all 64."""
    options = {"aggregation": "seq-mean-token-mean", "max_grad_norm": 0.0}
    one = trained(credit_file, "one", minibatch=64, **options)
    two = trained(credit_file, "two", minibatch=32, accumulate=2, **options)
    whole, halves = (load_file(path / "optimizer.safetensors") for path in (one, two))
    moments = [name for name in whole if name.endswith(".exp_avg")]
    assert_close({name: halves[name] for name in moments}, {name: whole[name] for name in moments}, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({}, 1),
        ({"epochs": 3}, 3),
        ({"minibatch": 16}, 4),
        ({"minibatch": 16, "accumulate": 2}, 2),
        ({"minibatch": 16, "accumulate": 3}, 2),
        ({"minibatch": 1000}, 1),
    ],
)
def test_how_many_updates_there_are(
    credit_file: Path, trained: Train, metrics_of: Metrics, options: dict[str, int], updates: int
) -> None:
    log = metrics_of(trained(credit_file, **options))
    assert [entry["update"] for entry in log] == list(range(updates))


def test_every_epoch_goes_through_all_rows_once() -> None:
    parts = list(minibatches(10, 4, 2, seed=0))
    assert [len(part) for part in parts] == [4, 3, 3, 4, 3, 3]
    for epoch in (parts[:3], parts[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(10))
    assert [part.tolist() for part in parts[:3]] != [part.tolist() for part in parts[3:]]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_on_fresh_rollouts_the_ratio_is_one(
    credit_file_of: Callable[..., Path], trained: Train, metrics_of: Metrics, temperature: float
) -> None:
    [entry] = metrics_of(trained(credit_file_of(temperature=temperature)))
    assert entry["ratio"] == pytest.approx(1, abs=1e-5)
    assert entry["kl_old"] == pytest.approx(0, abs=1e-7)
    assert entry["clipped"] == 0


def test_recomputed_logprobs_are_the_recorded_ones(
    credit_file: Path, trained: Train, weights_of: Weights, metrics_of: Metrics
) -> None:
    recorded = RolloutFile(credit_file).read()
    found = logprobs_under("builtin:tiny", recorded)
    np.testing.assert_allclose(found, recorded.ragged("token.logprob").values, atol=5e-5)
    [entry] = metrics_of(trained(credit_file, old_logprobs="recompute"))
    assert entry["ratio"] == pytest.approx(1, abs=1e-6)


def test_an_update_makes_good_tokens_likelier_and_bad_ones_less_likely(credit_file: Path, trained: Train) -> None:
    rollouts = RolloutFile(credit_file).read()
    advantage = rollouts.ragged("token.advantage").values
    change = logprobs_under(trained(credit_file), rollouts) - logprobs_under("builtin:tiny", rollouts)
    assert change[advantage > 0].mean() > 0
    assert change[advantage < 0].mean() < 0


def test_updates_stay_near_the_reference_with_a_penalty(credit_file: Path, trained: Train) -> None:
    rollouts = RolloutFile(credit_file).read()
    start = logprobs_under("builtin:tiny", rollouts)

    def distance(name: str, **options: Any) -> float:
        checkpoint = trained(credit_file, name, epochs=6, lr=3e-4, settings=options.pop("settings", {}), **options)
        return float(np.square(logprobs_under(checkpoint, rollouts) - start).mean())

    kept = distance("kept", reference="builtin:tiny", settings={"kl_coef": 5.0})
    assert kept < 0.7 * distance("free")


def test_the_same_seed_gives_the_same_weights(credit_file: Path, trained: Train, weights_of: Weights) -> None:
    first, again = (trained(credit_file, name, minibatch=16) for name in ("first", "again"))
    assert_close(weights_of(first), weights_of(again), atol=0)


# ------------------------------------------------------------------------------------------------ what is trained on


def rewritten(source: Path, target: Path, columns: Callable[[Rollouts], dict[str, Any]]) -> Path:
    """The file with columns replaced."""
    file = RolloutFile(source)
    rollouts = file.read()
    write_rollouts(target, [rollouts.with_columns(columns(rollouts))], file.provenance)
    return target


def test_masked_tokens_get_no_gradient(
    credit_file: Path, tmp_path: Path, trained: Train, weights_of: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment tokens may carry any number, in every column but their id: the update is the same."""

    def with_mask(rollouts: Rollouts, advantage_of_masked: float, logprob_of_masked: float) -> dict[str, Any]:
        ids = rollouts.token_ids
        mask = ids.segments.positions % 3 != 1
        return {
            "token.mask": ids.with_values(mask),
            "token.advantage": ids.with_values(
                np.where(mask, rollouts.ragged("token.advantage").values, advantage_of_masked).astype(np.float32)
            ),
            "token.logprob": ids.with_values(
                np.where(mask, rollouts.ragged("token.logprob").values, logprob_of_masked).astype(np.float32)
            ),
        }

    clean = rewritten(credit_file, tmp_path / "clean.parquet", lambda rollouts: with_mask(rollouts, 0.0, 0.0))
    loud, rollouts = tmp_path / "loud.parquet", RolloutFile(credit_file).read()
    # Writer and reader refuse credit outside the mask, so the loud file goes past both.
    pq.write_table(rollouts.with_columns(with_mask(rollouts, 100.0, -7.0)).table, loud)
    with pytest.raises(DataError, match=r"token\.mask excludes"):
        trained(loud, "loud")
    monkeypatch.setattr(parquet, "check_batch", lambda *arguments, **options: None)
    assert_close(weights_of(trained(clean, "clean")), weights_of(trained(loud, "loud")), atol=0)


def test_probes_evals_and_failed_rows_are_not_trained_on(
    credit_file: Path, tmp_path: Path, trained: Train, weights_of: Weights
) -> None:
    file = RolloutFile(credit_file)
    rollouts = file.read()
    kind = np.arange(len(rollouts)) % 4
    purposes = np.array(["train", "probe", "eval", "train"])[kind].tolist()
    mixed = rollouts.with_columns({"purpose": purposes, "flags": [["error"] if k == 3 else [] for k in kind]})
    write_rollouts(tmp_path / "mixed.parquet", [mixed], file.provenance)
    write_rollouts(tmp_path / "train.parquet", [rollouts.take(np.flatnonzero(kind == 0))], file.provenance)
    found = weights_of(trained(tmp_path / "mixed.parquet", "mixed"))
    assert_close(found, weights_of(trained(tmp_path / "train.parquet", "train")), atol=0)


def test_a_directory_is_trained_on_as_one_file(
    credit_file: Path, tmp_path: Path, trained: Train, weights_of: Weights
) -> None:
    file = RolloutFile(credit_file)
    rollouts = file.read()
    parts = tmp_path / "parts"
    parts.mkdir()
    write_rollouts(parts / "a.parquet", [rollouts.slice(0, 24)], file.provenance)
    write_rollouts(parts / "b.parquet", [rollouts.slice(24, 64)], file.provenance)
    assert_close(weights_of(trained(parts)), weights_of(trained(credit_file, "whole")), atol=0)


def test_weights_of_rollouts_scale_the_loss(
    credit_file: Path, tmp_path: Path, trained: Train, weights_of: Weights
) -> None:
    """Weight 0 in all but one group is training on that group alone, under a sum."""
    file = RolloutFile(credit_file)
    rollouts = file.read()
    live = int(np.flatnonzero(rollouts.groups.any(rollouts.arrow("reward").to_numpy() == 1))[0])
    weight = np.where(rollouts.groups.ids == live, 1.0, 0.0)
    write_rollouts(tmp_path / "weighted.parquet", [rollouts.with_columns({"weight": weight})], file.provenance)
    options = {"aggregation": "seq-mean-token-sum", "max_grad_norm": 0.0}
    checkpoint = trained(tmp_path / "weighted.parquet", "weighted", **options)
    moments = load_file(checkpoint / "optimizer.safetensors")
    write_rollouts(tmp_path / "alone.parquet", [rollouts.take(np.flatnonzero(weight))], file.provenance)
    alone = load_file(trained(tmp_path / "alone.parquet", "alone", **options) / "optimizer.safetensors")
    share = len(np.flatnonzero(weight)) / len(rollouts)
    name = "model.layers.0.mlp.up_proj.weight.exp_avg"
    torch.testing.assert_close(moments[name], alone[name] * share, rtol=1e-3, atol=1e-8)


# ------------------------------------------------------------------------------------------------ continued runs


def test_two_runs_of_one_update_are_one_run_of_two(
    credit_file: Path, trained: Train, weights_of: Weights, metrics_of: Metrics
) -> None:
    together = trained(credit_file, "together", epochs=2, warmup=3)
    first = trained(credit_file, "first", warmup=3)
    second = trained(credit_file, "second", warmup=3, model=str(first))
    assert_close(weights_of(second), weights_of(together), atol=1e-7)
    assert_close(load_file(second / "optimizer.safetensors"), load_file(together / "optimizer.safetensors"), atol=1e-7)
    assert metrics_of(second)[0]["update"] == 1
    assert metrics_of(second)[0]["lr"] == metrics_of(together)[1]["lr"] == pytest.approx(1e-4 * 2 / 3)
    with safe_open(second / "optimizer.safetensors", framework="pt") as stored:
        assert stored.metadata()["updates"] == "2"


def test_a_fresh_optimizer_forgets(credit_file: Path, trained: Train, metrics_of: Metrics) -> None:
    first = trained(credit_file, "first")
    second = trained(credit_file, "second", model=str(first), fresh_optimizer=True)
    assert metrics_of(second)[0]["update"] == 0
    with safe_open(second / "optimizer.safetensors", framework="pt") as stored:
        assert stored.metadata()["updates"] == "1"


def test_moments_of_another_objective_are_left(
    credit_file: Path, trained: Train, weights_of: Weights, metrics_of: Metrics, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained(credit_file, "first", objective="sft")
    second = trained(credit_file, "second", model=str(first))
    assert "state beside the model is of objective 'sft'; 'ppo' begins anew" in capsys.readouterr().err
    assert metrics_of(second)[0]["update"] == 0
    anew = trained(credit_file, "anew", model=str(first), fresh_optimizer=True)
    assert_close(weights_of(second), weights_of(anew), atol=0)
    third = trained(credit_file, "third", model=str(second))
    assert metrics_of(third)[0]["update"] == 1
    assert capsys.readouterr().err == ""


def test_the_checkpoint_loads_with_transformers(credit_file: Path, trained: Train, weights_of: Weights) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = trained(credit_file)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    for name, value in weights_of(checkpoint).items():
        assert torch.equal(model.state_dict()[name], value)
    assert tokenizer.decode(tokenizer.encode("7+10=17")) == "7+10=17"
    history = json.loads((checkpoint / "apportion.json").read_text())["history"]
    assert [record["stage"] for record in history][-1] == "train"


# ------------------------------------------------------------------------------------------------ the learning rate


def settings_of(**options: Any) -> Settings:
    return Settings(
        **{
            "lr": 1.0, "epochs": 1, "minibatch": 0, "micro_tokens": 0, "accumulate": 1, "aggregation": "token-mean",
            "longest": 1, "warmup": 0, "schedule": "constant", "max_grad_norm": 1.0, "seed": 0, **options,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "done_before", "rates"),
    [
        ({}, 0, [1, 1, 1, 1]),
        ({"warmup": 4}, 0, [0.25, 0.5, 0.75, 1]),
        ({"warmup": 4}, 2, [0.75, 1, 1, 1]),
        ({"schedule": "linear"}, 0, [1, 0.75, 0.5, 0.25]),
        # (1 - cos(π · left)) / 2 at left = 1, 3/4, 1/2, 1/4
        ({"schedule": "cosine"}, 0, [1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2]),
        ({"schedule": "linear", "warmup": 2}, 0, [0.5, 0.75, 0.5, 0.25]),
        ({"lr": 0.1, "schedule": "linear", "warmup": 2}, 0, [0.05, 0.075, 0.05, 0.025]),
    ],
)
def test_the_learning_rate_of_four_updates(options: dict[str, Any], done_before: int, rates: list[float]) -> None:
    settings = settings_of(**options)
    found = [learning_rate(settings, update, 4, done_before) for update in range(4)]
    np.testing.assert_allclose(found, rates, rtol=1e-12)


# ------------------------------------------------------------------------------------------------ demonstrations


def test_sft_lowers_the_loss_on_demonstrations(tmp_path: Path, trained: Train, metrics_of: Metrics) -> None:
    file = tmp_path / "demonstrations.parquet"
    sample(strategy="demonstrate", prompts=32, n=1, seed=3, out=file)
    log = metrics_of(trained(file, model="builtin:tiny-blank", objective="sft", epochs=8, lr=3e-3))
    losses = [entry["loss"] for entry in log]
    assert losses[0] == pytest.approx(np.log(550), rel=0.05)  # a blank model: uniform over its vocabulary
    assert losses[-1] < 0.8 * losses[0]


# ------------------------------------------------------------------------------------------------ faults


def ready_file(path: Path, *, facts: Any = None, **columns: Any) -> Path:
    """Two rollouts of one group that could be trained on."""
    rollouts = rollouts_of([1.0, 0.0], tokens=[[20, 21, 2], [20, 22, 2]])
    ids = rollouts.token_ids
    write_rollouts(
        path,
        [
            rollouts.with_columns(
                {
                    "prompt_ids": Ragged.from_lists([[1, 20], [1, 20]], np.int32),
                    "token.logprob": ids.with_values(np.full(6, -1, np.float32)),
                    "token.advantage": ids.with_values(np.array([1, 1, 1, -1, -1, -1], np.float32)),
                    **columns,
                }
            )
        ],
        Provenance(facts=facts or {}),
    )
    return path


def advantage(values: list[list[float]]) -> Ragged:
    return Ragged.from_lists(values, np.float32)


def test_credit_that_is_all_zero_teaches_nothing(tmp_path: Path, trained: Train) -> None:
    file = ready_file(tmp_path / "zero.parquet", **{"token.advantage": advantage([[0, 0, 0], [0, 0, 0]])})
    with pytest.raises(DataError, match=r"all credit in 'token\.advantage' is 0"):
        trained(file)


@pytest.mark.parametrize("credit", ["tempo", "advantage_tempo", "token.advantage_tempo"])
def test_an_unknown_credit_column_names_the_stage_that_makes_it(tmp_path: Path, trained: Train, credit: str) -> None:
    file = ready_file(tmp_path / "ready.parquet")
    with pytest.raises(DataError, match=r"no column 'token.advantage_tempo', which ppo needs; .*assign-credit"):
        trained(file, credit=credit)


def test_rollouts_without_credit_are_told_how_to_get_it(tmp_path: Path, trained: Train) -> None:
    sample(prompts=2, n=2, max_tokens=4, device="cpu", out=tmp_path / "raw.parquet")
    with pytest.raises(DataError, match=r"no column 'token.advantage', which ppo needs; run `apportion assign-credit"):
        trained(tmp_path / "raw.parquet")


def test_credit_of_another_name_is_trained_on(tmp_path: Path, trained: Train, weights_of: Weights) -> None:
    values = {"token.advantage_other": advantage([[1, 0, 0], [0, -1, 0]])}
    named = ready_file(tmp_path / "named.parquet", **values)
    plain = ready_file(tmp_path / "plain.parquet", **{"token.advantage": values["token.advantage_other"]})
    found = weights_of(trained(named, "named", credit="other"))
    assert_close(found, weights_of(trained(plain, "plain")), atol=0)


def test_a_token_beyond_the_vocabulary_is_refused(tmp_path: Path, trained: Train) -> None:
    file = ready_file(tmp_path / "foreign.parquet", prompt_ids=Ragged.from_lists([[1, 9999], [1, 20]], np.int32))
    with pytest.raises(DataError, match="token id 9999, but model 'builtin:tiny' has 550 tokens"):
        trained(file)


@pytest.mark.parametrize("option", [{"top_p": 0.9}, {"top_k": 5}], ids=str)
def test_logprobs_of_a_truncated_distribution_are_refused(
    credit_file_of: Callable[..., Path], trained: Train, option: dict[str, Any]
) -> None:
    file = credit_file_of(**option)
    with pytest.raises(DataError, match=f"sampled with {next(iter(option))}.*--old-logprobs recompute"):
        trained(file, "recorded")
    assert (trained(file, "recomputed", old_logprobs="recompute") / "model.safetensors").is_file()


def test_a_row_without_log_probabilities_is_refused(tmp_path: Path, trained: Train) -> None:
    """Left out of the flat column, it would shift those of all rows behind it."""
    logprob = RolloutFile(ready_file(tmp_path / "whole.parquet")).read().arrow("token.logprob").to_pylist()
    file = ready_file(tmp_path / "part.parquet", **{"token.logprob": [None, *logprob[1:]]})
    with pytest.raises(DataError, match=r"has no token.logprob .* --old-logprobs recompute"):
        trained(file, "recorded")
    assert trained(file, "recomputed", old_logprobs="recompute").is_dir()


def test_tokens_made_from_text_are_refused_unless_allowed(tmp_path: Path, trained: Train) -> None:
    file = ready_file(tmp_path / "text.parquet", facts={"tokens_exact": False})
    with pytest.raises(DataError, match="--allow-retokenized"):
        trained(file, "refused")
    assert trained(file, "allowed", allow_retokenized=True).is_dir()


@pytest.mark.parametrize(("facts", "told"), [(None, True), ({"tokens_exact": True}, False)])
def test_a_file_that_does_not_say_where_its_ids_are_from_is_told_of(
    facts: Any, told: bool, tmp_path: Path, trained: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(ready_file(tmp_path / "own.parquet", facts=facts))
    said = capsys.readouterr().err
    assert ("own.parquet: does not say whether the policy sampled its token ids" in said) is told


def test_rows_that_are_all_evals_are_nothing_to_train_on(tmp_path: Path, trained: Train) -> None:
    file = ready_file(tmp_path / "evals.parquet", purpose=["eval", "eval"])
    with pytest.raises(DataError, match="no row to train on"):
        trained(file)


def test_a_penalty_without_a_reference_is_refused_before_the_work(tmp_path: Path, trained: Train) -> None:
    with pytest.raises(UsageError, match="add --reference MODEL"):
        trained(tmp_path / "missing.parquet", settings={"kl_coef": 0.1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"lr": -1.0}, "--lr must be above 0 and at most 1,000,000, got -1"),
        ({"lr": 0.0}, "--lr must be above 0 and at most 1,000,000, got 0"),
        ({"lr": math.inf}, "--lr must be above 0 and at most 1,000,000, got inf"),
        ({"lr": math.nan}, "--lr must be above 0 and at most 1,000,000, got nan"),
        ({"lr": 1e39}, r"--lr must be above 0 and at most 1,000,000, got 1e\+39"),
        ({"weight_decay": math.inf}, "--weight-decay must be between 0 and 1,000,000, got inf"),
        ({"max_grad_norm": math.inf}, "--max-grad-norm must be at least 0, got inf"),
        ({"beta1": 1.0}, "--beta1 must be at least 0 and below 1, got 1"),
        (
            {"settings": {"clip_low": -0.1}},
            "objective ppo: clip_low must be at least 0, got -0.1",
        ),
        ({"settings": {"clip_high": math.inf}}, "objective ppo: clip_high must be at least 0, got inf"),
        ({"settings": {"dual_clip": 1.0}}, "objective ppo: dual_clip must be above 1, got 1"),
        (
            {"settings": {"kl_coef": -1.0}, "reference": "builtin:tiny"},
            "objective ppo: kl_coef must be at least 0, got -1",
        ),
        ({"objective": "opmd", "settings": {"tau": math.inf}}, "objective opmd: tau must be at least 0, got inf"),
        ({"micro_tokens": -1}, "--micro-tokens must be at least 0, got -1"),
        ({"objective": "pppo"}, "unknown objective 'pppo'; did you mean 'ppo'"),
        ({"settings": {"clip_hig": 0.3}}, "did you mean 'clip_high'"),
        ({"settings": {"clip_high": "much"}}, "objective ppo: clip_high must be a number, got 'much'"),
        ({"dtype": "float8"}, "--dtype float8: choose from"),
        ({"model": "builtin:tiiny"}, "did you mean 'builtin:tiny'"),
        ({"model": "./nowhere"}, "no such directory"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(tmp_path: Path, trained: Train, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trained(ready_file(tmp_path / "ready.parquet"), **options)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_nothing(tmp_path: Path, trained: Train) -> None:
    file = ready_file(tmp_path / "ready.parquet")
    broken = load_policy("builtin:tiny-blank", device="cpu", shared=False)
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(3e38)
    broken.save(tmp_path / "broken")
    with pytest.raises(ApportionError, match=r"update 0: loss (nan|inf|-inf), gradient norm .*; lower --lr"):
        trained(file, model=str(tmp_path / "broken"))
    assert not list(tmp_path.glob("*policy*"))


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, trained: Train) -> None:
    """The last update leaves them, and no loss after it tells. Here for moments that are too large."""
    file = ready_file(tmp_path / "ready.parquet")
    start = trained(file, "start")
    with safe_open(start / "optimizer.safetensors", framework="pt") as stored:
        facts, moments = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    moments["model.norm.weight.exp_avg"].fill_(3e38)
    save_file(moments, start / "optimizer.safetensors", metadata=facts)
    told = r"after 1 updates model\.norm\.weight has values that are not finite; nothing is written: lower --lr"
    with pytest.raises(ApportionError, match=told):
        trained(file, model=str(start), lr=1.0)
    assert not (tmp_path / "policy").exists()


def test_an_existing_checkpoint_is_kept_without_force(credit_file: Path, trained: Train, weights_of: Weights) -> None:
    before = weights_of(trained(credit_file))
    with pytest.raises(UsageError, match="exists already"):
        trained(credit_file, lr=1e-2)
    assert_close(weights_of(trained(credit_file, "other")), before, atol=0)


def test_a_full_disk_is_one_line_and_leaves_nothing(credit_file: Path, tmp_path: Path) -> None:
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from apportion.cli.main import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        limited,
        "train",
        str(credit_file),
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "full"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'full'}: not written (")
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("*full*"))


def test_tokens_that_are_not_trainable_are_left_out_as_masked_ones_are(
    credit_file: Path, trained: Train, weights_of: Weights, tmp_path: Path
) -> None:
    file = RolloutFile(credit_file)
    batch = file.read()
    chosen = batch.mask & (batch.tokens.positions % 2 == 0)
    credit = batch.ragged("token.advantage")
    credit = credit.with_values(np.where(chosen, credit.values, np.float32(0)))
    own = batch.token_ids.with_values(chosen)
    left_out = batch.with_columns({"token.trainable": own, "token.advantage": credit})
    masked = batch.with_columns({"token.mask": own, "token.advantage": credit})
    write_rollouts(tmp_path / "left_out.parquet", [left_out], file.provenance)
    write_rollouts(tmp_path / "masked.parquet", [masked], file.provenance)
    one, other = (weights_of(trained(tmp_path / f"{name}.parquet", name, lr=1e-3)) for name in ("left_out", "masked"))
    assert_close(one, other, atol=0)
    assert any((one[name] != weight).any() for name, weight in weights_of(trained(credit_file, "all", lr=1e-3)).items())
