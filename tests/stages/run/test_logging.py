"""`run --log` with the trackers' own clients, where they are installed: pip install tensorboard trackio==0.43.0 wandb==0.31.0."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.provenance import digest_of
from typer.testing import Result

Cli = Callable[..., Result]
RECIPE = """
name: two-rounds
about: two rounds of GRPO
vars: {seed: 1}
steps:
  - loop:
      var: round
      range: 2
      steps:
        - sample: {model: "${latest('train', 'builtin:tiny')}", round: "${round}", prompts: 4, n: 4, max_tokens: 12, temperature: 2.0, seed: "${seed}", out: "${round}/rollouts.parquet"}
        - score: {rollouts: "${latest('sample')}", with: pattern, set: {regex: '4=', whole: false, column: reward}, out: "${round}/scored.parquet"}
        - assign-credit: {rollouts: "${latest('score')}", method: grpo, out: "${round}/credit.parquet"}
        - train: {rollouts: "${latest('assign-credit')}", model: "${latest('train', 'builtin:tiny')}", on_nothing: skip, out: "${round}/policy"}
        - eval policy: {model: "${latest('train')}", prompts: 4, n: 1, max_tokens: 12, out: "${round}/report.json"}
"""  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_client_that_is_not_installed_is_named_before_anything_runs(
    cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    refused = cli("run", recipe, "--dir", tmp_path / "run", "--log", "trackio")
    assert refused.exit_code == 2
    assert refused.stderr == "error: --log trackio needs trackio; pip install trackio\n"
    assert not list((tmp_path / "run").glob("0"))
    refused = cli("run", recipe, "--redact")
    assert refused.exit_code == 2
    assert "give --log, too" in refused.stderr


def run(cli: Cli, recipe: Path, folder: Path, *more: str) -> Result:
    done = cli("run", recipe, "--dir", folder, *more)
    assert done.exit_code == 0, done.stderr
    return done


@pytest.mark.peers
@pytest.mark.parametrize("redact", [False, True])
def test_tensorboard_has_every_figure_and_the_rollouts(redact: bool, cli: Cli, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    done = run(cli, recipe, folder, "--log", "tensorboard", *(["--redact"] if redact else []))
    assert f"{'no texts' if redact else 'texts'}): {folder / 'tensorboard'}" in done.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-not-found]

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "eval/pass@1",
        "assign-credit/dead_groups",
        "assign-credit/std",
        "sample/tokens",
        "score/mean_reward",
    } <= set(tags["scalars"])
    assert [each.step for each in events.Scalars("eval/pass@1")] == [5, 10]
    updates = [each.step for each in events.Scalars("train/loss")]
    assert updates == list(range(1, len(updates) + 1))
    shown = events.Tensors("rollouts/0/text_summary")
    assert [each.step for each in shown] == [3, 8]
    text = shown[0].tensor_proto.string_val[0].decode()
    row = json.loads("\n".join(line.removeprefix("    ") for line in text.splitlines()))
    report = json.loads((folder / "0" / "report.json").read_text())
    assert events.Scalars("eval/pass@1")[0].value == pytest.approx(report["pass_at"]["1"]["value"])
    assert ("response" in row) is not redact
    assert {"reward", "credit", "credit_of_steps"} <= set(row)


@pytest.mark.peers
def test_a_run_that_goes_on_counts_updates_on(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    short = recipe.with_name("short.yaml")
    short.write_text(RECIPE.replace("range: 2", "range: 1"), encoding="utf-8")
    run(cli, short, folder, "--log", "tensorboard")
    first = json.loads((folder / "logged.json").read_text())["updates"]
    run(cli, recipe, folder, "--log", "tensorboard")
    assert json.loads((folder / "logged.json").read_text())["updates"] > first > 0
    done = run(cli, recipe, folder, "--log", "tensorboard")
    assert "up to date" in done.stderr


@pytest.mark.peers
def test_trackio_has_figures_and_traces_with_credit(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage  # type: ignore[import-not-found]

    folder = tmp_path / "run"
    done = run(cli, recipe, folder, "--log", "trackio")
    assert "on this machine" in done.stderr
    name = f"{folder.name}-{digest_of(str(folder.absolute()))[:6]}"
    assert name in SQLiteStorage.get_runs("two-rounds")
    logs: list[dict[str, Any]] = SQLiteStorage.get_logs("two-rounds", name)
    assert [each["step"] for each in logs if "eval/pass@1" in each] == [5, 10]
    assert any("train/loss" in each for each in logs)
    traces = SQLiteStorage.get_traces("two-rounds", name)
    assert len(traces) == 32  # of two rounds
    assert traces[0]["messages"][-1]["role"] == "assistant"
    assert "credit" in traces[0]["spans"][0]["metadata"]


@pytest.mark.peers
def test_wandb_writes_into_the_folder_where_it_is_offline(
    cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    done = run(cli, recipe, folder, "--log", "wandb")
    assert "(offline)" in done.stderr
    (log,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert b"eval/pass@1" in content
    assert b"train/loss" in content
    assert list((folder / "wandb").glob("offline-run-*/files/media/table/rollouts*"))
