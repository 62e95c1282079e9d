"""Trajectories of Harbor: as dictionaries, and through Harbor's own classes where they are installed (pip install harbor==0.26.0)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Cli = Callable[..., Result]
Wire = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(params=[pytest.param(False, id="ours"), pytest.param(True, id="harbor", marks=pytest.mark.peers)])
def wire(request: pytest.FixtureRequest) -> Wire:
    """What makes a trajectory's record: nothing more than the dictionary, or Harbor's class."""
    if not request.param:
        return lambda record: record
    trajectory = pytest.importorskip("harbor.models.trajectories").Trajectory
    return lambda record: trajectory.model_validate(record).to_json_dict()


def trajectory(steps: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    agent = {"name": "terminus-2", "version": "1"}
    return {
        "schema_version": "ATIF-v1.8", "session_id": "s", "agent": agent,
        "steps": [{"step_id": number + 1, **step} for number, step in enumerate(steps)], **more,
    }  # fmt: skip


def asked(text: str = "list files", **more: Any) -> dict[str, Any]:
    return {"source": "user", "message": text, **more}


def acted(text: str, prompt: list[int] | None, ids: list[int], seen: str | None = None, **more: Any) -> dict[str, Any]:
    """A step of the agent, with token ids if it has a prompt, and what it saw after it."""
    found: dict[str, Any] = {"source": "agent", "message": text, **more}
    if prompt is not None:
        logprobs = [-0.25] * len(ids)
        found["metrics"] = {"prompt_token_ids": prompt, "completion_token_ids": ids, "logprobs": logprobs}
    if seen is not None:
        found["observation"] = {"results": [{"content": seen}]}
    return found


def result(reward: dict[str, float] | None, name: str = "t1", **more: Any) -> dict[str, Any]:
    return {
        "task_name": "files", "trial_name": name, "agent_info": {"name": "terminus-2", "version": "1", "model_info": {"name": "m"}},
        "verifier_result": None if reward is None else {"rewards": reward}, **more,
    }  # fmt: skip


def write(path: Path, record: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


TURNS = [asked(), acted("ls", [1, 2, 3], [5, 6], "a b"), acted("done", [1, 2, 3, 5, 6, 7], [8])]


def test_calls_that_go_on_are_one_row_with_a_step_each(cli: Cli, tmp_path: Path, wire: Wire) -> None:
    for name, reward in (("t1", 1.0), ("t2", 0.0)):
        write(tmp_path / "job" / name / "agent" / "trajectory.json", wire(trajectory(TURNS)))
        write(tmp_path / "job" / name / "result.json", result({"reward": reward, "style": 0.5}, name))
    out, credit = tmp_path / "out.parquet", tmp_path / "credit.parquet"
    done = cli("import", tmp_path / "job", "-o", out)
    assert done.exit_code == 0, done.stderr
    batch = RolloutFile(out).read()
    assert batch.strings("rollout_id") == ["t1", "t2"]
    assert batch.strings("group_id") == ["files/terminus-2/m"] * 2
    assert batch.arrow("prompt_ids")[0].as_py() == [1, 2, 3]
    assert batch.token_ids[0].tolist() == [5, 6, 7, 8]
    assert batch.mask[:4].tolist() == [True, True, False, True]
    assert batch.ragged("token.logprob")[0].tolist() == [-0.25, -0.25, 0, -0.25]
    assert (batch.arrow("step.start")[0].as_py(), batch.arrow("step.end")[0].as_py()) == ([0, 3], [2, 4])
    assert batch.numbers("reward").tolist() == [1.0, 0.0]
    assert batch.numbers("rewards.style").tolist() == [0.5, 0.5]
    assert batch.arrow("prompt")[0].as_py() == [{"role": "user", "content": "list files"}]
    assert batch.strings("text")[0] == "lsa bdone"
    assert RolloutFile(out).provenance.facts["tokens_exact"] is True
    assert cli("validate", out).exit_code == 0
    assert cli("assign-credit", out, "--method", "turn_return", "-o", credit).exit_code == 0
    assert cli("inspect", credit).exit_code == 0


def test_context_that_was_rewritten_begins_a_part_and_copied_steps_belong_to_the_prompt(
    cli: Cli, tmp_path: Path, wire: Wire
) -> None:
    agent = tmp_path / "t1" / "agent"
    first = trajectory(TURNS, continued_trajectory_ref="trajectory.cont-1.json")
    copied = [asked("summary"), acted("ls", [1, 2, 3], [5, 6], "a b", is_copied_context=True)]
    after = trajectory([*copied, acted("more", [1, 9], [4])])
    write(agent / "trajectory.json", wire(first))
    write(agent / "trajectory.cont-1.json", wire(after))
    write(tmp_path / "t1" / "result.json", result({"reward": 1.0}))
    out = tmp_path / "out.parquet"
    assert cli("import", tmp_path / "t1", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.strings("rollout_id") == ["t1/0", "t1/1"]
    assert batch.strings("episode_id") == ["t1", "t1"]
    assert batch.arrow("part").to_pylist() == [0, 1]
    assert batch.token_ids[1].tolist() == [4]
    assert batch.arrow("prompt_ids")[1].as_py() == [1, 9]
    assert [each["content"] for each in batch.arrow("prompt")[1].as_py()] == ["summary", "ls", "a b"]
    assert batch.strings("text") == ["lsa bdone", "more"]


def test_sub_agents_in_the_file_and_beside_it_are_parts_with_a_lineage(cli: Cli, tmp_path: Path, wire: Wire) -> None:
    inner = trajectory([asked("sub"), acted("x", [3], [4])], trajectory_id="sub-1")
    inner["agent"] = {"name": "searcher", "version": "1"}
    beside = trajectory([asked("sum"), acted("y", [6], [7])])
    beside["agent"] = {"name": "summariser", "version": "1"}
    refs = [{"trajectory_path": "trajectory.sub.json"}]
    steps = [asked(), acted("ls", [1, 2], [5])]
    steps[1]["observation"] = {"results": [{"content": "seen", "subagent_trajectory_ref": refs}]}
    agent = tmp_path / "t1" / "agent"
    write(agent / "trajectory.json", wire(trajectory(steps, subagent_trajectories=[inner])))
    write(agent / "trajectory.sub.json", wire(beside))
    write(tmp_path / "t1" / "result.json", result({"reward": 1.0}))
    out = tmp_path / "out.parquet"
    assert cli("import", tmp_path / "t1", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.strings("lineage") == [None, "searcher", "summariser"]
    assert [batch.token_ids[row].tolist() for row in range(3)] == [[5], [4], [7]]


def test_the_steps_of_a_task_are_one_episode_with_the_verifiers_rewards(cli: Cli, tmp_path: Path, wire: Wire) -> None:
    steps = [{"step_name": name, "verifier_result": {"rewards": {"reward": reward}}} for name, reward in (("a", 1.0), ("b", 0.0))]  # fmt: skip
    for number, name in enumerate("ab"):
        turns = [asked(), acted("go", [1], [10 + number], "s"), acted("on", [1, 10 + number, 2], [20 + number])]
        write(tmp_path / "t1" / "steps" / name / "agent" / "trajectory.json", wire(trajectory(turns)))
    write(tmp_path / "t1" / "result.json", result({"reward": 0.5}, step_results=steps))
    out = tmp_path / "out.parquet"
    assert cli("import", tmp_path / "t1", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.strings("episode_id") == ["t1"] * 2
    assert batch.arrow("step.reward").to_pylist() == [[0.0, 1.0], [0.0, 0.0]]
    assert batch.numbers("reward").tolist() == [0.5, 0.5]


def test_an_agent_that_collects_no_ids_gives_text_and_details_of_the_result_give_ids(cli: Cli, tmp_path: Path, wire: Wire) -> None:  # fmt: skip
    said = [asked(), acted("ls", None, [], "a b", reasoning_content="think"), acted("done", None, [])]
    write(tmp_path / "t1" / "agent" / "trajectory.json", wire(trajectory(said)))
    write(tmp_path / "t1" / "result.json", result({"exact": 1.0}))
    out = tmp_path / "out.parquet"
    assert cli("import", tmp_path / "t1" / "agent" / "trajectory.json", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert RolloutFile(out).provenance.facts["tokens_exact"] is False
    assert batch.strings("text") == ["think\nlsa bdone"]
    assert batch.numbers("reward").tolist() == [1.0]
    assert batch.mask.tolist() == [True] * 8 + [False] * 3 + [True] * 4
    details = [
        {"prompt_token_ids": [[1, 2], [1, 2, 5, 6]], "completion_token_ids": [[5], [7]], "logprobs": [[-1.0], [-2.0]]}
    ]
    write(tmp_path / "t1" / "result.json", result({"exact": 1.0}, agent_result={"rollout_details": details}))
    assert cli("import", tmp_path / "t1", "-o", out, "--force").exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.token_ids[0].tolist() == [5, 6, 7]
    assert batch.ragged("token.logprob")[0].tolist() == [-1.0, 0.0, -2.0]
    assert batch.strings("text") == ["think\nlsa bdone"]


def test_failed_trials_are_flagged_and_several_rewards_want_a_name(cli: Cli, tmp_path: Path) -> None:
    fault = {"exception_type": "AgentTimeoutError", "exception_message": "late"}
    for name, is_valid in (("t1", True), ("t2", False)):
        write(tmp_path / "job" / name / "agent" / "trajectory.json", trajectory(TURNS))
        write(tmp_path / "job" / name / "result.json", result({"a": 1.0, "b": 0.0}, name, exception_info=fault, reward_valid=is_valid))  # fmt: skip
    out = tmp_path / "out.parquet"
    refused = cli("import", tmp_path / "job", "-o", out)
    assert refused.exit_code == 2, refused.stderr
    assert "several rewards (a, b); give --set reward_key=NAME" in " ".join(refused.stderr.split())
    assert cli("import", tmp_path / "job", "--set", "reward_key=b", "-o", out).exit_code == 0
    batch = RolloutFile(out).read()
    assert batch.arrow("flags").to_pylist() == [["truncated"], ["error"]]
    assert batch.strings("error") == [None, "AgentTimeoutError: late"]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (acted("ls", [1], [2, 3]) | {"metrics": {"prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprobs": [-1]}},
         "step 2: 1 log-probabilities for 2 token ids"),
        (acted("ls", [1], [2]) | {"metrics": {"prompt_token_ids": ["x"], "completion_token_ids": [2]}},
         "step 2, prompt ids: expected one list of whole numbers"),
        (acted("ls", [1], [2]) | {"metrics": 3}, "not the shape that importer atif reads"),
    ],
)  # fmt: skip
def test_a_corrupted_step_is_named(turn: dict[str, Any], message: str, cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "job" / "t1" / "agent" / "trajectory.json", trajectory([asked(), turn]))
    write(tmp_path / "job" / "t1" / "result.json", result({"reward": 1.0}))
    write(tmp_path / "job" / "t2" / "agent" / "trajectory.json", trajectory(TURNS))
    write(tmp_path / "job" / "t2" / "result.json", result({"reward": 1.0}, "t2"))
    refused = cli("import", tmp_path / "job", "-o", tmp_path / "out.parquet")
    assert refused.exit_code == 3, refused.stderr
    assert message in " ".join(refused.stderr.split())
    kept = cli("import", tmp_path / "job", "--lenient", "-o", tmp_path / "out.parquet")
    assert kept.exit_code == 4
    assert len(RolloutFile(tmp_path / "out.parquet").read()) == 1
