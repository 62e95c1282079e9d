"""Every finding with a file that has it, and a healthy file in which there is none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.segments import Segments
from apportion.stages.doctor.examination import variety
from apportion.stages.doctor.kind import FINDINGS
from typer.testing import Result

Cli = Callable[..., Result]
GROUPS, SIZE, LENGTH = 16, 4, 40
ROWS = GROUPS * SIZE


def healthy() -> dict[str, Any]:
    """The columns of 64 rollouts, four to each of 16 prompts: half of them right, of 40 tokens or so, all different."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(LENGTH - 8, LENGTH + 8, ROWS)
    ids = [rng.integers(5, 500, length).tolist() for length in lengths]
    reward = np.tile([1.0, 0.0, 0.0, 1.0], GROUPS)
    return {
        "rollout_id": [f"r{row}" for row in range(ROWS)],
        "group_id": [f"g{row // SIZE}" for row in range(ROWS)],
        "prompt": [[{"role": "user", "content": f"question {row // SIZE}"}] for row in range(ROWS)],
        "text": [f"answer {row} " + "because " * (row % 3) for row in range(ROWS)],
        "purpose": ["train"] * ROWS,
        "policy": ["one"] * ROWS,
        "flags": [[] for _ in range(ROWS)],
        "reward": reward.tolist(),
        "token.id": ids,
        "token.mask": [[True] * len(each) for each in ids],
        "token.logprob": [(-rng.random(len(each)) - 0.01).tolist() for each in ids],
        "token.trainer_logprob": None,
        "step.start": [[0, len(each) // 2] for each in ids],
        "step.end": [[len(each) // 2, len(each)] for each in ids],
        "token.advantage": [[float(right - 0.5)] * len(each) for right, each in zip(reward, ids, strict=True)],
    }


def write(path: Path, columns: dict[str, Any]) -> Path:
    """A rollout file of these columns; one that is None is as the sampler's (for log-probabilities of a trainer)."""
    columns = dict(columns)
    if columns["token.trainer_logprob"] is None:
        columns["token.trainer_logprob"] = columns["token.logprob"]
    names = ("rollout_id", "group_id")
    batch = Rollouts(pa.table({name: columns.pop(name) for name in names}))
    columns["reward"] = pa.array(columns["reward"], pa.float64())
    write_rollouts(path, [batch.with_columns(columns)], Provenance())
    return path


@pytest.fixture
def diagnose(cli: Cli, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """diagnose(change) → what doctor says, as JSON, of the healthy file that the function has changed."""

    def run(change: Callable[[dict[str, Any]], None] = lambda columns: None, *words: object) -> dict[str, Any]:
        columns = healthy()
        change(columns)
        result = cli("doctor", write(tmp_path / "file.parquet", columns), "--json", *words)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def test_a_healthy_file_has_no_finding(diagnose: Callable[..., dict[str, Any]]) -> None:
    found = diagnose()
    assert [each["name"] for each in found["findings"]] == []
    assert set(found["not_checked"]) == {"text_drift"}
    assert len(found["measured"]) == len(list(FINDINGS)) - 1


def rows_of(group: int) -> range:
    return range(SIZE * group, SIZE * (group + 1))


def dead(columns: dict[str, Any]) -> None:
    columns["reward"] = [1.0] * (ROWS - SIZE) + [1.0, 0.0, 0.0, 1.0]


def constant(columns: dict[str, Any]) -> None:
    columns["reward"] = [1.0] * ROWS


def alone(columns: dict[str, Any]) -> None:
    columns["group_id"] = [f"g{row}" if row < 8 else f"h{row // SIZE}" for row in range(ROWS)]


def again(columns: dict[str, Any]) -> None:
    for row in rows_of(1):
        columns["prompt"][row] = columns["prompt"][0]


def leaked(columns: dict[str, Any]) -> None:
    again(columns)
    columns["purpose"] = ["eval" if row in rows_of(1) else "train" for row in range(ROWS)]


def two_policies(columns: dict[str, Any]) -> None:
    columns["policy"] = ["one"] * 32 + ["two"] * 32


def collapsed(columns: dict[str, Any]) -> None:
    columns["text"] = [f"the same {row // SIZE}" for row in range(ROWS)]
    columns["reward"] = [float(row // SIZE % 2) for row in range(ROWS)]


def unscored(columns: dict[str, Any]) -> None:
    columns["reward"][5] = None


def failed(columns: dict[str, Any]) -> None:
    for row in range(0, ROWS, SIZE):
        columns["flags"][row] = ["error"]


def cut(columns: dict[str, Any]) -> None:
    for row in range(0, ROWS, 2):
        columns["flags"][row] = ["truncated"]


def cut_and_paid(columns: dict[str, Any]) -> None:
    for row in range(0, ROWS, SIZE):  # the first of each group, which is right
        columns["flags"][row] = ["truncated"]


def long_is_right(columns: dict[str, Any]) -> None:
    columns["reward"] = [float(len(each)) for each in columns["token.id"]]


def noisy(columns: dict[str, Any]) -> None:
    columns["text"][1] = columns["text"][0]


def opposed(columns: dict[str, Any]) -> None:
    columns["rewards.one"] = columns["reward"]
    columns["rewards.two"] = [1 - each for each in columns["reward"]]


def empty(columns: dict[str, Any]) -> None:
    columns["text"][0] = "  "


def repeats(columns: dict[str, Any]) -> None:
    for row in range(0, 4 * SIZE, SIZE):
        columns["token.id"][row] = [7, 8] * (len(columns["token.id"][row]) // 2) + [9] * (
            len(columns["token.id"][row]) % 2
        )


def one_answer(columns: dict[str, Any]) -> None:
    for row in range(0, ROWS, SIZE):
        columns["text"][row] = "I cannot say."


def nothing_own(columns: dict[str, Any]) -> None:
    size = len(columns["token.mask"][3])
    columns["token.mask"][3] = [False] * size
    columns["token.advantage"][3] = [0.0] * size


def tool_text(columns: dict[str, Any]) -> None:
    columns["token.logprob"] = [[0.0] * (len(each) - 2) + each[-2:] for each in columns["token.logprob"]]


def masked(columns: dict[str, Any]) -> None:
    columns["token.mask"][4][:3] = [False] * 3
    columns["token.advantage"][4][:3] = [0.0] * 3


def apart(columns: dict[str, Any]) -> None:
    columns["token.trainer_logprob"] = [[value - 0.2 for value in each] for each in columns["token.logprob"]]


def uncovered(columns: dict[str, Any]) -> None:
    columns["step.start"], columns["step.end"] = [[10]] * ROWS, [[20]] * ROWS


def hollow(columns: dict[str, Any]) -> None:
    columns["step.start"][2], columns["step.end"][2] = [0, 10, 10], [10, 10, 12]


def silent(columns: dict[str, Any]) -> None:
    for row in rows_of(2):
        columns["token.advantage"][row] = [0.0] * len(columns["token.advantage"][row])


def loud(columns: dict[str, Any]) -> None:
    columns["token.advantage"][0] = [1000.0] * len(columns["token.advantage"][0])


def backwards(columns: dict[str, Any]) -> None:
    columns["token.advantage"] = [[-value for value in each] for each in columns["token.advantage"]]


def absent(columns: dict[str, Any]) -> None:
    flat = Ragged.from_lists(
        [[] if row == 9 else each for row, each in enumerate(columns["token.advantage"])], np.float32
    )
    columns["token.advantage"] = Ragged(flat.values, flat.offsets, np.arange(ROWS) != 9)


DISEASES = {
    "dead_groups": dead, "constant_reward": constant, "single_rollouts": alone, "repeated_prompts": again, "evaluated_prompts": leaked,
    "several_policies": two_policies, "same_responses": collapsed, "missing_rewards": unscored, "failed_rollouts": failed,
    "truncated_rollouts": cut, "truncation_rewarded": cut_and_paid, "length_bias": long_is_right, "unsteady_reward": noisy,
    "rewards_against": opposed, "empty_rewarded": empty, "repetition_rewarded": repeats, "one_response_everywhere": one_answer,
    "nothing_to_train": nothing_own, "foreign_tokens_trained": tool_text, "sampled_tokens_masked": masked, "sampler_trainer_gap": apart,
    "tokens_outside_steps": uncovered, "empty_steps": hollow, "no_credit": silent, "one_rollout_dominates": loud,
    "credit_against_reward": backwards, "credit_missing": absent,
}  # fmt: skip
VALUES = {
    "dead_groups": 15 / 16, "constant_reward": 1.0, "repeated_prompts": 2 / 16, "evaluated_prompts": 1.0, "several_policies": 2.0,
    "missing_rewards": 1 / 64, "failed_rollouts": 0.25, "truncated_rollouts": 0.5, "truncation_rewarded": 1 - 1 / 3,
    "length_bias": 1.0, "unsteady_reward": 1.0, "rewards_against": 1.0, "empty_rewarded": 1 / 32, "one_response_everywhere": 0.5,
    "nothing_to_train": 1 / 64, "sampled_tokens_masked": 1 / 64, "sampler_trainer_gap": 0.2, "empty_steps": 1 / 64, "no_credit": 1 / 16,
    "credit_against_reward": 1.0, "credit_missing": 1 / 64, "same_responses": 0.75, "repetition_rewarded": 4 / 32,
}  # fmt: skip


@pytest.mark.parametrize("name", DISEASES)
def test_a_planted_disease_is_found(diagnose: Callable[..., dict[str, Any]], name: str) -> None:
    found = diagnose(DISEASES[name])
    each = next((each for each in found["findings"] if each["name"] == name), None)
    assert each is not None, found["measured"]
    assert each["value"] > each["above"]
    if name in VALUES:
        assert each["value"] == pytest.approx(VALUES[name], rel=1e-6)
    assert each["says"]
    assert each["remedy"]


def test_every_finding_has_a_planted_disease() -> None:
    assert set(DISEASES) | {"text_drift"} == {each.name for each in FINDINGS}


def test_the_ids_are_checked_against_the_text(cli: Cli, chain: Path, tmp_path: Path) -> None:
    result = json.loads(cli("doctor", chain / "credit.parquet", "--only", "text_drift", "--json").stdout)
    assert result["measured"] == {"text_drift": 0.0}
    from apportion.formats.parquet import RolloutFile

    file = RolloutFile(chain / "credit.parquet")
    batch = file.read()
    texts = ["something else", *batch.strings("text")[1:]]
    write_rollouts(tmp_path / "other.parquet", [batch.with_columns({"text": texts})], file.provenance)
    found = json.loads(cli("doctor", tmp_path / "other.parquet", "--only", "text_drift", "--json").stdout)
    assert found["measured"] == {"text_drift": 1 / 48}
    assert found["findings"][0]["examples"] == [batch.strings("rollout_id")[0]]


# ------------------------------------------------------------------------------------------------ the command


def test_thresholds_gates_and_exit_codes(cli: Cli, tmp_path: Path) -> None:
    columns = healthy()
    dead(columns)
    path = write(tmp_path / "file.parquet", columns)
    assert "warning: dead_groups: 15 of 16 groups" in cli("doctor", path).stdout
    lenient = cli("doctor", path, "--set", "dead_groups.above=0.95")
    assert "dead_groups" not in lenient.stdout
    gated = cli("doctor", path, "--fail-if", "dead_groups > 0.5")
    assert (gated.exit_code, gated.stderr) == (5, "error: gate: dead_groups is 0.9375, fails 'dead_groups > 0.5'\n")
    assert "15 of 16 groups" in gated.stdout
    assert cli("doctor", path, "--fail-if", "errors > 0").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "dead_group"], "unknown finding 'dead_group'; did you mean 'dead_groups'?"),
        (["--ignore", "dead_group"], "unknown finding 'dead_group'; did you mean 'dead_groups'?"),
        (["--set", "dead_groups.abov=1"], "unknown option 'abov'; did you mean 'above'?"),
        (["--fail-if", "dead_group > 1"], "unknown figure 'dead_group'; did you mean 'dead_groups'?"),
    ],
)
def test_what_there_is_not_is_one_line_before_the_file_is_read(cli: Cli, words: list[str], said: str) -> None:
    result = cli("doctor", "gone.parquet", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_only_and_ignore(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "file.parquet", healthy())
    only = json.loads(cli("doctor", path, "--only", "dead_groups,length_bias", "--json").stdout)
    assert list(only["measured"]) == ["dead_groups", "length_bias"]
    without = json.loads(cli("doctor", path, "--ignore", "dead_groups", "--json").stdout)
    assert "dead_groups" not in without["measured"]


def test_what_a_file_lacks_is_not_checked_and_says_why(cli: Cli, tmp_path: Path) -> None:
    bare = Rollouts(pa.table({"rollout_id": ["a", "b"], "group_id": ["g", "g"]})).with_columns(
        {"token.id": [[5], [6]], "token.mask": [[True], [True]]}
    )
    write_rollouts(tmp_path / "bare.parquet", [bare], Provenance())
    found = json.loads(cli("doctor", tmp_path / "bare.parquet", "--json").stdout)
    assert "reward" in found["not_checked"]["dead_groups"]
    assert found["findings"] == []


def test_a_directory_is_one_data_set(cli: Cli, tmp_path: Path) -> None:
    columns = healthy()
    write(tmp_path / "a.parquet", columns)
    other = healthy()
    other["rollout_id"] = [f"other-{name}" for name in other["rollout_id"]]
    other["group_id"] = [f"other-{name}" for name in other["group_id"]]
    del other["step.start"], other["step.end"]
    write(tmp_path / "b.parquet", other)
    found = json.loads(cli("doctor", tmp_path, "--json").stdout)
    assert (found["rollouts"], found["groups"]) == (128, 32)
    assert [each["name"] for each in found["findings"]] == ["repeated_prompts"]


def test_hostile_text_is_harmless(cli: Cli, tmp_path: Path) -> None:
    columns = healthy()
    columns["rollout_id"][0] = "\x1b[31mred\x1b[0m\u202e"
    empty(columns)
    result = cli("doctor", write(tmp_path / "file.parquet", columns))
    assert "empty_rewarded" in result.stdout


def test_variety_counts_different_stretches_of_four() -> None:
    ids = np.array([1, 2, 1, 2, 1, 2, 9, 8, 7, 6, 5, 3, 3], np.int32)
    assert variety(ids, Segments.of_sizes(np.array([6, 5, 2]))).tolist() == [2 / 3, 1.0, 1.0]


def test_a_recipe_examines_its_rollouts(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns = healthy()
    dead(columns)
    write(tmp_path / "file.parquet", columns)
    step = "doctor: {rollouts: file.parquet, set: {dead_groups.above: 0.2}, fail_if: ['warnings > 0']}"
    (tmp_path / "recipe.yaml").write_text(f"steps: [{step}]\n")
    result = cli("run", "recipe.yaml")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        5, "error: recipe.yaml, step 1 (doctor): gate: warnings is 1, fails 'warnings > 0'",
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text("steps: [doctor: {rollouts: file.parquet, only: dead_group}]\n")
    assert "unknown finding 'dead_group'; did you mean 'dead_groups'?" in cli("run", "recipe.yaml").stderr
