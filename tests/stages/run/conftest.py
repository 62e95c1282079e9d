"""A recipe small enough to run in seconds: two iterations of sample → … → train, and an evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

RECIPE = """
name: small
about: two iterations
vars: {rounds: 2, model: builtin:tiny, lr: 1.0e-4, sampling: {prompts: 8, n: 4}, seed: 1, method: tempo}
steps:
  - loop:
      var: round
      range: "${rounds}"
      steps:
        - sample:
            model: "${latest('train', model)}"
            prompts: "${sampling.prompts}"
            n: "${sampling.n}"
            seed: "${seed}"
            round: "${round}"
            max_tokens: 32
            device: cpu
            out: round-${round}/rollouts.parquet
        - tree-build: {rollouts: "${latest('sample')}", out: "round-${round}/tree.parquet"}
        - score: {rollouts: "${latest('tree-build')}", with: verify, out: "round-${round}/scored.parquet"}
        - assign-credit:
            {rollouts: "${latest('score')}", method: "${method}", out: "round-${round}/credit.parquet"}
        - train:
            rollouts: "${latest('assign-credit')}"
            model: "${latest('train', model)}"
            lr: "${lr}"
            device: cpu
            out: round-${round}/policy
  - eval policy:
      {model: "${latest('train')}", prompts: 8, n: 2, max_tokens: 32, device: cpu, series: small, out: eval.json}
  - eval curve: {reports: "${every('eval policy')}", out: curve.svg}
"""


@pytest.fixture(scope="session")
def recipe_text() -> str:
    return RECIPE


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def content_of(folder: Path) -> dict[str, Any]:
    """Every output of a run by its name: tables, weights, reports. Free of times and of the folder's own place."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet":
            found[name] = pq.read_table(path).replace_schema_metadata(None)
        elif path.suffix == ".safetensors":
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        elif path.name == "eval.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "about"}
        elif path.name in ("metrics.jsonl", "curve.svg"):
            found[name] = path.read_text()
        else:
            found[name] = None
    return found


@pytest.fixture
def assert_same_run() -> Callable[[Path, Path], None]:
    """Two run folders hold the same files with the same content."""

    def check(found: Path, expected: Path) -> None:
        left, right = content_of(found), content_of(expected)
        assert left.keys() == right.keys()
        for name, value in right.items():
            if isinstance(value, pa.Table):
                assert left[name].equals(value), name
            else:
                assert left[name] == value, name

    return check
