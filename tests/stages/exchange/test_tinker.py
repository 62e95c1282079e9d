"""Captures of tinker-cookbook: records as it documents them, and its own exporter and store where they are installed.

pip install --no-deps tinker-cookbook==0.6.1 tinker==0.38.0, and what importing its capture asks for.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Cli = Callable[..., Result]


def call(
    group: int, traj: int | None, prompt: list[int], tokens: list[list[int]], at: float, **more: Any
) -> dict[str, Any]:
    """A line of capture/sample.jsonl."""
    scope = {"run_id": "r", "split": "train", "iteration": 2, "group_idx": group}
    return {
        "kind": "sample", "scope": scope if traj is None else scope | {"traj_idx": traj}, "created_at": at, "num_samples": len(tokens),
        "sampling_session_id": "x", "seq_id": int(at * 10), "model_path": "tinker://m", "prompt_tokens": prompt, "prompt_length": len(prompt),
        "sampling_params": {"max_tokens": 9, "temperature": 0.5, "top_p": 1.0, "top_k": -1, "seed": None},
        "samples": [{"tokens": each, "logprobs": [-0.5] * len(each), "stop_reason": "stop"} for each in tokens], "status": "ok",
        "latency_sec": 0.1, **more,
    }  # fmt: skip


def summary(group: int, traj: int, steps: list[tuple[int, int, float]], final: float = 0.0) -> dict[str, Any]:
    """A line of *_rollout_summaries.jsonl."""
    made = [
        {"step_idx": number, "ob_len": ob, "ac_len": ac, "reward": reward}
        for number, (ob, ac, reward) in enumerate(steps)
    ]
    total = sum(reward for *_, reward in steps) + final
    return {
        "schema_version": 1, "split": "train", "iteration": 2, "group_idx": group, "traj_idx": traj, "tags": [], "total_reward": total,
        "final_reward": final, "steps": made,
    }  # fmt: skip


def write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


CALLS = [
    call(0, 0, [1, 2], [[5]], 1.0), call(0, 1, [1, 2], [[6]], 1.1), call(0, 1, [1, 2, 6, 9], [[7, 8]], 3.0),
    call(0, 0, [1, 2, 5, 9], [[3]], 2.0), call(0, 0, [4, 4], [[2]], 4.0),
]  # fmt: skip


def test_calls_that_lie_apart_become_trajectories_with_the_rewards_of_the_summaries(cli: Cli, tmp_path: Path) -> None:
    source = write(tmp_path / "run" / "capture" / "sample.jsonl", CALLS)
    steps = [(2, 1, 0.25), (4, 2, 0.5)]
    write(
        tmp_path / "run" / "iteration_000002" / "train_rollout_summaries.jsonl",
        [summary(0, 0, [(2, 1, 0.0), (9, 1, 0.0)], 1.0), summary(0, 1, steps)],
    )
    out, credit = tmp_path / "out.parquet", tmp_path / "credit.parquet"
    done = cli("import", source, "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.strings("rollout_id") == ["r/train/2/0/0/0", "r/train/2/0/0/1", "r/train/2/0/1"]
    assert batch.strings("group_id") == ["2/r/train/0"] * 3
    assert batch.strings("episode_id") == ["r/train/2/0/0"] * 2 + [None]
    assert [batch.token_ids[row].tolist() for row in range(3)] == [[5, 9, 3], [2], [6, 9, 7, 8]]
    assert batch.mask.tolist() == [True, False, True, True, True, False, True, True]
    assert batch.numbers("reward").tolist() == [1.0, 1.0, 0.75]
    assert batch.arrow("step.reward").to_pylist() == [None, None, [0.25, 0.5]]  # the first one's lengths are others
    assert batch.numbers("temperature").tolist() == [0.5] * 3
    assert cli("validate", out).exit_code == 0
    assert cli("assign-credit", out, "--method", "rloo", "-o", credit).exit_code == 0
    by_row = RolloutFile(credit).read().ragged("token.advantage")
    assert [by_row[row].tolist() for row in range(3)] == [[0.25, 0, 0.25], [0.25], [-0.25, 0, -0.25, -0.25]]


def test_calls_without_an_index_stand_alone_and_failed_ones_are_counted(cli: Cli, tmp_path: Path) -> None:
    failed = call(1, None, [1], [], 5.0, status="error", error="RuntimeError()")
    del failed["samples"]
    source = write(tmp_path / "sample.jsonl", [call(1, None, [1, 2], [[5], [6]], 1.0), failed])
    out = tmp_path / "out.parquet"
    done = cli("import", source, "-o", out)
    assert done.exit_code == 4
    assert "1 trajectories whose calls all failed" in " ".join(done.stderr.split())
    batch = RolloutFile(out).read()
    assert batch.strings("rollout_id") == ["r/train/2/1/10/0", "r/train/2/1/10/1"]
    assert [batch.token_ids[row].tolist() for row in range(2)] == [[5], [6]]
    assert batch.groups.sizes.tolist() == [2]


def test_a_folder_of_summaries_that_has_none_and_corrupted_lists_are_named(cli: Cli, tmp_path: Path) -> None:
    wrong = call(0, 0, [1, 2], [[5, 6]], 1.0)
    wrong["samples"][0]["logprobs"] = [-1.0]
    source = write(tmp_path / "sample.jsonl", [wrong])
    refused = cli("import", source, "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3
    assert "line 1: 1 log-probabilities for 2 token ids" in " ".join(refused.stderr.split())
    refused = cli("import", source, "--set", f"summaries={tmp_path}", "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 2
    assert "no *_rollout_summaries.jsonl below" in " ".join(refused.stderr.split())
    broken = tmp_path / "capture.sqlite"
    broken.write_bytes(b"no database at all, but long enough to look at")
    refused = cli("import", broken, "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3
    assert "not an SQLite file" in " ".join(refused.stderr.split())


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
def test_what_the_cookbooks_own_exporter_and_store_write(kind: str, cli: Cli, tmp_path: Path) -> None:
    capture = pytest.importorskip("tinker_cookbook.capture")
    instrument = pytest.importorskip("tinker_cookbook.capture.instrument")
    storage = pytest.importorskip("tinker_cookbook.stores.storage")
    answers = iter([[5], [3], [6]])

    def sample(client: Any, prompt: Any, num_samples: int, settings: Any) -> Future[Any]:
        """What the SDK's client gives: a future of sequences."""
        future: Future[Any] = Future()
        tokens = next(answers)
        sequence = SimpleNamespace(tokens=tokens, logprobs=[-0.5] * len(tokens), stop_reason="stop")
        future.set_result(SimpleNamespace(sequences=[sequence]))
        return future

    records: list[dict[str, Any]] = []
    run = tmp_path / "run"
    sink = capture.JsonlFileSink(storage.LocalStorage(run))
    keep = SimpleNamespace(export=lambda batch, timeout=None: (records.extend(batch), sink.export(batch)))
    exporter = capture.CaptureExporter(keep)
    wrapped = instrument._make_sample_wrapper(sample)
    client = SimpleNamespace(_sampling_session_id="x", model_path="tinker://m")
    settings = SimpleNamespace(max_tokens=9, temperature=1.0, top_p=1.0, top_k=-1, seed=None)
    before, instrument._exporter = instrument._exporter, exporter
    try:
        for traj, prompt in ((0, [1, 2]), (0, [1, 2, 5, 9]), (1, [1, 2])):
            with capture.capture(run_id="r", split="train", iteration=2, group_idx=0, traj_idx=traj):
                ids = SimpleNamespace(to_ints=lambda prompt=prompt: prompt, length=len(prompt))
                wrapped(client, ids, num_samples=1, sampling_params=settings)
    finally:
        instrument._exporter = before
        exporter.shutdown()
    source = run / "capture" / "sample.jsonl"
    if kind == "sqlite":
        rows = pytest.importorskip("tinker_cookbook.capture.store.client").wire_rows_from_sample_record
        source = tmp_path / "capture.sqlite"
        store = pytest.importorskip("tinker_cookbook.capture.store.db").CaptureDB(source)
        store.ingest_wire([row for record in records for row in rows(record)])
        store.close()
    out = tmp_path / "out.parquet"
    done = cli("import", source, "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.strings("rollout_id") == ["r/train/2/0/0", "r/train/2/0/1"]
    assert [batch.token_ids[row].tolist() for row in range(2)] == [[5, 9, 3], [6]]
    assert batch.ragged("token.logprob")[0].tolist() == [-0.5, 0, -0.5]
    assert batch.strings("policy") == ["tinker://m"] * 2
