"""Tasks in one file."""

import csv
import json
import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.tasks import Task, open_task

INSTRUCTION = "\n\nPut your final answer within \\boxed{}."
ROWS = [{"question": f"What is {n}+{n}?", "answer": f"It is.\n#### {2 * n}"} for n in range(100)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {".jsonl": write_jsonl, ".json": write_json, ".csv": write_csv, ".parquet": write_parquet}


def task_of(path: Path, rows: list[dict[str, Any]], options: Mapping[str, Any] | None = None) -> Task:
    WRITERS[path.suffix](path, rows)
    return open_task(str(path), options)


def contents(task: Task, split: str, count: int, seed: int = 0) -> list[str]:
    return [problem.prompt[-1]["content"] for problem in task.problems(split, count, seed)]


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_holds_the_same_problems(tmp_path: Path, suffix: str) -> None:
    task = task_of(tmp_path / f"a{suffix}", ROWS)
    expected = task_of(tmp_path / "expected.jsonl", ROWS)
    problems = list(task.problems("train", 70, 5))
    assert problems == list(expected.problems("train", 70, 5))
    number = int(problems[0].reference) // 2
    assert problems[0].prompt == [{"role": "user", "content": f"What is {number}+{number}?{INSTRUCTION}"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_line_separators_within_a_text_and_a_byte_order_mark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, [{"prompt": "Zeile\u2028\nzwei, „drei“", "answer": "ä", "split": "train"}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    task = open_task(str(path))
    assert contents(task, "train", 1) == ["Zeile\u2028\nzwei, „drei“"]


def test_a_long_text_in_a_csv_and_a_character_of_two_escapes(tmp_path: Path) -> None:
    long = "a " * 100_000
    (tmp_path / "a.csv").write_text(f"question,answer,split\n{long},b,train\n")
    (tmp_path / "a.jsonl").write_text(r'{"question": "\ud83d\ude00?", "answer": "b", "split": "train"}')
    for name, question in (("a.csv", long.rstrip()), ("a.jsonl", "\U0001f600?")):
        (problem,) = open_task(str(tmp_path / name)).problems("train", 1, 0)
        assert problem.prompt[0]["content"].startswith(question)


def test_without_a_split_column_the_question_decides(tmp_path: Path) -> None:
    task = task_of(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UsageError, match=r"200 test problems requested.*by split: train (\d+), test (\d+)"):
        task.problems("test", 200, 0)
    test = contents(task, "test", 10)
    train = contents(task, "train", 70)
    assert len({*test, *train}) == 80
    # The same questions in another order, with others between them, are in the same splits.
    other = task_of(tmp_path / "b.jsonl", [{"question": "New?", "answer": "yes"}, *reversed(ROWS)])
    with pytest.raises(UsageError) as fault:
        other.problems("train", 200, 0)
    everything = int(str(fault.value).split("by split: train ")[1].split(",")[0])
    assert not set(test) & set(contents(other, "train", everything))


def test_the_seed_decides_the_order_and_more_begin_alike(tmp_path: Path) -> None:
    task = task_of(tmp_path / "a.jsonl", ROWS)
    assert contents(task, "train", 50, seed=1)[:20] == contents(task, "train", 20, seed=1)
    assert contents(task, "train", 50, seed=1) != contents(task, "train", 50, seed=2)


def test_a_split_column_decides(tmp_path: Path) -> None:
    rows = [{**row, "split": split} for row, split in zip(ROWS, ["train", "test", "validation"] * 33, strict=False)]
    task = task_of(tmp_path / "a.csv", rows)
    assert sorted(contents(task, "train", 33)) == sorted(row["question"] + INSTRUCTION for row in rows[::3])
    with pytest.raises(UsageError, match="train 33, test 66"):
        task.problems("train", 34, 0)


def test_a_question_in_both_splits_is_a_test_question(tmp_path: Path) -> None:
    rows = [{"prompt": "Same?", "answer": answer, "split": split} for answer, split in [("1", "train"), ("2", "test")]]
    task = task_of(tmp_path / "a.jsonl", [*rows, {**rows[0], "prompt": "Other?"}])
    assert contents(task, "test", 1) == ["Same?"]
    assert contents(task, "train", 1) == ["Other?"]


def test_verl_prompt_parquet(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": f"{n}+1?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
            "extra_info": {"split": "train" if n else "test", "index": n, "answer": f"#### {n + 1}"},
        }
        for n in range(3)
    ]
    task = task_of(tmp_path / "train.parquet", rows)
    (test,) = task.problems("test", 1, 0)
    assert test.prompt == rows[0]["prompt"]
    assert test.reference == "1"
    assert sorted(problem.reference for problem in task.problems("train", 2, 0)) == ["2", "3"]
    assert task.verify("#### 1", test.reference) == 1.0


def test_verl_several_accepted_answers(tmp_path: Path) -> None:
    row = {"prompt": "Who?", "reward_model": {"ground_truth": {"target": ["Ada", "Lovelace"]}}, "split": "train"}
    task = task_of(tmp_path / "a.parquet", [row])
    (problem,) = task.problems("train", 1, 0)
    assert problem.reference == ["Ada", "Lovelace"]
    assert [task.verify(text, problem.reference) for text in ("Answer: ada", "Answer: Bob")] == [1.0, 0.0]


def test_options_name_the_columns_and_the_instruction(tmp_path: Path) -> None:
    rows = [{"ask": {"text": "2+2?"}, "gold": 4, "answer": 5, "split": "train"}]
    options = {"prompt_field": "ask.text", "answer_field": "gold", "instruction": "Be brief."}
    task = task_of(tmp_path / "a.jsonl", rows, options)
    (problem,) = task.problems("train", 1, 0)
    assert (problem.prompt[0]["content"], problem.reference) == ("2+2?\n\nBe brief.", "4")
    assert task.options == options


def test_the_instruction_is_no_part_of_what_a_problem_is(tmp_path: Path) -> None:
    with_it = task_of(tmp_path / "a.jsonl", ROWS).problems("train", 50, 0)
    without = task_of(tmp_path / "a.jsonl", ROWS, {"instruction": ""}).problems("train", 50, 0)
    for one, other in zip(with_it, without, strict=True):
        assert one.problem_id == other.problem_id
        assert one.prompt[0]["content"] == other.prompt[0]["content"] + INSTRUCTION


def test_answers_are_verified_without_the_file(tmp_path: Path) -> None:
    task = open_task(str(tmp_path / "gone.jsonl"))
    assert [task.verify(text, "1/2") for text in (r"\boxed{0.5}", "#### 0.5", "#### 0.6", "")] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.jsonl", b"", DataError, "no rows"),
        ("a.json", b"[]", DataError, "no rows"),
        ("a.csv", b"question,answer\n", DataError, "no rows"),
        ("a.jsonl", b'{"question": "a", "answer": "b"}\n{oops', DataError, "line 2: Expecting property name"),
        ("a.json", b"[1, 2", DataError, "Expecting ',' delimiter"),
        ("a.jsonl", b"5\n", DataError, "row 1 must be an object, got 5"),
        ("a.json", b"[" * 100_000, DataError, "lists or objects are nested too deeply to read"),
        (
            "a.jsonl",
            rb'{"question": "a\ud83d?", "answer": "b"}',
            DataError,
            r"row 1: '\\ud83d' is only half a character",
        ),
        ("a.jsonl", b"\xff\xfe{}", DataError, "can't decode byte 0xff"),
        ("a.csv", b'question,answer\n"a"b,c\n', DataError, "expected after"),
        ("a.parquet", b"no Parquet at all", DataError, "Parquet magic bytes not found"),
        ("a.csv", b"ask,gold\na,b\n", DataError, "row 1: no column 'prompt' or 'question' or 'problem'.*prompt_field="),
        (
            "a.jsonl",
            b'{"prompt": "a"}\n{"question": "b"}',
            DataError,
            r"row 2: no column 'prompt' \(found: 'question'\)",
        ),
        ("a.jsonl", b'{"prompt": " "}', DataError, "row 1: column 'prompt' is empty"),
        (
            "a.jsonl",
            b'{"prompt": [{"role": "assistant", "content": "a"}]}',
            DataError,
            "ends with a message of the assistant",
        ),
        (
            "a.jsonl",
            b'{"question": 5, "answer": "b"}',
            DataError,
            "column 'question' must be a text or a list of .*, got 5",
        ),
        ("a.jsonl", b'{"prompt": [{"role": "user"}], "answer": "b"}', DataError, "list of {role, content}"),
        (
            "a.jsonl",
            b'{"question": "a", "answer": {"b": 1}}',
            DataError,
            "column 'answer' must be a text, a number.*, got {'b': 1}",
        ),
        ("gone.jsonl", None, UsageError, "no such file"),
    ],
)
def test_faults_name_the_file_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as fault:
        open_task(str(path)).problems("train", 1, 0)
    assert str(fault.value).startswith(f"{path}: ")
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_fields": "a"}, "did you mean 'prompt_field'"),
        ({"prompt_field": 5}, "prompt_field must be text or null, got 5"),
        ({"config": "main"}, "choose from: answer_field, columns, instruction, prompt_field"),
    ],
)
def test_options_out_of_place(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task("a.jsonl", options)


def test_split_misspelt(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'test'"):
        task_of(tmp_path / "a.jsonl", ROWS).problems("tests", 1, 0)


def test_whatever_else_a_row_has_goes_with_its_problem(tmp_path: Path) -> None:
    """As JSON has it: what it has no form for is text, and bytes and numbers that are none are missing."""
    path = tmp_path / "own.parquet"
    row = {"question": "1+1", "answer": "2", "hint": "add", "day": date(2026, 1, 2), "image": b"png", "score": math.nan,
           "calls": [{"name": "add", "arguments": {"a": 1}}]}  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row | {"split": "train"}]), path)
    [problem] = open_task(str(path)).problems("train", 1, 0)
    assert json.loads(json.dumps(problem.row, allow_nan=False)) == {
        "answer": "2", "hint": "add", "day": "2026-01-02", "image": None, "score": None,
        "calls": [{"name": "add", "arguments": {"a": 1}}], "split": "train",
    }  # fmt: skip
