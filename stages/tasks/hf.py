"""Prompts, with reference answers or without, from a data set on the Hugging Face Hub, or a folder that `datasets` can read."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from ...formats.errors import ApportionError, DataError, UsageError
from ..core.ranges import Range
from ._third_party import contain
from .kind import task_family
from .table import Row, TableTask, given_options

SPLIT_OPTIONS = {"train": "train_split", "test": "test_split"}
TEST_NAMES = ("test", "validation")  # the first that exists provides the test problems


@task_family("hf", claims=lambda spec: spec.startswith("hf:"), played=False)
def open_hf(
    spec: str,
    *,
    prompt_field: str | None = None,
    answer_field: str | None = None,
    instruction: str | None = None,
    columns: str | None = None,
    config: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    test_fraction: Annotated[float | None, Range(0, 1, below=True)] = None,
    split_field: str | None = None,
) -> TableTask:
    """A data set of the Hugging Face Hub, hf:OWNER/NAME[:CONFIG], or a local hf:FOLDER.

    Select it with `--task hf:OWNER/NAME[:CONFIG]` or `--task hf:./FOLDER`.

    If only one of `train_split` and `test_split` is given, the other split is empty. Without either, they are "train"
    and "test" (or "validation" if there is no "test"). If the data set has a single split, the question's hash makes
    one in five a test problem. `--split all` takes both. Rows without an answer are prompts that only `verify` refuses.

    Args:
        prompt_field: the column with the question, or with a list of chat messages; None is the first of prompt,
            question and problem. A dot reaches into a column of objects.
        answer_field: the column with the right answer, or with a list of them; None is the first of
            reward_model.ground_truth, answer, reference, solution, ground_truth and target, if there is any.
        instruction: text appended to every question; None asks for the final answer in a box if the column is question
            or problem, and adds nothing to a prompt.
        columns: the columns to keep besides question and answer, separated by commas; None keeps all.
        config: the data set's configuration, if `--task` does not name it.
        train_split: the data set's split from which training problems come.
        test_split: the data set's split from which test problems come.
        test_fraction: the share of test problems in a data set of one split; 0 makes all of them training problems, None
            is one in five. The test problems of a smaller share are among those of a larger one.
        split_field: the column that names a row's split, whichever split of the data set it is in; None is none.
    """
    checked = given_options(
        prompt_field=prompt_field, answer_field=answer_field, instruction=instruction, columns=columns, config=config,
        train_split=train_split, test_split=test_split, test_fraction=test_fraction, split_field=split_field,
    )  # fmt: skip
    name, _, config = spec.removeprefix("hf:").partition(":")
    if not spec.startswith("hf:") or not name:
        raise UsageError(f"task {spec!r}: name a data set after hf:, such as hf:openai/gsm8k:main or hf:./folder")
    if config and checked.get("config", config) != config:
        raise UsageError(
            f"task {spec!r}: the option config also names one, {checked['config']!r}; give only one of the two"
        )
    load = cache(lambda: _load(spec, name, config or checked.get("config")))  # rows are read twice
    return TableTask(spec, checked, lambda: _rows(spec, load(), checked))


def _rows(spec: str, splits: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Row]:
    named = {split: options[option] for split, option in SPLIT_OPTIONS.items() if option in options}
    for split in named.values():
        if split not in splits:
            raise UsageError(f"{spec}: no split {split!r}; choose from {', '.join(splits)}")
    if not named and len(splits) == 1:
        named = dict.fromkeys(SPLIT_OPTIONS, next(iter(splits)))
    elif not named:
        test = next((split for split in TEST_NAMES if split in splits), None)
        if "train" not in splits or test is None:
            raise UsageError(f"{spec}: set train_split and test_split; choose from {', '.join(splits)}")
        named = {"train": "train", "test": test}
    if named.get("train") == named.get("test"):
        yield from ((row, None) for row in splits[named["train"]])
        return
    for ours, theirs in named.items():
        yield from ((row, ours) for row in splits[theirs])


def _load(spec: str, name: str, config: str | None) -> Mapping[str, Any]:
    """The splits of a data set by name. ApportionError, with the first line of whatever `datasets` raises."""
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not folder.is_dir():
        raise UsageError(f"{spec}: no such folder")
    with contain():
        import datasets
        import datasets.exceptions

        datasets.disable_progress_bars()
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                loaded = datasets.load_from_disk(str(folder))
            else:
                loaded = datasets.load_dataset(str(folder) if folder.is_dir() else name, config)
        except (datasets.exceptions.DatasetNotFoundError, ValueError, FileNotFoundError) as error:
            raise UsageError(f"{spec}: {_line(error)}") from error
        except datasets.exceptions.DatasetBuildError as error:
            raise DataError(f"{spec}: {_line(error.__cause__ or error)}") from error
        except Exception as error:  # the network, the disk, the Hub, or whatever the data set's own files trigger
            raise ApportionError(f"{spec}: {_line(error)}") from error
    return {str(split): rows for split, rows in loaded.items()} if isinstance(loaded, dict) else {"train": loaded}


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
