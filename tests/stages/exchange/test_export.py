"""`export` in the formats that hold tokens: what is exported and imported again is the same, credit included."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from typer.testing import Result

Cli = Callable[..., Result]
HOSTILE = "=cmd|' /C calc'!A0\u2028</script>\u0000\"\\\n"


@pytest.fixture
def credited(cli: Cli, tmp_path: Path) -> Path:
    """Three rollouts of turns with a tool's tokens between them, the second an episode in two parts that share their first turn."""
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": HOSTILE}]
    rows = [
        {"rollout_id": "a", "reward": 1.0, "ids": [5, 6, 20, 7], "mask": [1, 1, 0, 1], "steps": ([0, 3], [2, 4])},
        {"rollout_id": "b/0", "reward": 0.0, "ids": [5, 8, 21, 9], "mask": [1, 1, 0, 1], "steps": ([0, 3], [2, 4]), "part": 0},
        {"rollout_id": "b/1", "reward": 0.0, "ids": [5, 8, 22, 4], "mask": [1, 1, 0, 1], "steps": ([0, 3], [2, 4]), "part": 1},
        {"rollout_id": "c", "reward": 0.5, "ids": [3], "mask": [1], "steps": ([0], [1])},
    ]  # fmt: skip
    table = pa.table(
        {
            "rollout_id": [row["rollout_id"] for row in rows], "group_id": ["3/g/solver"] * 4, "prompt": [asked] * 4,
            "prompt_ids": [[1, 2]] * 4, "reward": [row["reward"] for row in rows], "rewards": [{"exact": row["reward"]} for row in rows],
            "episode_id": [None, "b", "b", None], "part": pa.array([row.get("part") for row in rows], pa.int32()),
            "iteration": [3] * 4, "text": ["one two", "one", "two", "x"],
        }
    )  # fmt: skip
    batch = Rollouts(table).with_columns(
        {
            "token.id": pa.array([row["ids"] for row in rows], pa.list_(pa.int32())),
            "token.mask": pa.array([[bool(each) for each in row["mask"]] for row in rows], pa.list_(pa.bool_())),
            "token.logprob": pa.array([[-0.25 * each for each in row["mask"]] for row in rows], pa.list_(pa.float32())),
            "token.trainable": pa.array([None, None, [False, False, False, True], None], pa.list_(pa.bool_())),
            "step.start": pa.array([row["steps"][0] for row in rows], pa.list_(pa.int32())),
            "step.end": pa.array([row["steps"][1] for row in rows], pa.list_(pa.int32())),
            "step.reward": pa.array([[0.5, 1.5], [0.0, 1.0], [0.0, 0.25], [2.0]], pa.list_(pa.float64())),
        }
    )
    source, out = tmp_path / "source.parquet", tmp_path / "credited.parquet"
    write_rollouts(source, [batch], Provenance())

    done = cli("assign-credit", source, "--method", "turn_return", "-o", out)
    assert done.exit_code == 0, done.stderr
    return out


def same(first: Rollouts, second: Rollouts, *paths: str) -> None:
    for path in paths:
        assert first.arrow(path).to_pylist() == second.arrow(path).to_pylist(), path


TOKENS = (
    "rollout_id", "prompt_ids", "token.id", "token.mask", "token.logprob", "step.start", "step.end", "reward", "rewards.exact",
    "episode_id", "part", "prompt",
)  # fmt: skip


def test_traces_of_verifiers_come_back_as_they_were(cli: Cli, credited: Path, tmp_path: Path) -> None:
    traces, again = tmp_path / "traces.jsonl", tmp_path / "again.parquet"
    assert cli("export", credited, "--format", "verifiers", "--set", "agent=solver", "-o", traces).exit_code == 0
    lines = [json.loads(line) for line in traces.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3
    # The two parts share the prompt and the first turn, which are in the trace once.
    assert [len(each["traces"][0]["nodes"]) for each in lines] == [5, 7, 3]
    assert cli("import", traces, "-o", again).exit_code == 0
    before, after = RolloutFile(credited).read(), RolloutFile(again).read()
    same(before, after, *TOKENS, "group_id", "iteration")
    assert before.trainable.tolist() == after.trainable.tolist()
    assert before.ragged("token.advantage").values.tolist() == after.ragged("token.advantage_verifiers").values.tolist()
    assert before.ragged("token.advantage").values.any()


def test_parts_that_give_a_shared_token_different_credit_have_no_trace(
    cli: Cli, credited: Path, tmp_path: Path
) -> None:
    batch = RolloutFile(credited).read().with_columns(
        {
            "token.trainable": pa.array([None] * 4, pa.list_(pa.bool_())),
            "token.advantage": pa.array([[1, 1, 0, 1], [1, 1, 0, 1], [2, 2, 0, 1], [1]], pa.list_(pa.float32())),
        }
    )  # fmt: skip
    source = tmp_path / "other.parquet"
    write_rollouts(source, [batch], Provenance())
    refused = cli("export", source, "--format", "verifiers", "-o", tmp_path / "traces.jsonl")
    assert refused.exit_code == 3
    assert "episode b: its parts give tokens that they share different credit" in " ".join(refused.stderr.split())
    assert not (tmp_path / "traces.jsonl").exists()


def test_trajectories_of_atif_come_back_with_the_credit_of_their_steps(
    cli: Cli, credited: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "trajectories.jsonl", tmp_path / "again.parquet"
    assert cli("export", credited, "--format", "atif", "-o", out).exit_code == 0
    assert cli("import", out, "-o", again).exit_code == 0
    before, after = RolloutFile(credited).read(), RolloutFile(again).read()
    same(before, after, *TOKENS, "group_id")
    first = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    credit = [step["extra"]["credit"]["sum"] for step in first["steps"] if "extra" in step]
    values = before.ragged("token.advantage")[0]
    assert credit == [float(values[:2].sum()), float(values[3])]
    assert cli("export", credited, "--format", "atif", "-o", tmp_path / "x.parquet").exit_code == 2


def test_a_tokenizer_gives_every_message_its_text(cli: Cli, credited: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl"
    settings = ("--set", "tokenizer=builtin:characters")
    assert cli("export", credited, "--format", "verifiers", *settings, "-o", out).exit_code == 0
    nodes = json.loads(out.read_text(encoding="utf-8").splitlines()[0])["traces"][0]["nodes"]
    assert [each["message"]["content"] for each in nodes[2:]] == ["\x05\x06", "\x14", "\x07"]


@pytest.mark.peers
def test_the_sources_own_classes_take_what_is_exported(cli: Cli, credited: Path, tmp_path: Path) -> None:
    traces, out = tmp_path / "traces.jsonl", tmp_path / "trajectories.jsonl"
    checked = 0
    try:
        from verifiers.v1.episode import WireEpisode  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        pass
    else:
        assert cli("export", credited, "--format", "verifiers", "-o", traces).exit_code == 0
        for line in traces.read_text(encoding="utf-8").splitlines():
            episode: Any = WireEpisode.model_validate(json.loads(line))
            assert [branch.sampled_mask.count(True) for branch in episode.traces[0].branches]
            checked += 1
    try:
        from harbor.models.trajectories import Trajectory  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        pass
    else:
        assert cli("export", credited, "--format", "atif", "-o", out).exit_code == 0
        for line in out.read_text(encoding="utf-8").splitlines():
            Trajectory.model_validate(json.loads(line))
            checked += 1
    if not checked:
        pytest.skip("neither verifiers nor Harbor is installed")
