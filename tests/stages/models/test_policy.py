"""What is loaded as a policy, and what it is called."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from apportion.formats.errors import ApportionError
from apportion.stages.models.policy import TINY, ModelSource, load_policy
from safetensors.torch import load_file, save_file
from typer.testing import Result


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


def changed(folder: Path) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    return weights


def test_weights_in_pytorchs_own_files_have_an_identity_too(checkpoint: Path) -> None:
    """Otherwise all such policies would be one: to --resume, to recipes, and in the rollouts' column."""
    weights, more = load_file(checkpoint / "model.safetensors"), changed(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    first = load_policy(str(checkpoint), device="cpu")
    torch.save(more, checkpoint / "pytorch_model.bin")
    second = load_policy(str(checkpoint), device="cpu")
    assert first.identity != second.identity
    assert ModelSource(str(checkpoint)).identity == second.identity
    assert torch.equal(second.model.model.norm.weight, more["model.norm.weight"]), "the new ones, not those held"


def test_an_optimizers_state_beside_the_weights_does_not_change_the_identity(checkpoint: Path) -> None:
    before = ModelSource(str(checkpoint)).identity
    save_file({"step": torch.zeros(1)}, checkpoint / "optimizer.safetensors")
    assert ModelSource(str(checkpoint)).identity == before
    save_file(changed(checkpoint), checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert ModelSource(str(checkpoint)).identity != before


def test_weights_that_are_not_all_there_are_a_fault_of_one_line(checkpoint: Path) -> None:
    """The library would make them up."""
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ApportionError, match=r"1 of its weights are missing, e\.g\. model\.layers\.1\.mlp\.up"
    ) as fault:
        load_policy(str(checkpoint), device="cpu")
    assert "\n" not in str(fault.value)


def test_weights_that_are_cut_off_are_a_fault_of_one_line(checkpoint: Path) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ApportionError, match="cannot be loaded") as fault:
        load_policy(str(checkpoint), device="cpu")
    assert "\n" not in str(fault.value)


def test_weights_that_are_not_finite_are_one_line(cli: Callable[..., Result], tmp_path: Path) -> None:
    broken = load_policy("builtin:tiny-blank", device="cpu", shared=False)
    with torch.no_grad():
        broken.model.model.norm.weight[3] = torch.inf
    folder = tmp_path / "broken"
    broken.save(folder)
    for command in (
        ("eval", "policy", "--model", folder, "--prompts", 2, "-n", 1),
        ("sample", "--model", folder, "--prompts", 2, "-n", 1, "-o", tmp_path / "out.parquet"),
    ):
        result = cli(*command, "--device", "cpu")
        assert result.exit_code == 1
        assert result.stderr == (
            f"error: model {str(folder)!r}: weights are not finite in float32, e.g. model.norm.weight; "
            "use an intact checkpoint, or another --dtype\n"
        )
    assert not (tmp_path / "out.parquet").exists()
