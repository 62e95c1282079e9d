"""Files of open-instruct, prime-rl's token export, verl's cached batches, and what slime's trainer computed."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Cli = Callable[..., Result]


def write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def open_instruct_record(sample: int, reward: float, **more: Any) -> dict[str, Any]:
    """A line of open-instruct's RolloutRecord."""
    return {
        "step": 4, "sample_idx": sample, "prompt_idx": sample // 2, "prompt_tokens": [1, 2], "response_tokens": [7, 8, 9],
        "reward": reward, "advantage": reward - 0.5, "finish_reason": "stop", "dataset": "gsm8k", "ground_truth": [3],
        "request_info": None, "logprobs": [-0.1, -0.2, -0.3], **more,
    }  # fmt: skip


def test_rollouts_of_open_instruct(cli: Cli, tmp_path: Path) -> None:
    called = {"tool_calleds": True, "num_calls": 1}
    source = write(
        tmp_path / "run_rollouts_000000.jsonl",
        [
            open_instruct_record(0, 1.0), open_instruct_record(1, 0.0, finish_reason="length"),
            open_instruct_record(2, 1.0, request_info=called), open_instruct_record(3, 0.0, response_tokens=[], logprobs=[]),
        ],
    )  # fmt: skip
    out = tmp_path / "out.parquet"
    done = cli("import", source, "-o", out)
    assert done.exit_code == 4
    said = " ".join(done.stderr.split())
    assert "1 rollouts in which a tool was called" in said
    assert "1 rollouts without a response" in said
    batch = RolloutFile(out).read()
    assert batch.strings("group_id") == ["4/0", "4/0"]
    assert batch.arrow("flags").to_pylist() == [[], ["truncated"]]
    assert batch.ragged("token.advantage_open_instruct").values.tolist() == [0.5] * 3 + [-0.5] * 3
    assert cli("import", source, "--set", "tools=keep", "-o", out, "--force").exit_code == 4
    assert len(RolloutFile(out).read()) == 3
    assert cli("assign-credit", out, "--method", "grpo", "-o", tmp_path / "credit.parquet").exit_code == 0
    assert cli("diff", tmp_path / "credit.parquet", "-c", "advantage,advantage_open_instruct").exit_code == 0


def prime_rl_record(ids: list[int], mask: list[int], advantage: float | None, **more: Any) -> dict[str, Any]:
    """A line of prime-rl's TokenExporter: lists over the whole sequence, null where a number is not finite."""
    size = len(ids)
    return {
        "schema_version": 1, "step": 7, "export_step": 7, "rank": 0, "micro_step": 0, "micro_sequence_idx": 0, "export_sequence_idx": 0,
        "run_id": None, "env_name": "sums", "token_ids": ids, "position_ids": list(range(size)), "loss_mask": [bool(each) for each in mask],
        "advantages": [advantage] * size, "rewards": [None if advantage is None else advantage + 0.5] * size,
        "inference_logprobs": [-0.5 if own else 0.0 for own in mask], "trainer_logprobs": [-0.4] * size, "entropy": [0.3] * size,
        "mismatch_kl": [None] * size, "importance_ratio": [None] * size, **more,
    }  # fmt: skip


def test_token_exports_of_prime_rl_find_their_groups_in_the_traces(cli: Cli, tmp_path: Path) -> None:
    exports = [prime_rl_record([1, 2, 5, 9, 6], [0, 0, 1, 0, 1], 0.5), prime_rl_record([1, 2, 7], [0, 0, 1], None)]
    source = write(tmp_path / "token_exports" / "step_7" / "rank_0.jsonl", exports)
    out = tmp_path / "out.parquet"
    refused = cli("import", source, "-o", out)
    assert refused.exit_code == 3
    assert "--group-size" in refused.stderr
    assert cli("import", source, "--group-size", 2, "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.arrow("prompt_ids").to_pylist() == [[1, 2]] * 2
    assert batch.mask.tolist() == [True, False, True, True]
    np.testing.assert_allclose(batch.ragged("token.advantage_prime_rl")[0], [0.5, 0, 0.5])
    assert batch.arrow("token.advantage_prime_rl")[1].as_py() is None
    assert batch.arrow("reward").to_pylist() == [1.0, None]
    nodes = [
        {"message": {"role": "user", "content": "q"}, "token_ids": [1, 2], "mask": [False] * 2},
        {"parent": 0, "sampled": True, "message": {"role": "assistant", "content": "a"}, "token_ids": [7], "mask": [True], "logprobs": [-0.5]},
    ]  # fmt: skip
    episode = {
        "id": "e",
        "group": {"id": "g"},
        "traces": [{"id": "t", "agent": {"name": "solver"}, "nodes": nodes, "rewards": {}}],
    }
    traces = write(tmp_path / "traces.jsonl", [episode])
    done = cli("import", source, "--set", f"traces={traces}", "-o", out, "--force")
    assert done.exit_code == 4
    assert "1 sequences that are not in the traces" in " ".join(done.stderr.split())
    assert RolloutFile(out).read().strings("group_id") == ["7/g/solver"]
    wrong = prime_rl_record([1, 2, 7], [0, 0, 1], 0.5, entropy=[0.1])
    source = write(tmp_path / "rank_1.jsonl", [wrong])
    refused = cli("import", source, "--group-size", 1, "-o", tmp_path / "o.parquet")
    assert "line 1, entropy: 1 values for 3 token ids" in " ".join(refused.stderr.split())


def slime_sample(index: int, **more: Any) -> dict[str, Any]:
    return {
        "group_index": 0, "index": index, "prompt": "q", "tokens": [1, 2, 7, 8], "response": "ab", "response_length": 2,
        "label": "4", "reward": float(index == 0), "status": "completed", **more,
    }  # fmt: skip


def test_what_slimes_trainer_computed_is_found_by_the_samples_index(cli: Cli, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = tmp_path / "dump" / "rollout_data" / "3.pt"
    source.parent.mkdir(parents=True)
    torch.save({"rollout_id": 3, "samples": [slime_sample(0), slime_sample(1), slime_sample(2)]}, source)
    trained = tmp_path / "dump" / "train_data"
    trained.mkdir()
    for rank, indices in enumerate(([1], [0])):
        data = {
            "sample_indices": indices, "tokens": [], "advantages": [torch.tensor([0.5, -0.5 * index]) for index in indices],
            "log_probs": [torch.tensor([-1.0, -2.0])],
        }  # fmt: skip
        torch.save({"rollout_id": 3, "rank": rank, "rollout_data": data}, trained / f"3_{rank}.pt")
    out = tmp_path / "out.parquet"
    done = cli("import", tmp_path / "dump", "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.arrow("token.advantage_slime").to_pylist() == [[0.5, 0.0], [0.5, -0.5], None]
    assert batch.arrow("token.trainer_logprob").to_pylist() == [[-1, -2], [-1, -2], None]
    refused = cli("import", source, "--set", f"train_data={tmp_path}", "-o", out, "--force")
    assert refused.exit_code == 2
    assert "no files of step 3" in " ".join(refused.stderr.split())


def test_a_sample_that_cannot_be_read_is_counted_where_the_import_is_lenient(cli: Cli, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source, out = tmp_path / "3.pt", tmp_path / "out.parquet"
    torch.save({"rollout_id": 3, "samples": [slime_sample(0), slime_sample(1, response_length="two")]}, source)
    refused = cli("import", source, "-o", out)
    assert refused.exit_code == 3
    assert "3.pt, sample 1: not the shape that importer slime reads" in " ".join(refused.stderr.split())
    done = cli("import", source, "--lenient", "-o", out)
    assert done.exit_code == 4
    assert "1 records of another shape" in " ".join(done.stderr.split())
    assert len(RolloutFile(out).read()) == 1


def test_lines_that_are_no_json_are_counted_where_the_import_is_lenient(cli: Cli, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [open_instruct_record(0, 1.0), open_instruct_record(1, 0.0)])
    with source.open("ab") as stream:
        stream.write(b"{half\n\xff\xfe\nnull\n")
    out = tmp_path / "out.parquet"
    assert "line 3: not JSON" in " ".join(cli("import", source, "-o", out).stderr.split())
    done = cli("import", source, "--lenient", "-o", out)
    assert done.exit_code == 4
    said = " ".join(done.stderr.split())
    assert "2 lines that are not JSON" in said
    assert "1 records of another shape" in said
    assert len(RolloutFile(out).read()) == 2


@pytest.mark.skipif(find_spec("tensordict") is not None, reason="tensordict is here")
def test_a_batch_of_verl_says_what_reading_it_needs(cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "tq_batch.pt"
    source.write_bytes(b"x")
    refused = cli("import", source, "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 2
    assert "needs tensordict; pip install tensordict" in " ".join(refused.stderr.split())


@pytest.mark.peers
def test_a_cached_batch_of_verl(cli: Cli, tmp_path: Path) -> None:
    tensordict = pytest.importorskip("tensordict")
    torch = pytest.importorskip("torch")

    def nested(rows: list[list[float]], kind: Any) -> Any:
        return torch.nested.as_nested_tensor([torch.tensor(row, dtype=kind) for row in rows], layout=torch.jagged)

    table = tensordict.TensorDict(
        {
            "prompts": nested([[1, 2], [1, 2, 5], [1, 2]], torch.int64),
            "responses": nested([[5, 9, 6], [7], [8, 8]], torch.int64),
            "response_mask": nested([[1, 0, 1], [1], [1, 1]], torch.int64),
            "rm_scores": nested([[0, 0, 1], [1], [0, 0]], torch.float32),
            "rollout_log_probs": nested([[-0.5, 0, -0.5], [-1], [-2, -2]], torch.float32),
        },
        batch_size=[3],
    )
    table["uid"] = tensordict.NonTensorStack("u", "u", "u")
    extra = {"reward_extra_info": {"format": 0.5}}
    table["extra_fields"] = tensordict.NonTensorStack(extra, extra, extra)
    tags = [{"min_global_steps": 2, "max_global_steps": 3}] * 3
    source = tmp_path / "tq_batch.pt"
    torch.save({"tensordict": table, "tags": tags, "keys": ["u_0_0", "u_0_1", "u_1_0"], "global_steps": 3}, source)
    out, credit = tmp_path / "out.parquet", tmp_path / "credit.parquet"
    done = cli("import", source, "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.strings("group_id") == ["3/u"] * 3
    assert batch.strings("episode_id") == ["u_0", "u_0", None]
    assert batch.numbers("reward").tolist() == [1.0, 1.0, 0.0]
    assert batch.numbers("rewards.format").tolist() == [0.5] * 3
    assert batch.mask.tolist() == [True, False, True, True, True, True]
    assert (batch.arrow("policy_start")[0].as_py(), batch.arrow("policy_end")[0].as_py()) == (2, 3)
    assert cli("assign-credit", out, "--method", "rloo", "-o", credit).exit_code == 0
    assert RolloutFile(credit).read().ragged("token.advantage").values.tolist() == [1, 0, 1, 1, -1, -1]
