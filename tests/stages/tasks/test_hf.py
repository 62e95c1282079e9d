"""Tasks in data sets, here in folders that `datasets` reads without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import datasets.config
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.tasks import Task, open_task


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; what `datasets` caches goes beside it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def write(folder: Path, **splits: range) -> None:
    """A JSON-lines file a split, with the sums of some numbers."""
    for split, numbers in splits.items():
        rows = (json.dumps({"question": f"{n}+1?", "answer": f"#### {n + 1}"}) + "\n" for n in numbers)
        (folder / f"{split}.jsonl").write_text("".join(rows))


def references(task: Task, split: str, count: int) -> set[int]:
    return {int(problem.reference) for problem in task.problems(split, count, 0)}


def test_splits_by_their_usual_names(folder: Path) -> None:
    write(folder, train=range(5), validation=range(5, 7), test=range(7, 10))
    task = open_task(f"hf:{folder}")
    assert references(task, "train", 5) == {1, 2, 3, 4, 5}
    assert references(task, "test", 3) == {8, 9, 10}
    with pytest.raises(UsageError, match="train 5, test 3"):
        task.problems("test", 4, 0)


def test_validation_where_there_is_no_test_split(folder: Path) -> None:
    write(folder, train=range(5), validation=range(5, 7))
    assert references(open_task(f"hf:{folder}"), "test", 2) == {6, 7}


def test_one_split_is_divided_by_the_question(folder: Path) -> None:
    write(folder, train=range(100))
    task = open_task(f"hf:{folder}")
    train, test = references(task, "train", 70), references(task, "test", 10)
    assert not train & test
    # A row is the same problem wherever it comes from.
    file = open_task(str(folder / "train.jsonl"))
    assert list(file.problems("train", 70, 0)) == list(task.problems("train", 70, 0))


def test_options_name_the_splits(folder: Path) -> None:
    write(folder, train=range(5), validation=range(5, 7), test=range(7, 10))
    both = open_task(f"hf:{folder}", {"train_split": "validation", "test_split": "train"})
    assert (references(both, "train", 2), references(both, "test", 5)) == ({6, 7}, {1, 2, 3, 4, 5})
    only_test = open_task(f"hf:{folder}", {"test_split": "validation"})
    assert references(only_test, "test", 2) == {6, 7}
    with pytest.raises(UsageError, match="train 0, test 2"):
        only_test.problems("train", 1, 0)


def test_one_split_named_twice_is_divided_by_the_question(folder: Path) -> None:
    write(folder, train=range(3), test=range(50))
    task = open_task(f"hf:{folder}", {"train_split": "test", "test_split": "test"})
    assert not references(task, "train", 30) & references(task, "test", 3)


def test_config_of_a_data_set(folder: Path) -> None:
    write(folder, a=range(3), b=range(3, 6))
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in "ab"]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    task = open_task(f"hf:{folder}:b", {"train_split": "train"})
    assert references(task, "train", 3) == {4, 5, 6}
    same = open_task(f"hf:{folder}", {"train_split": "train", "config": "b"})
    assert list(same.problems("train", 3, 0)) == list(task.problems("train", 3, 0))
    with pytest.raises(UsageError, match=r"Config name is missing|pick one among"):
        open_task(f"hf:{folder}").problems("train", 1, 0)


def test_a_saved_data_set(folder: Path) -> None:
    rows = datasets.Dataset.from_list([{"prompt": f"{n}?", "answer": n} for n in range(1, 4)])
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(folder))
    task = open_task(f"hf:{folder}")
    assert (references(task, "train", 2), references(task, "test", 1)) == ({2, 3}, {1})


def test_verify_needs_no_data_set(folder: Path) -> None:
    task = open_task("hf:nobody/nothing")
    assert [task.verify(text, "5") for text in ("#### 5", r"\boxed{5.0}", "6")] == [1.0, 1.0, 0.0]


def test_faults_name_the_task_in_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = f"hf:{folder}"

    def fault(spec: str, options: dict[str, str] | None = None) -> str:
        with pytest.raises((UsageError, DataError)) as raised:
            open_task(spec, options).problems("train", 1, 0)
        assert str(raised.value).startswith(f"{spec}: ")
        assert "\n" not in str(raised.value)
        return f"{type(raised.value).__name__} {str(raised.value).removeprefix(f'{spec}: ')}"

    assert fault(f"{spec}-gone") == "UsageError no such folder"
    assert fault(spec).startswith("UsageError The directory at")
    write(folder, test=range(3), validation=range(3))
    assert fault(spec) == "UsageError set train_split and test_split; choose from validation, test"
    assert fault(spec, {"train_split": "training"}) == "UsageError no split 'training'; choose from validation, test"
    assert fault(f"{spec}:main").startswith("UsageError BuilderConfig 'main' not found")
    assert "no column 'gold'" in fault(spec, {"train_split": "test", "answer_field": "gold"})
    (folder / "test.jsonl").write_text("no JSON")
    assert fault(spec, {"train_split": "test"}).startswith("DataError ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("hf:a/b", {"train_spilt": "x"}, "did you mean 'train_split'"),
        ("hf:a/b:main", {"config": "other"}, "the option config also names one, 'other'; give only one of the two"),
        ("hf:", {}, "name a data set after hf:, such as hf:openai/gsm8k:main"),
        ("hf/a", {}, "name a data set after hf:"),
    ],
)
def test_usage(spec: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task(spec, options)


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    code = """
from apportion.formats.errors import ApportionError
from apportion.stages.tasks import open_task
try:
    open_task("hf:openai/gsm8k:main").problems("train", 1, 0)
except ApportionError as error:
    print(error.exit_code, error)
"""
    # Nothing is cached in an empty HF_HOME, and offline mode forbids asking the Hub.
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ended.stdout.startswith("1 hf:openai/gsm8k:main: ")
    assert ended.stdout.count("\n") == 1
    assert ended.stderr == ""
