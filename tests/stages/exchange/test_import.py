"""`import` and `export` on files of the shapes that the sources write."""

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apportion.formats.digests import digest_of_tokens
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Cli = Callable[..., Result]
DOCS = Path(__file__).parents[3] / "docs"


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def trace(name: str, group: str, reward: float, *, branches: int = 1, **more: Any) -> dict[str, Any]:
    """An episode of verifiers: a turn, and after it one or more continuations of a tool's answer and a turn."""
    nodes: list[dict[str, Any]] = [
        {"message": {"role": "user", "content": "2+2"}, "token_ids": [1, 2, 3], "mask": [False] * 3},
        {
            "parent": 0, "sampled": True, "message": {"role": "assistant", "content": "look"}, "token_ids": [7, 9, 8],
            "mask": [False, True, True], "logprobs": [-0.1, -0.2], "advantages": [reward - 0.5] * 2,
        },
    ]  # fmt: skip
    for branch in range(branches):
        said = {"role": "tool", "content": f"t{branch}"}
        nodes.append({"parent": 1, "message": said, "token_ids": [20 + branch, 21], "mask": [False] * 2})
        nodes.append(
            {
                "parent": len(nodes) - 1, "sampled": True, "message": {"role": "assistant", "content": "4"},
                "token_ids": [5, 30 + branch], "mask": [False, True], "logprobs": [-0.3], "advantages": [reward - 0.5],
            }
        )  # fmt: skip
    work = {"type": "train", "step": 3, "policy": {"start": 2, "end": 4}}
    return {
        "id": f"e{name}", "group": {"id": group}, "run": {"type": "train", "work": work}, "ok": True, "task": {},
        "traces": [
            {
                "version": 1, "id": name, "agent": {"name": "solver"}, "nodes": nodes, "ok": True,
                "rewards": {"exact": {"score": reward, "weight": 2.0}, "style": None}, **more,
            }
        ],
    }  # fmt: skip


def nemo_row(idx: int, reward: float, **other: Any) -> dict[str, Any]:
    """A line of NeMo-RL's train_data_step, with one token of padding."""
    return {
        "content": ["q", "a"], "rewards": reward, "input_lengths": 6, "token_ids": [1, 2, 3, 7, 9, 8, 0],
        "token_loss_mask": [0, 0, 0, 1, 1, 1, 0], "sample_loss_mask": 1.0, "advantages": [0, 0, 0, 0.5, 0.5, 0.5, 0],
        "generation_logprobs": [0, 0, 0, -0.1, -0.2, -0.3, 0], "prev_logprobs": [0, 0, 0, -0.1, -0.2, -0.4, 0], "idx": idx,
        **other,
    }  # fmt: skip


def verl_rows(groups: int = 2, size: int = 3) -> list[dict[str, Any]]:
    """Lines of verl's rollout_data_dir, the rollouts of a group apart from each other."""
    return [
        {"input": f"What is {group}+1?", "output": f"It is {group + row}", "gts": str(group + 1), "score": float(row == 1),
         "step": 3, "uid": f"u{group}_{row}_0"}
        for row in range(size)
        for group in range(groups)
    ]  # fmt: skip


def test_a_trace_of_verifiers_keeps_ids_steps_weights_and_the_trainers_credit(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "traces.jsonl", [trace("a", "g", 1.0), trace("b", "g", 0.0)])
    out = tmp_path / "out.parquet"
    assert cli("import", source, "-o", out).exit_code == 0
    file = RolloutFile(out)
    batch = file.read()
    assert batch.strings("rollout_id") == ["a", "b"]
    assert batch.strings("group_id") == ["3/g/solver"] * 2
    assert batch.arrow("prompt_ids").to_pylist()[0] == [1, 2, 3, 7]
    assert batch.token_ids[0].tolist() == [9, 8, 20, 21, 5, 30]
    assert batch.mask[:6].tolist() == [True, True, False, False, False, True]
    np.testing.assert_allclose(batch.ragged("token.logprob")[0], [-0.1, -0.2, 0, 0, 0, -0.3], rtol=1e-6)
    assert batch.ragged("token.advantage_verifiers")[0].tolist() == [0.5, 0.5, 0, 0, 0, 0.5]
    assert (batch.arrow("step.start")[0].as_py(), batch.arrow("step.end")[0].as_py()) == ([0, 5], [2, 6])
    assert batch.numbers("reward").tolist() == [2.0, 0.0]
    assert batch.numbers("rewards.exact").tolist() == [1.0, 0.0]
    assert (batch.arrow("policy_start")[0].as_py(), batch.arrow("policy_end")[0].as_py()) == (2, 4)
    assert file.provenance.facts == {"tokens_exact": True, "logprob_decimals": 4}
    assert cli("validate", out).exit_code == 0


def test_branches_of_a_trace_are_one_episode_and_shared_tokens_belong_to_the_first(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "traces.jsonl", [trace("a", "g", 1.0, branches=3), trace("b", "g", 0.0)])
    out, credit = tmp_path / "out.parquet", tmp_path / "credit.parquet"
    assert cli("import", source, "-o", out).exit_code == 0
    assert cli("assign-credit", out, "--method", "rloo", "-o", credit).exit_code == 0
    batch = RolloutFile(credit).read()
    assert batch.strings("episode_id") == ["a", "a", "a", None]
    assert batch.arrow("part").to_pylist() == [0, 1, 2, None]
    assert batch.trainable.reshape(4, 6)[:, 0].tolist() == [True, False, False, True]
    # Two episodes: rewards 2 and 0. As four rows, RLOO would give 2/3 and -2.
    assert batch.ragged("token.advantage").values.reshape(4, 6)[:, 5].tolist() == [2.0, 2.0, 2.0, -2.0]
    assert batch.ragged("token.advantage_verifiers")[1].tolist() == [0, 0, 0, 0, 0, 0.5]


def test_an_attempt_at_compaction_that_nothing_went_on_from_is_not_trained(cli: Cli, tmp_path: Path) -> None:
    episode = trace("a", "g", 1.0, branches=2)
    episode["traces"][0]["nodes"][-1]["semantic_parents"] = [{"node": 1, "type": "compaction_attempt"}]
    source = write_lines(tmp_path / "traces.jsonl", [episode])
    assert cli("import", source, "-o", tmp_path / "out.parquet").exit_code == 0
    batch = RolloutFile(tmp_path / "out.parquet").read()
    assert batch.trainable.reshape(2, 6).any(1).tolist() == [True, False]
    assert batch.strings("lineage") == [None, "compaction"]


def test_what_an_attempt_shares_belongs_to_the_first_branch_that_is_trained(cli: Cli, tmp_path: Path) -> None:
    episode = trace("a", "g", 1.0, branches=2)
    first_leaf = len(trace("a", "g", 1.0)["traces"][0]["nodes"]) - 1
    episode["traces"][0]["nodes"][first_leaf]["semantic_parents"] = [{"node": 1, "type": "compaction_attempt"}]
    source = write_lines(tmp_path / "traces.jsonl", [episode])
    assert cli("import", source, "-o", tmp_path / "out.parquet").exit_code == 0
    batch = RolloutFile(tmp_path / "out.parquet").read()
    assert batch.trainable.reshape(2, 6).tolist() == [[False] * 6, [True, True, False, False, False, True]]


def test_what_prime_rl_left_out_of_effective_is_flagged(cli: Cli, tmp_path: Path) -> None:
    for name, traces in (("all", [trace("a", "g", 1.0), trace("b", "g", 0.0)]), ("effective", [trace("a", "g", 1.0)])):
        (tmp_path / "step_3" / "train" / name).mkdir(parents=True)
        write_lines(tmp_path / "step_3" / "train" / name / "traces.jsonl", traces)
    source = tmp_path / "step_3" / "train" / "all" / "traces.jsonl"
    assert cli("import", source, "-o", tmp_path / "out.parquet").exit_code == 0
    assert RolloutFile(tmp_path / "out.parquet").read().flagged("filtered").tolist() == [False, True]


def test_nemo_rl_without_groups_takes_their_size_and_holds_it_against_the_prompts(cli: Cli, tmp_path: Path) -> None:
    rows = [nemo_row(0, 1.0), nemo_row(1, 0.0), nemo_row(2, 1.0), nemo_row(3, 0.0, sample_loss_mask=0.0)]
    source = write_lines(tmp_path / "train_data_step3.jsonl", rows)
    out = tmp_path / "out.parquet"
    refused = cli("import", source, "-o", out)
    assert refused.exit_code == 3
    assert "give --group-size N" in refused.stderr
    assert cli("import", source, "--group-size", 3, "-o", out).exit_code == 3
    assert cli("import", source, "--group-size", 2, "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert [len(each) for each in np.split(np.arange(4), batch.groups.starts[1:])] == [2, 2]
    assert batch.token_ids[0].tolist() == [7, 9, 8]
    np.testing.assert_allclose(batch.ragged("token.trainer_logprob")[0], [-0.1, -0.2, -0.4], rtol=1e-6)
    assert batch.ragged("token.advantage_nemo_rl")[0].tolist() == [0.5] * 3
    assert batch.flagged("filtered").tolist() == [False, False, False, True]
    rows[1]["token_ids"] = [1, 2, 4, 7, 9, 8, 0]
    other = write_lines(tmp_path / "train_data_step4.jsonl", rows)
    refused = cli("import", other, "--group-size", 2, "-o", tmp_path / "other.parquet")
    assert refused.exit_code == 3
    assert "rollouts 0 to 1 have different prompts" in refused.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generation_logprobs": [0, 0, 0, -0.1, 0.2, -0.3, 0]}, "token.logprob: 0.2 at response token 1, expected 0 or less"),
        ({"advantages": [0, 0, 0, float("nan"), 0, 0, 0]}, "token.advantage_nemo_rl: nan at response token 0"),
        ({"token_ids": [1, 2, 3, -7, 9, 8, 0]}, "token ids: -7, expected whole numbers"),
        ({"rewards": "much"}, "reward: 'much', expected a number"),
    ],
)  # fmt: skip
def test_a_row_that_breaks_a_rule_is_named_or_kept_with_a_flag(
    change: dict[str, Any], message: str, cli: Cli, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "train_data_step3.jsonl", [nemo_row(0, 1.0), nemo_row(1, 0.0, **change)])
    out = tmp_path / "out.parquet"
    refused = cli("import", source, "--group-size", 2, "-o", out)
    assert refused.exit_code == 3
    assert f"line 2, {message}" in " ".join(refused.stderr.split())
    assert not out.exists()
    kept = cli("import", source, "--group-by", "content", "--lenient", "-o", out)
    assert kept.exit_code == 4
    batch = RolloutFile(out).read()
    assert batch.flagged("error").tolist() == [False, True]
    assert message.partition(":")[0] in str(batch.strings("error")[1])


def test_a_list_that_is_too_short_and_a_line_that_is_no_json_are_named(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "train_data_step3.jsonl", [nemo_row(0, 1.0, token_loss_mask=[0, 0, 0, 1])])
    refused = cli("import", source, "--group-size", 1, "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3
    assert "line 1, token_loss_mask: 4 values for a row of 6 tokens" in " ".join(refused.stderr.split())
    source.write_text(json.dumps(nemo_row(0, 1.0)) + "\n{half", encoding="utf-8")
    refused = cli("import", source, "--group-size", 1, "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3
    assert "line 2: not JSON" in " ".join(refused.stderr.split())


def test_a_faulty_row_does_not_make_its_group_one_of_several_prompts(cli: Cli, tmp_path: Path) -> None:
    faulty = nemo_row(1, 0.0, generation_logprobs=[0, 0, 0, 0.1, 0, 0, 0])
    source = write_lines(tmp_path / "train_data_step3.jsonl", [nemo_row(0, 1.0), faulty])
    done = cli("import", source, "--group-size", 2, "--lenient", "-o", tmp_path / "out.parquet")
    assert done.exit_code == 4, done.stderr
    assert RolloutFile(tmp_path / "out.parquet").read().groups.sizes.tolist() == [2]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("traces.jsonl", {"id": "e", "traces": [{"agent": {"name": "a"}, "nodes": ["no mapping"]}]}),
        ("traces.jsonl", {"id": "e", "traces": 3}),
        ("traces.jsonl", trace("a", "g", 1.0, rewards={"exact": {"weight": 1.0}})),
        ("train_data_step3.jsonl", nemo_row(0, 1.0, input_lengths="six")),
    ],
)
def test_a_record_of_another_shape_is_named_in_one_line(name: str, record: Any, cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / name, [record])
    refused = cli("import", source, "--group-size", 1, "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3
    (line,) = refused.stderr.strip().splitlines()
    assert f"{name}, line 1: not the shape that importer" in line
    assert not (tmp_path / "out.parquet").exists()


def test_a_dry_run_that_ends_early_takes_any_group_size(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apportion.stages.exchange._import.LOOKED_AT", 4)
    source = write_lines(tmp_path / "train_data_step3.jsonl", [nemo_row(row, 1.0) for row in range(6)])
    assert cli("import", source, "--group-size", 3, "--dry-run").exit_code == 0
    source = write_lines(tmp_path / "train_data_step4.jsonl", [nemo_row(row, 1.0) for row in range(3)])
    assert cli("import", source, "--group-size", 2, "--dry-run").exit_code == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_one_line(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "1.jsonl", verl_rows())
    source.chmod(0)
    for command in (("import", source, "--format", "text", "-o", tmp_path / "out.parquet"), ("inspect", source)):
        refused = cli(*command)
        assert refused.exit_code == 3
        assert len(refused.stderr.strip().splitlines()) == 1


def test_records_that_are_no_rollouts_are_counted_by_reason(cli: Cli, tmp_path: Path) -> None:
    rows = [nemo_row(0, 1.0), nemo_row(1, 0.0), nemo_row(2, 0.0, token_loss_mask=[0] * 7)]
    source = write_lines(tmp_path / "train_data_step3.jsonl", rows)
    out = tmp_path / "out.parquet"
    done = cli("import", source, "--group-size", 2, "-o", out)
    assert done.exit_code == 4
    assert "1 rows without a token in the loss mask" in " ".join(done.stderr.split())
    assert len(RolloutFile(out).read()) == 2


def test_scattered_texts_come_in_groups_and_read_as_text(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "1.jsonl", verl_rows())
    out, credit = tmp_path / "out.parquet", tmp_path / "credit.parquet"
    assert cli("import", source, "-o", out).exit_code == 0
    file = RolloutFile(out)
    batch = file.read()
    assert batch.strings("group_id") == ["3/u0"] * 3 + ["3/u1"] * 3
    assert "".join(map(chr, batch.token_ids[1].tolist())) == "It is 1"
    assert batch.strings("reference")[0] == "1"
    assert file.provenance.facts["tokens_exact"] is False
    assert cli("assign-credit", out, "--method", "rloo", "-o", credit).exit_code == 0
    shown = cli("inspect", credit)
    assert "It is 1" in shown.stdout
    trained = cli("train", credit, "--objective", "sft", "--model", "builtin:tiny", "-o", tmp_path / "policy")
    assert trained.exit_code == 3
    assert "token ids were made from text" in trained.stderr


def test_more_than_a_chunk_of_rows_comes_out_whole(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.stages.exchange._spool.CHUNK", 50)
    rows = verl_rows(groups=7, size=5)
    rows[20]["format_reward"] = 0.5  # a column that only a later chunk has
    source = write_lines(tmp_path / "1.jsonl", rows)
    out = tmp_path / "out.parquet"
    assert cli("import", source, "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.groups.sizes.tolist() == [5] * 7
    texts = ["".join(map(chr, batch.token_ids[row].tolist())) for row in range(35)]
    assert texts == [f"It is {group + row}" for group in range(7) for row in range(5)]
    assert batch.strings("text") == texts
    assert [each for each in batch.arrow("rewards.format_reward").to_pylist() if each is not None] == [0.5]


def test_conversations_and_own_fields(cli: Cli, tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "call", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "done"},
    ]
    source = write_lines(
        tmp_path / "own.jsonl", [{"messages": chat, "result": {"points": row}, "q": 7} for row in range(3)]
    )
    out, credit = tmp_path / "out.parquet", tmp_path / "credit.parquet"
    done = cli("import", source, "--group-by", "q", "--set", "map=reward=result.points", "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.arrow("prompt")[0].as_py() == [{"role": "user", "content": "hi"}]
    assert batch.numbers("reward").tolist() == [0, 1, 2]
    start, end = batch.arrow("step.start")[0].as_py(), batch.arrow("step.end")[0].as_py()
    said = "".join(map(chr, batch.token_ids[0].tolist()))
    assert [said[slice(*span)] for span in zip(start, end, strict=True)] == [said[: said.index("42")], "done"]
    assert not batch.mask[said.index("42")]
    assert cli("assign-credit", out, "--method", "turn_return", "-o", credit).exit_code == 0


def test_parquet_completions_of_trl(cli: Cli, tmp_path: Path) -> None:
    table = pa.table(
        {"step": [1, 1], "prompt": ["a", "a"], "completion": ["b", "c"], "accuracy_reward": [1.0, 0.0], "advantage": [0.7, -0.7]}
    )  # fmt: skip
    source = tmp_path / "completions_00001.parquet"
    pq.write_table(table, source)
    refused = cli("inspect", source)
    assert f"`apportion import {source} -o OUT` reads it as text" in " ".join(refused.stderr.split())
    assert cli("import", source, "--group-by", "prompt", "-o", tmp_path / "out.parquet").exit_code == 0
    batch = RolloutFile(tmp_path / "out.parquet").read()
    assert batch.numbers("rewards.accuracy_reward").tolist() == [1.0, 0.0]
    np.testing.assert_allclose(batch.ragged("token.advantage_source").values, [0.7, -0.7], rtol=1e-6)


def test_files_of_two_formats_and_pickles_are_refused(cli: Cli, tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", verl_rows())
    second = write_lines(tmp_path / "b.jsonl", [nemo_row(0, 1.0)])
    assert "looks like nemo_rl" in " ".join(cli("import", first, second, "-o", tmp_path / "o.parquet").stderr.split())
    pickled = tmp_path / "batch.dp"
    pickled.write_bytes(b"\x80\x04N.")
    refused = cli("import", pickled, "-o", tmp_path / "o.parquet")
    assert refused.exit_code == 3
    assert "runs code when it is read" in " ".join(refused.stderr.split())
    nothing = write_lines(tmp_path / "c.jsonl", [{"x": 1}])
    assert "no importer knows this" in " ".join(cli("import", nothing, "-o", tmp_path / "o.parquet").stderr.split())


def test_a_dry_run_says_what_it_found_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "traces.jsonl", [trace("a", "g", 1.0)])
    done = cli("import", tmp_path, "--dry-run")
    assert done.exit_code == 0
    assert "format   verifiers" in done.stdout
    assert "token.advantage_verifiers" in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == [source.name]


def test_the_flat_table_has_digests_that_a_trainer_can_make(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "traces.jsonl", [trace("a", "g", 1.0), trace("b", "g", 0.0)])
    out, credit, flat = (tmp_path / f"{name}.parquet" for name in ("out", "credit", "flat"))
    assert cli("import", source, "-o", out).exit_code == 0
    assert "token.advantage" in cli("export", out, "--format", "flat", "-o", flat).stderr
    assert cli("assign-credit", out, "--method", "rloo", "-o", credit).exit_code == 0
    assert cli("export", credit, "--format", "flat", "-o", flat).exit_code == 0
    rows = pq.read_table(flat).to_pylist()
    assert rows[0]["digest"] == digest_of_tokens([1, 2, 3, 7], [9, 8, 20, 21, 5, 30])
    assert rows[0]["advantages"] == [2.0, 2.0, 0, 0, 0, 2.0]
    assert rows[1]["rollout_id"] == "b"


def test_the_commands_of_the_page_run_as_they_stand(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "1.jsonl", verl_rows())
    write_lines(tmp_path / "traces.jsonl", [trace("a", "g", 1.0), trace("b", "g", 0.0)])
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / "import.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert len(commands) == 13
    for command in commands:
        force = ["--force"] if command[0] in ("import", "tree-build", "assign-credit") else []
        done = cli(*command, *force)
        assert done.exit_code == 0, (command, done.stderr)


def slime_sample(index: int, reward: Any, **other: Any) -> dict[str, Any]:
    """What Sample.to_dict of slime gives, without what no importer reads."""
    return {
        "group_index": index // 2, "index": index, "prompt": [{"role": "user", "content": "q"}], "tokens": [1, 2, 7, 8, 9],
        "response": "abc", "response_length": 3, "label": "4", "reward": reward, "loss_mask": [1, 0, 1], "weight_versions": ["5", "6"],
        "rollout_log_probs": [-0.1, 0.0, -0.2], "remove_sample": False, "status": "completed", "metadata": {}, **other,
    }  # fmt: skip


def test_samples_of_slime(cli: Cli, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    samples = [
        slime_sample(0, 1.0), slime_sample(1, 0.0, status="truncated"), slime_sample(2, 0.0, status="aborted"),
        slime_sample(3, 1.0, remove_sample=True, loss_mask=None), slime_sample(4, 0.0, response_length=0),
    ]  # fmt: skip
    source, out = tmp_path / "rollout_3.pt", tmp_path / "out.parquet"
    torch.save({"rollout_id": 3, "samples": samples}, source)
    done = cli("import", source, "-o", out)
    assert done.exit_code == 4
    assert "1 samples without a response" in " ".join(done.stderr.split())
    batch = RolloutFile(out).read()
    assert batch.strings("group_id") == ["3/0", "3/0", "3/1", "3/1"]
    assert batch.arrow("flags").to_pylist() == [[], ["truncated"], ["error"], ["filtered"]]
    assert batch.arrow("prompt_ids")[0].as_py() == [1, 2]
    assert batch.mask.reshape(4, 3).tolist() == [[True, False, True]] * 3 + [[True] * 3]
    assert (batch.arrow("policy_start")[0].as_py(), batch.arrow("policy_end")[0].as_py()) == (5, 6)
    assert cli("assign-credit", out, "--method", "grpo", "-o", tmp_path / "credit.parquet").exit_code == 0


def test_parts_of_an_episode_and_several_rewards_of_slime(cli: Cli, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    reward = {"exact": 1.0, "style": 0.25}
    samples = [slime_sample(0, reward, rollout_id=10), slime_sample(1, reward, rollout_id=10)]
    source, out = tmp_path / "rollout_3.pt", tmp_path / "out.parquet"
    torch.save({"rollout_id": 3, "samples": samples}, source)
    assert "several rewards (exact, style); give --set reward_key=NAME" in " ".join(
        cli("import", source, "-o", out).stderr.split()
    )
    assert cli("import", source, "--set", "reward_key=style", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.numbers("reward").tolist() == [0.25, 0.25]
    assert batch.numbers("rewards.exact").tolist() == [1.0, 1.0]
    assert batch.arrow("part").to_pylist() == [0, 1]


class Other:
    """What weights-only loading must not make."""


def test_a_torch_file_with_code_in_it_is_not_read(cli: Cli, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = tmp_path / "rollout_3.pt"
    torch.save({"rollout_id": 3, "samples": [Other()]}, source)
    refused = cli("import", source, "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3
    assert "cannot be loaded without running code in it" in " ".join(refused.stderr.split())


def test_lists_in_a_line_of_ms_swift_are_rollouts(cli: Cli, tmp_path: Path) -> None:
    line = {
        "step": ["5", "5"], "prompt": ["a", "a"], "completion": ["b", "c"], "Accuracy": [1.0, 0.0], "Format": [0.5, 0.5],
        "advantages": [0.7, -0.7],
    }  # fmt: skip
    source = write_lines(tmp_path / "completions.jsonl", [line, line])
    out = tmp_path / "out.parquet"
    assert cli("import", source, "--group-by", "prompt", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.arrow("iteration").to_pylist() == [5] * 4
    assert batch.numbers("rewards.Accuracy").tolist() == [1.0, 0.0] * 2
    assert batch.numbers("reward").tolist() == [1.5, 0.5] * 2
    np.testing.assert_allclose(batch.ragged("token.advantage_source").values, [0.7, -0.7] * 2, rtol=1e-6)
    source = write_lines(tmp_path / "completions.jsonl", [line | {"Format": [0.5]}])
    refused = cli("import", source, "--group-by", "prompt", "-o", out, "--force")
    assert "line 1, Format: 1 values for 2 completions" in " ".join(refused.stderr.split())


def test_evaluations_of_skyrl_and_outputs_of_one_session_of_verl(cli: Cli, tmp_path: Path) -> None:
    entry = {
        "input_prompt": "q",
        "output_response": "abc",
        "score": [0.0, 0.5, 1.0],
        "stop_reason": "length",
        "env_class": "x",
    }
    source, out = write_lines(tmp_path / "gsm8k.jsonl", [entry]), tmp_path / "out.parquet"
    assert cli("import", source, "--group-by", "input_prompt", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.numbers("reward").tolist() == [1.5]
    assert batch.flagged("truncated").tolist() == [True]
    rows = verl_rows(groups=1, size=2)
    rows.append({**rows[0], "uid": "u0_0_1", "output": "more"})
    source = write_lines(tmp_path / "1.jsonl", rows)
    assert cli("import", source, "-o", out, "--force").exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.strings("episode_id") == ["u0_0", "u0_1", "u0_0"]
    assert batch.arrow("part").to_pylist() == [0, 0, 1]


def test_the_users_own_names_have_an_option_of_their_own(cli: Cli, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "own.jsonl", [{"prompt": "q", "said": "abc", "points": 2, "q": 1}])
    out = tmp_path / "out.parquet"
    done = cli("import", source, "--format", "text", "--group-by", "q", "--map", "response=said", "--map", "reward=points", "-o", out)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert RolloutFile(out).read().numbers("reward").tolist() == [2.0]
    refused = cli("import", source, "--format", "nemo_rl", "--map", "reward=points", "-o", out, "--force")
    assert refused.exit_code == 2
    assert "map" in refused.stderr


def rllm_episode(name: str, steps: list[tuple[list[tuple[str, str]], float]], **more: Any) -> dict[str, Any]:
    """A file of rLLM's EpisodeLogger with one trajectory."""
    made = [
        {"observation": None, "thought": "", "action": None, "reward": reward, "done": False, "model_response": chat[-1][1],
         "chat_completions": [{"role": role, "content": text} for role, text in chat], "timing": {}}
        for chat, reward in steps
    ]  # fmt: skip
    return {
        "training_step": 2, "epoch": 0, "episode_id": name, "session_id": "", "task": {"q": 1}, "task_hash": "abcd", "is_correct": True,
        "termination_reason": "env_done", "metrics": {}, "metadata": {}, "timing": {},
        "trajectories": [{"name": "solver", "uid": name, "reward": None, "num_steps": len(made), "timing": {}, "steps": made}], **more,
    }  # fmt: skip


def test_episodes_of_rllm_are_rows_as_long_as_their_conversation_goes_on(cli: Cli, tmp_path: Path) -> None:
    first = [("user", "q"), ("assistant", "look")]
    going_on = [(first, 0.0), ([*first, ("tool", "seen"), ("assistant", "four")], 1.0)]
    rewritten = [(first, 0.0), ([("user", "short"), ("assistant", "four")], 0.5)]
    folder = tmp_path / "episodes" / "train_step_2_epoch_0"
    folder.mkdir(parents=True)
    for name, steps, more in (
        ("t:0", going_on, {}),
        ("t:1", rewritten, {"is_correct": False, "termination_reason": "timeout"}),
    ):
        (folder / f"episode_hashabcd_id{name[-1]}.json").write_text(
            json.dumps(rllm_episode(name, steps, **more)), encoding="utf-8"
        )
    out = tmp_path / "out.parquet"
    done = cli("import", tmp_path / "episodes", "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.strings("group_id") == ["2/abcd/solver"] * 3
    assert batch.strings("episode_id") == [None, "t:1/0", "t:1/0"]
    assert batch.strings("text") == ["lookseenfour", "look", "four"]
    assert batch.arrow("step.reward").to_pylist() == [[0.0, 1.0], [0.0], [0.5]]
    assert batch.numbers("reward").tolist() == [1.0, 0.0, 0.0]
    assert batch.flagged("truncated").tolist() == [False, True, True]
    assert cli("validate", out).exit_code == 0


def test_half_a_surrogate_pair_and_a_number_beyond_all_floats_end_no_import_with_a_traceback(
    cli: Cli, tmp_path: Path
) -> None:
    half = {"prompt": "q\ud800", "response": "a\udfff", "group_id": "g\ud800", "id": "i\ud800", "reference": "\ud800"}
    source, out = write_lines(tmp_path / "1.jsonl", [half, half | {"id": "j"}]), tmp_path / "out.parquet"
    assert cli("import", source, "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.strings("text") == ["a?", "a?"]
    assert (batch.strings("rollout_id"), batch.strings("group_id")) == (["i?", "j"], ["g?", "g?"])
    source = write_lines(tmp_path / "2.jsonl", [half | {"reward": 10**400}])
    refused = cli("import", source, "-o", tmp_path / "no.parquet")
    assert refused.exit_code == 3
    assert "line 1, reward: inf, expected a finite number" in " ".join(refused.stderr.split())


def test_an_imports_history_names_its_files_and_steps_keep_their_episodes_apart(cli: Cli, tmp_path: Path) -> None:
    """The same uid at two steps is two groups, whose sessions are other episodes."""
    for step in (3, 4):
        write_lines(tmp_path / f"{step}.jsonl", [row | {"step": step} for row in verl_rows(groups=1, size=2)])
    out = tmp_path / "out.parquet"
    assert cli("import", tmp_path / "3.jsonl", tmp_path / "4.jsonl", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.strings("episode_id") == ["u0_0", "u0_1", "4/u0/u0_0", "4/u0/u0_1"]
    assert cli("validate", out).exit_code == 0
    lines = cli("log", out, "--shell").stdout.splitlines()
    assert [line.partition(",")[0] for line in lines[:2]] == ["# 3.jsonl: made elsewhere", "# 4.jsonl: made elsewhere"]
    assert lines[2].startswith("apportion import 3.jsonl 4.jsonl --format text")


HOSTILE = (
    "=cmd|' /C calc'!A0 \x1b[31mred\x1b[0m </script><script>alert(1)</script> \u202egnp.exe \x00 \ud800 \r\n,\"x\""
)


def test_hostile_text_comes_through_every_output(cli: Cli, tmp_path: Path) -> None:
    """From a foreign file to the terminal, the page, and JSON: nothing in it is a command of any of them."""
    row = {"input": HOSTILE, "output": f"42 {HOSTILE}", "gts": HOSTILE, "score": 1.0, "step": 1, "uid": HOSTILE}
    source = write_lines(tmp_path / "1.jsonl", [row, row | {"score": 0.0, "output": HOSTILE}])
    out, credit, page = tmp_path / "out.parquet", tmp_path / "credit.parquet", tmp_path / "page.html"
    assert cli("import", source, "-o", out).exit_code == 0
    assert cli("validate", out).exit_code == 0
    assert cli("assign-credit", out, "--method", "rloo", "-o", credit).exit_code == 0
    shown = cli("inspect", credit, "--html", page)
    assert shown.exit_code == 0
    assert "\x1b[31m" not in shown.stdout
    assert "\x00" not in shown.stdout
    said = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in said
    assert "\x1b" not in said
    for command in (("show", credit), ("inspect", credit, "--json")):
        printed = cli(*command).stdout
        assert "\x1b" not in printed
        assert json.loads(printed) if command[0] == "inspect" else [json.loads(line) for line in printed.splitlines()]
    for format in ("verifiers", "atif", "preference", "unpaired", "prompt_completion"):
        exported = tmp_path / f"{format}.jsonl"
        done = cli("export", credit, "--format", format, "-o", exported)
        assert done.exit_code == 0, done.stderr
        lines = exported.read_bytes().split(b"\n")
        assert all(json.loads(line) for line in lines if line)
        assert b"\x1b" not in exported.read_bytes()
