"""Rounds in which there is nothing to learn: an error, or the policy as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.recipes import Loop, Step, load_recipe, recipe_names
from apportion.stages.train import train
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

Train = Callable[..., Path]
Weights = Callable[[Path], dict[str, Tensor]]


def changed(source: Path, target: Path, columns: Callable[[Any], dict[str, Any]]) -> Path:
    batch = RolloutFile(source).read()
    write_rollouts(target, [batch.with_columns(columns(batch))], Provenance())
    return target


@pytest.fixture
def dead(credit_file: Path, tmp_path: Path) -> Path:
    """All credit 0."""
    return changed(
        credit_file,
        tmp_path / "dead.parquet",
        lambda batch: {"token.advantage": batch.ragged("token.advantage").with_values(np.zeros(batch.num_tokens))},
    )


def filtered(credit_file: Path, target: Path) -> Path:
    flags = pa.array([["filtered"]], pa.list_(pa.string()))
    return changed(credit_file, target, lambda batch: {"flags": pa.concat_arrays([flags] * len(batch))})


def unpaired(credit_file: Path, target: Path) -> Path:
    return changed(
        credit_file,
        target,
        lambda batch: {name: pa.nulls(len(batch), pa.string()) for name in ("pair_id", "pair_role")},
    )


@pytest.mark.parametrize(
    ("make", "objective"), [(filtered, "ppo"), (filtered, "sft"), (unpaired, "dpo"), (None, "ppo"), (None, "opmd")]
)
def test_nothing_to_learn_is_an_error_or_the_policy_as_it_was(
    make: Callable[[Path, Path], Path] | None, objective: str, credit_file: Path, dead: Path, tmp_path: Path,
    trained: Train, weights_of: Weights,
) -> None:  # fmt: skip
    source = dead if make is None else make(credit_file, tmp_path / "changed.parquet")
    with pytest.raises(DataError):
        trained(source, "error", objective=objective)
    assert not (tmp_path / "error").exists()
    before = trained(credit_file, "before")
    done = train(
        source, model=str(before), objective=objective, on_nothing="skip", device="cpu", out=tmp_path / "after"
    )
    assert (done.quiet, done.updates, done.rollouts) == (True, 0, 0)
    for name, values in weights_of(before).items():
        assert values.equal(weights_of(tmp_path / "after")[name])
    assert (tmp_path / "after/metrics.jsonl").read_text() == ""
    record = json.loads((tmp_path / "after/apportion.json").read_text())["history"][-1]
    assert (record["counts"]["updates"], record["parameters"]["on_nothing"]) == (0, "skip")


def test_what_is_learned_after_a_quiet_round_is_what_would_have_been_without_it(
    credit_file: Path, dead: Path, trained: Train, weights_of: Weights
) -> None:
    first = trained(credit_file, "first")
    quiet = trained(dead, "quiet", model=str(first), on_nothing="skip")
    with_it, without = trained(credit_file, "with", model=str(quiet)), trained(credit_file, "without", model=str(first))
    for name, values in weights_of(without).items():
        assert values.equal(weights_of(with_it)[name]), name
    assert (with_it / "metrics.jsonl").read_text() == (without / "metrics.jsonl").read_text()
    moments, expected = (load_file(each / "optimizer.safetensors") for each in (with_it, without))
    assert moments.keys() == expected.keys()
    assert all(values.equal(moments[name]) for name, values in expected.items())


def test_skip_changes_nothing_where_there_is_something_to_learn(
    credit_file: Path, trained: Train, weights_of: Weights
) -> None:
    usual, skipping = trained(credit_file, "usual"), trained(credit_file, "skipping", on_nothing="skip")
    for name, values in weights_of(usual).items():
        assert values.equal(weights_of(skipping)[name])


def test_other_faults_stay_faults(tmp_path: Path, credit_file: Path, trained: Train) -> None:
    with pytest.raises(DataError, match=r"no column 'token\.advantage_none'"):
        trained(credit_file, credit="none", on_nothing="skip")


RECIPE = """
name: quiet
steps:
  - loop:
      var: file
      in: [0, 1, 2]
      steps:
        - train: {rollouts: "FILE-${file}", model: "${latest('train', 'builtin:tiny')}", on_nothing: skip, lr: 1.0e-4, device: cpu, out: "${file}/policy"}
"""


def test_a_run_goes_on_and_counts_its_quiet_rounds(
    cli: Callable[..., Result], credit_file: Path, dead: Path, tmp_path: Path, weights_of: Weights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for number, source in enumerate((dead, credit_file, dead)):
        Path(f"FILE-{number}").symlink_to(source)
    Path("quiet.yaml").write_text(RECIPE)
    result = cli("run", "quiet.yaml")
    assert result.exit_code == 0, result.output
    assert "quiet: 3 steps run, 0 up to date, 2 trainings found nothing to learn, " in result.stderr
    for name, values in weights_of(Path("runs/quiet/1/policy")).items():
        assert values.equal(weights_of(Path("runs/quiet/2/policy"))[name])
    again = cli("run", "quiet.yaml", "--json")
    assert (json.loads(again.stdout)["skipped"], json.loads(again.stdout)["quiet"]) == (3, 2)


def trainings(steps: Any) -> list[Step]:
    found: list[Step] = []
    for step in steps:
        found += trainings(step.steps) if isinstance(step, Loop) else [step] if step.command == "train" else []
    return found


@pytest.mark.parametrize("name", recipe_names())
def test_a_quiet_round_ends_no_recipe(name: str) -> None:
    for step in trainings(load_recipe(name).steps):
        begins = (
            step.options["lr"] == "${warmup_lr}" or name == "make-tiny"
        )  # without it there is nothing to go on with
        assert begins != (step.options.get("on_nothing") == "skip"), step.where
