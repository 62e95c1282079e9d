"""Rewards of the task's own verifier."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.sample import sample
from apportion.stages.score import score
from apportion.stages.score.outcome.verify import verify
from apportion.stages.tasks import open_task
from typer.testing import Result

TEXTS = ["7+10=17\n17-12=5", "7+2=9\n9*5=45", "5", "5=", ""]


def answers(texts: list[str], reference: int = 5) -> Rollouts:
    """Responses to one arithmetic problem, without a reward."""
    rollouts = Rollouts(rollouts_of([0.0] * len(texts)).table.drop_columns("reward"))
    return rollouts.with_columns(
        {"text": texts, "task": ["arithmetic"] * len(texts), "reference": [json.dumps(reference)] * len(texts)}
    )


def test_rewards_by_hand() -> None:
    assert verify(answers(TEXTS))["reward"].tolist() == [1, 0, 1, 0, 0]


def test_a_missing_text_is_an_empty_one() -> None:
    rollouts = answers(["5", "5"]).with_columns({"text": pa.array(["5", None], pa.string())})
    assert verify(rollouts)["reward"].tolist() == [1, 0]


@pytest.mark.parametrize(("truncated", "rewards"), [(None, [1, 1]), (0.0, [1, 0]), (-0.5, [1, -0.5])])
def test_a_truncated_response_gets_the_reward_asked_for(truncated: float | None, rewards: list[float]) -> None:
    rollouts = answers(["5", "5"]).with_flag("truncated", np.array([False, True]))
    assert verify(rollouts, truncated=truncated)["reward"].tolist() == rewards


def test_rewards_of_sampled_rollouts_are_those_of_the_task(tmp_path: Path) -> None:
    options = {"terms": 2}
    sample(prompts=8, n=8, max_tokens=40, task_settings=options, device="cpu", out=tmp_path / "raw.parquet")
    score(tmp_path / "raw.parquet", out=tmp_path / "scored.parquet")
    raw, scored = (RolloutFile(tmp_path / f"{name}.parquet").read() for name in ("raw", "scored"))
    task = open_task("arithmetic", options)
    expected = [
        task.verify(text, json.loads(reference))
        for text, reference in zip(raw.strings("text"), raw.strings("reference"), strict=True)
    ]
    assert scored.numbers("reward").tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert scored.table.drop_columns("reward").equals(raw.table)


def test_history_says_with_what_it_was_scored(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "raw.parquet", [answers(TEXTS)], Provenance())
    score(tmp_path / "raw.parquet", settings={"truncated": "0"}, out=tmp_path / "scored.parquet")
    [record] = RolloutFile(tmp_path / "scored.parquet").provenance.history
    assert (record.stage, record.parameters) == (
        "score",
        {"with": "verify", "settings": {"truncated": 0.0, "column": "reward"}},
    )
    assert record.counts["rollouts"] == 5


def test_rollouts_without_a_reference_are_refused(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "raw.parquet", [rollouts_of([1.0])], Provenance())
    with pytest.raises(DataError, match="no column 'task', which verify needs"):
        score(tmp_path / "raw.parquet", out=tmp_path / "scored.parquet")
    assert not (tmp_path / "scored.parquet").exists()


def test_a_reference_that_is_not_json_names_its_row(cli: Callable[..., Result], tmp_path: Path) -> None:
    broken = answers(["5", "5"]).with_columns({"reference": ["5", "five"]})
    write_rollouts(tmp_path / "raw.parquet", [broken], Provenance())
    result = cli("score", tmp_path / "raw.parquet", "-o", tmp_path / "scored.parquet")
    assert result.exit_code == 3, result.exception
    assert "row 1" in result.stderr and "reference" in result.stderr


def test_an_unknown_scorer_is_a_did_you_mean(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown scorer 'verfy'; did you mean 'verify'"):
        score(tmp_path / "raw.parquet", scorer="verfy", out=tmp_path / "scored.parquet")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("reference", "[" * 5000, "row 1, column 'reference': .*, expected JSON"),
        ("reference", "{", "row 1, column 'reference': '{', expected JSON"),
        ("task", None, "row 1, column 'task': missing"),
        ("task_options", "{", "row 1, column 'task_options': '{', expected an object of JSON"),
        ("task_options", "[1]", "row 1, column 'task_options': .*, expected an object of JSON"),
    ],
)
def test_what_a_file_says_of_its_task_is_checked(column: str, value: str | None, message: str) -> None:
    rollouts = answers(["5", "5"])
    kept = rollouts.strings(column) if column in rollouts else ["{}", "{}"]
    rollouts = rollouts.with_columns({column: pa.array([kept[0], value], pa.string())})
    with pytest.raises(DataError, match=message):
        verify(rollouts)


def test_a_hostile_file_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "__import__('pathlib').Path('ran').touch()"
    entry = {"answer": code, "metadata": {"integrand": code, "variable": "x", "source_dataset": "chain_sum"}}
    rollouts = answers([f"<answer>{code}</answer>"]).with_columns(
        {"task": ["reasoning_gym/simple_integration"], "reference": [json.dumps(entry)]}
    )
    with pytest.raises(DataError, match=r"row 0, column 'reference': the reference holds .*, which is not a formula"):
        verify(rollouts)
    problem = {"answer": "0x1", "metadata": {"problem": code}}
    rollouts = rollouts.with_columns({"task": ["reasoning_gym/bitwise_arithmetic"], "reference": [json.dumps(problem)]})
    assert verify(rollouts)["reward"].tolist() == [0.0]
    assert not list(tmp_path.iterdir())
