"""What `--task` names."""

import subprocess
import sys
from pathlib import Path

import pytest
from apportion.formats.errors import UsageError
from apportion.stages.tasks import list_tasks, open_task
from apportion.stages.tasks.arithmetic import Arithmetic
from apportion.stages.tasks.reasoning_gym import ReasoningGym, generator_names
from apportion.stages.tasks.table import TableTask


def test_every_form_is_opened_by_its_family() -> None:
    assert isinstance(open_task("arithmetic"), Arithmetic)
    assert isinstance(open_task("reasoning_gym/chain_sum"), ReasoningGym)
    assert isinstance(open_task("problems.jsonl"), TableTask)
    assert isinstance(open_task("folder/problems.PARQUET"), TableTask)
    assert isinstance(open_task("hf:openai/gsm8k:main"), TableTask)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("arithmetic", {"terms": 2}),
        ("reasoning_gym/leg_counting", {"min_animals": 2, "max_animals": 4, "instruction": "Be brief."}),
    ],
)
def test_spec_and_options_open_the_same_task_again(spec: str, options: dict[str, object]) -> None:
    task = open_task(spec, options)
    again = open_task(task.spec, task.options)
    assert list(again.problems("train", 5, 1)) == list(task.problems("train", 5, 1))
    assert list(again.problems("train", 5, 1)) != list(open_task(spec).problems("train", 5, 1))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("arithmetics", r"unknown task 'arithmetics'; did you mean 'arithmetic'\?"),
        ("chain_sum", r"did you mean 'reasoning_gym/chain_sum'\?"),
        ("reasoning_gim/chain_sum", r"did you mean 'reasoning_gym/chain_sum'\?"),
        ("reasoning_gym/chain_sun", r"unknown reasoning_gym generator 'chain_sun'; did you mean 'chain_sum'\?"),
        ("reasoning_gym", "name a generator, such as reasoning_gym/chain_sum"),
        ("file", "the file must end in .jsonl, .json, .csv, .parquet"),
        ("hf", "name a data set after hf:, such as hf:openai/gsm8k:main"),
        ("hf:", "name a data set after hf:"),
        (
            "zzzzzzzzzz",
            "choose from: arithmetic, env/frozen_lake, env/key_door, file, hf, reasoning_gym/NAME, tool/calculator",
        ),
        ("", "unknown task ''; choose from"),
    ],
)
def test_what_is_no_task(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task(spec)


def test_list_tasks_names_every_family_once() -> None:
    played = ["env/frozen_lake", "env/key_door"], ["tool/calculator", "tool/search"]
    names = ["arithmetic", *played[0], "file", "hf", "reasoning_gym/NAME", *played[1]]
    assert [name for name, _ in list_tasks()] == names
    assert all(summary for _, summary in list_tasks())


def test_reasoning_gym_names_are_sorted_and_with_the_one_that_is_not_imported_by_default() -> None:
    names = generator_names()
    assert names == sorted(set(names))
    assert {"chain_sum", "composite", "zebra_puzzles"} <= set(names)


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy libraries a new process has imported after it."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    heavy = {"reasoning_gym", "datasets", "torch", "pyarrow", "sympy", "math_verify", "numpy"}
    return heavy & set(modules.stdout.split())


def test_opening_a_task_by_name_imports_nothing_heavy() -> None:
    assert loaded_after("from apportion.stages.tasks import open_task; open_task('arithmetic')") == set()
    assert loaded_after("from apportion.stages.tasks import open_task; open_task('hf:openai/gsm8k')") == set()


def test_the_check_of_imports_can_fail() -> None:
    assert "numpy" in loaded_after("import numpy")
