"""Rollouts of the built-in model on the arithmetic task, and a short way to train on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.stages.assign_credit import assign_credit
from apportion.stages.sample import sample
from apportion.stages.score import score
from apportion.stages.train import train
from safetensors.torch import load_file
from torch import Tensor


def make_credit_file(folder: Path, **sampling: Any) -> Path:
    """sample → score → assign-credit; returns the last file."""
    raw, scored, credit = (folder / f"{name}.parquet" for name in ("raw", "scored", "credit"))
    sample(**{"prompts": 8, "n": 8, "seed": 1, "max_tokens": 40, "device": "cpu", "out": raw, **sampling})
    score(raw, out=scored)
    assign_credit(scored, method="grpo", out=credit)
    return credit


@pytest.fixture(scope="session")
def credit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 rollouts with credit, sampled at temperature 1."""
    return make_credit_file(tmp_path_factory.mktemp("credit"))


@pytest.fixture
def credit_file_of(tmp_path: Path) -> Callable[..., Path]:
    """The same with other sampling options."""
    return lambda **sampling: make_credit_file(tmp_path, **sampling)


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """Train on a file, into a folder of the test's own; returns the checkpoint."""

    def run(rollouts: Path, name: str = "policy", **options: Any) -> Path:
        train(rollouts, **{"lr": 1e-4, "device": "cpu", "out": tmp_path / name, **options})
        return tmp_path / name

    return run


@pytest.fixture
def weights_of() -> Callable[[Path], dict[str, Tensor]]:
    return lambda checkpoint: load_file(checkpoint / "model.safetensors")


@pytest.fixture
def metrics_of() -> Callable[[Path], list[dict[str, float]]]:
    """One dictionary per update."""
    return lambda checkpoint: [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
