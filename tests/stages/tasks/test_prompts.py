"""A user's own prompts: without answers, in splits of the user's choice, and as people write files."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.tasks import Task, open_task
from apportion.stages.tasks.drawing import check_references, draw_problems

Rows = list[dict[str, Any]]
HUNDRED: Rows = [{"prompt": f"Name {n} birds."} for n in range(100)]


def task_of(folder: Path, rows: Rows, **options: Any) -> Task:
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_task(str(path), options)


def prompts_of(task: Task, split: str) -> set[str]:
    return {
        problem.prompt[0]["content"]
        for problem in task.problems(split, task.count(split), 0)  # type: ignore[attr-defined]
    }


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "my.txt"
    path.write_bytes(b"\xef\xbb\xbfOne?\r\n\r\n  Two\xe2\x80\xa8lines?\r\n")
    problems = list(open_task(str(path)).problems("all", 2, 0))
    assert {problem.prompt[0]["content"] for problem in problems} == {"One?", "  Two\u2028lines?"}
    assert {problem.reference for problem in problems} == {None}


def test_rows_without_an_answer_have_no_reference(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a"}, {"prompt": "b", "answer": "1"}, {"prompt": "c", "answer": " "}]
    rows += [{"prompt": "d", "answer": None}, {"prompt": "e", "answer": float("nan")}, {"prompt": "f", "answer": []}]
    found = {each.prompt[0]["content"]: each.reference for each in task_of(tmp_path, rows).problems("all", 6, 0)}
    assert found == {"a": None, "b": "1", "c": None, "d": None, "e": None, "f": None}


def test_only_verify_refuses_a_prompt_without_an_answer(tmp_path: Path) -> None:
    task = task_of(tmp_path, [{"prompt": "Name\na bird."}])
    with pytest.raises(DataError, match="this prompt has no reference answer"):
        task.verify("wren", None)
    with pytest.raises(DataError) as fault:
        check_references(task, task.problems("all", 1, 0), "verify")
    assert str(fault.value) == (
        f"{tmp_path}/my.jsonl: row 1: the prompt 'Name a bird.' has no reference answer, which verify needs; name the column "
        "with the answers with --task-set answer_field=…, or score with a function of your own: score --with FILE.py:function"
    )


def test_an_answer_column_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    task = task_of(tmp_path, [{"prompt": "a", "gold": {"label": "1"}}], answer_field="gold.labl")
    with pytest.raises(
        DataError, match=r"no column 'gold.labl' \(found: 'prompt', 'gold'\); did you mean 'gold.label'"
    ):
        task.problems("all", 1, 0)


def test_an_answer_column_that_some_rows_have_is_none(tmp_path: Path) -> None:
    task = task_of(tmp_path, [{"prompt": "a"}, {"prompt": "b", "gold": "1"}], answer_field="gold")
    assert sorted(str(each.reference) for each in task.problems("all", 2, 0)) == ["1", "None"]


def test_all_is_train_and_test_together(tmp_path: Path) -> None:
    task = task_of(tmp_path, HUNDRED)
    train, test = prompts_of(task, "train"), prompts_of(task, "test")
    assert not train & test
    assert prompts_of(task, "all") == train | test == {row["prompt"] for row in HUNDRED}


@pytest.mark.parametrize("spec", ["arithmetic", "reasoning_gym/chain_sum", "env/frozen_lake"])
def test_all_of_a_generated_task_has_problems_of_both(spec: str) -> None:
    task = open_task(spec)
    every = {each.problem_id for each in task.problems("all", 40, 0)}
    assert len(every) == 40
    assert len(list(task.problems("all", 40, 0))) == 40


def test_the_test_problems_of_a_smaller_fraction_are_among_those_of_a_larger_one(tmp_path: Path) -> None:
    shares = [0, 0.1, 0.2, 0.5, 0.99]
    tests = [prompts_of(task_of(tmp_path, HUNDRED, test_fraction=share), "test") for share in shares]
    assert all(one <= other for one, other in pairwise(tests))
    assert tests[0] == set()
    assert tests[2] == prompts_of(task_of(tmp_path, HUNDRED), "test")
    assert 35 <= len(tests[3]) <= 65


@pytest.mark.parametrize("share", [-0.1, 1])
def test_a_fraction_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="test_fraction must be at least 0 and below 1"):
        open_task("my.jsonl", {"test_fraction": share})


def test_a_column_of_the_users_names_the_split(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a", "part": "Train-1", "split": "test"}, {"prompt": "b", "part": "dev", "split": "train"}]
    task = task_of(tmp_path, rows, split_field="part")
    assert (prompts_of(task, "train"), prompts_of(task, "test")) == ({"a"}, {"b"})
    assert prompts_of(task_of(tmp_path, rows, split_field="", test_fraction=0), "train") == {"a", "b"}
    with pytest.raises(UsageError, match="every row names its split, so test_fraction decides nothing"):
        task_of(tmp_path, rows, test_fraction=0.5).problems("all", 1, 0)
    with pytest.raises(DataError, match=r"no column 'prat' .*did you mean 'part'"):
        task_of(tmp_path, rows, split_field="prat").problems("all", 1, 0)


def test_repeated_questions_count_once_and_are_told(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a"}, {"prompt": "a", "answer": "1"}, {"prompt": "a", "answer": "2"}, {"prompt": "b"}]
    task = task_of(tmp_path, rows)
    assert sorted(str(each.reference) for each in task.problems("all", 2, 0)) == ["1", "None"]
    told = "2 rows repeat the question of an earlier one and were left out (1 with another answer)"
    assert task.remarks == [told]  # type: ignore[attr-defined]


def test_without_a_count_all_there_are_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = task_of(tmp_path, HUNDRED, test_fraction=0)
    assert len(draw_problems(task, "train", None, 0, usual=64)) == 64
    assert capsys.readouterr().err == ""
    assert len(draw_problems(task, "train", None, 0, usual=256)) == 100
    assert "takes all 100 train problems that there are" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"101 train problems requested.*only 100.*ask for at most 100"):
        draw_problems(task, "train", 101, 0, usual=64)
    with pytest.raises(UsageError, match="1 test problems requested, but there are only 0"):
        draw_problems(task, "test", None, 0, usual=64)


def test_a_conversation_keeps_its_messages_and_joins_parts_of_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "birds."}]
    row = {"prompt": [{"role": "system", "content": "Brief."}, {"role": "user", "content": parts}]}
    [problem] = task_of(tmp_path, [row]).problems("all", 1, 0)
    assert problem.prompt == [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Name birds."}]
