"""What a run keeps: checkpoints that nothing reads any more can go, and come back where they are wanted again."""

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.stages.run.retention import TRAINED_BYTES, parameters_of
from typer.testing import Result

Cli = Callable[..., Result]
RECIPE = """
vars: {rounds: 3, lr: 1.0e-4}
steps:
  - loop:
      var: round
      range: "${rounds}"
      steps:
        - sample:
            {model: "${latest('train', 'builtin:tiny')}", prompts: 4, n: 4, round: "${round}", max_tokens: 24, device: cpu, out: "${round}.parquet"}
        - score: {rollouts: "${latest('sample')}", out: "${round}-scored.parquet"}
        - assign-credit: {rollouts: "${latest('score')}", method: grpo, out: "${round}-credit.parquet"}
        - train:
            {rollouts: "${latest('assign-credit')}", model: "${latest('train', 'builtin:tiny')}", lr: "${lr}", device: cpu, out: "policy-${round}"}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "kept.yaml"
    path.write_text(RECIPE)
    return path


def policies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_only_the_last_checkpoint_stays_and_what_is_wanted_again_is_made_again(
    cli: Cli, recipe: Path, tmp_path: Path
) -> None:
    whole, pruned = tmp_path / "whole", tmp_path / "pruned"

    def ran(folder: Path, *words: object) -> tuple[int, str]:
        result = cli("run", recipe, "--dir", folder, "--json", *words)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["ran"], result.stderr

    def weights(folder: Path, round: int) -> bytes:
        return (folder / f"policy-{round}/model.safetensors").read_bytes()

    assert ran(whole)[0] == 12
    assert policies(whole) == ["policy-0", "policy-1", "policy-2"]
    assert ran(pruned, "--keep", "last")[0] == 12
    assert policies(pruned) == ["policy-2"]
    assert weights(pruned, 2) == weights(whole, 2)

    assert ran(pruned, "--keep", "last") == (0, "")
    assert ran(pruned) == (0, "")  # nor is anything made anew for keeping all from now on
    plan = cli("run", recipe, "--dir", pruned, "--dry-run").stdout.splitlines()
    assert [line.split("  ")[0] for line in plan] == ["up to date"] * 12

    assert ran(pruned, "--keep", "last", "--set", "rounds=4")[0] == 4  # the last one is there to begin with
    assert policies(pruned) == ["policy-3"]

    made, said = ran(pruned)  # the last of three is gone by now, and is read by nothing
    assert (made, said) == (0, "")
    (pruned / "2-credit.parquet").unlink()
    assert ran(pruned)[0] == 1  # credit alone, which no training that is to run reads
    shutil.rmtree(pruned / "policy-3")
    made, said = ran(pruned, "--keep", "last", "--set", "rounds=4")
    assert made == 4  # the trainings: each reads the one before
    assert "3 deleted checkpoints are read again, and made anew" in said
    assert policies(pruned) == ["policy-3"]

    assert ran(whole, "--keep", "last") == (0, "")  # what was kept so far goes, too
    assert policies(whole) == ["policy-2"]


def test_the_disk_that_a_run_needs_is_said_before(
    cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = parameters_of("builtin:tiny")
    assert parameters is not None
    each = TRAINED_BYTES * parameters / 1e6
    result = cli("run", recipe, "--dir", tmp_path / "run", "--dry-run")
    assert result.stderr.startswith(f"kept: 3 checkpoints of {each:.3g} MB: {3 * each:.3g} MB beside the rollouts, ")
    assert result.stderr.count("\n") == 1
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    result = cli("run", recipe, "--dir", tmp_path / "run", "--set", "rounds=9", "--dry-run")
    assert result.exit_code == 0
    assert "kept: warning: 9 checkpoints" in result.stderr
    assert "1 kB are free; add --keep last, free some, or choose another --dir" in result.stderr
    result = cli("run", recipe, "--dir", tmp_path / "run", "--set", "rounds=9", "--keep", "last", "--dry-run")
    assert f"of which the last is kept: {3 * each:.3g} MB beside the rollouts" in result.stderr


def test_a_checkpoint_is_as_large_as_said(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    parameters = parameters_of("builtin:tiny")
    assert parameters is not None
    assert cli("run", recipe, "--dir", tmp_path / "run", "--set", "rounds=1").exit_code == 0
    files = (tmp_path / "run/policy-0").glob("*.safetensors")
    assert sum(path.stat().st_size for path in files) == pytest.approx(TRAINED_BYTES * parameters, rel=0.02)


def test_of_a_model_that_is_not_here_nothing_is_said(tmp_path: Path) -> None:
    assert parameters_of("someone/something") is None
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert parameters_of(str(tmp_path)) is None
