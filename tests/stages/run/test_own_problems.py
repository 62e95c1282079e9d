"""Recipes on a user's own file: hints and solutions come from the columns that the user names."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.stages.models.policy import load_tokenizer
from apportion.stages.run import run
from apportion.stages.run._run import Ran
from apportion.stages.tasks import open_task
from typer.testing import Result

SMALL: dict[str, Any] = {"rounds": 1, "n": 4, "eval_prompts": 2, "max_tokens": 40}
PLAIN = {
    "int": {"solver": "{question}\n{solution}", "critic": "{attempt}", "separator": "\n", "critic_tokens": 24, "proposals": 1, "k": 2}
    | {"solution": "column:worked.solution", "learnt": "'intervention' in flags or reward == 1", "interventions": 6},
    "r3l": {"reflector": "{question}\n{steps}", "guidance": "{question}\n{reflection}", "reflection_tokens": 24},
    "search-r2": {"refiner": "{question}\n{steps}", "refiner_tokens": 24},
    "rise": {"editor": "{question}\n{before}{step}\n{instruction}", "editor_tokens": 24, "n": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight problems of ours, two of them held out, with hints and solutions beside them."""
    path = tmp_path_factory.mktemp("own") / "my.jsonl"
    task = open_task("arithmetic")
    rows = [
        {
            "prompt": problem.prompt[-1]["content"],
            "answer": str(problem.reference),
            "hint": "\n".join(solution.splitlines()[:2]),
            "worked": {"solution": solution, "by": "us"},
            "level": number,
            "split": "test" if number > 6 else "train",
        }
        for number, problem in enumerate(task.problems("train", 8, 5), 1)
        for solution in [task.demonstrate(problem, Random(0))]  # type: ignore[attr-defined]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_guide_reads_the_hints_of_the_file(own: Path, tmp_path: Path) -> None:
    hints = {row["prompt"]: row["hint"] for row in map(json.loads, own.read_text().splitlines())}
    settings = SMALL | {"task": str(own), "warmups": 0, "hint": "column:hint", "prompts": 6, "n": 2, "seed": 3}
    run("guide", folder=tmp_path, settings=settings)
    batch = RolloutFile(tmp_path / "0/hinted.parquet").read()
    rows = np.flatnonzero(batch.flagged("hinted")).tolist()
    assert rows
    read, tokenizer = batch.ragged("behaviour_prompt_ids"), load_tokenizer("builtin:tiny")
    for row in rows:
        question = batch.arrow("prompt")[row].as_py()[-1]["content"]
        assert tokenizer.decode(read[row]) == f"<bos>{question}\n{hints[question]}<answer>"
    told = [json.loads(text) for text in batch.strings("task_row")]
    assert {tuple(row) for row in told} == {("answer", "hint", "worked", "level", "split")}


@pytest.mark.long
def test_guide_can_learn_to_read_them(own: Path, tmp_path: Path) -> None:
    settings = {
        "lessons": 6,
        "attempts": 1,
        "warmup_epochs": 1,
        "solution": "column:worked.solution",
        "prompts": 6,
        "n": 2,
    }
    run("guide", folder=tmp_path, settings=SMALL | {"task": str(own), "hint": "column:hint"} | settings)
    lessons = RolloutFile(tmp_path / "warmup-0/lessons.parquet").read()
    taught = lessons.take(np.flatnonzero(lessons.flagged("demonstration")))
    solutions = {row["worked"]["solution"] for row in map(json.loads, own.read_text().splitlines())}
    assert len(taught) == 6
    assert {text.removesuffix("<eos>") for text in taught.strings("text")} <= solutions


@pytest.mark.parametrize(
    "name", ["int", *(pytest.param(name, marks=pytest.mark.long) for name in PLAIN if name != "int")]
)
def test_recipes_that_look_at_their_own_work_leave_arithmetic(own: Path, tmp_path: Path, name: str) -> None:
    settings = SMALL | {"task": str(own), "warmups": 0, "prompts": 6} | PLAIN[name]
    ran = run(name, folder=tmp_path, settings=settings)
    assert isinstance(ran, Ran)
    assert ran.ran == ran.steps
    made = RolloutFile(
        tmp_path / {"int": "interventions.parquet", "rise": "0/pairs.parquet"}.get(name, "0/rescored.parquet")
    ).read()
    assert set(made.strings("task")) == {str(own)}
    assert None not in made.strings("task_row")


def test_a_column_that_is_not_there_or_no_text_is_refused(
    own: Path, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    sampled, scored = tmp_path / "a.parquet", tmp_path / "b.parquet"
    assert cli("sample", "--task", own, "--prompts", 6, "-n", 2, "--max-tokens", 24, "-o", sampled).exit_code == 0
    assert cli("score", sampled, "-o", scored).exit_code == 0
    command = ("sample", "--from", scored, "--strategy", "intervene", "--max-tokens", 24, "--set", "critic_tokens=8", "--set",
               "proposals=1", "--set", "k=1", "--set", "critic='{attempt}'", "--set", "solver='{solution}'", "--force",
               "-o", tmp_path / "c.parquet")  # fmt: skip
    assert cli(*command, "--set", "solution_from=column:worked.solution").exit_code == 0
    wrong = cli(*command, "--set", "solution_from=column:worked.solutoin")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (3, 1)
    assert "no column 'worked.solutoin'" in wrong.stderr
    assert "'hint', 'worked', 'level', 'split'" in wrong.stderr
    number = cli(*command, "--set", "solution_from=column:level")
    assert number.exit_code == 3
    assert "column 'level'" in number.stderr
    assert "must be a text" in number.stderr


def test_only_the_columns_that_are_named_are_kept(own: Path) -> None:
    [problem] = open_task(str(own), {"columns": "hint, worked.by"}).problems("train", 1, 1)
    assert problem.row is not None
    assert list(problem.row) == ["hint", "worked.by"]
    assert problem.row["worked.by"] == "us"
    [problem] = open_task(str(own), {"columns": ""}).problems("train", 1, 1)
    assert problem.row == {}
