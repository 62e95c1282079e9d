"""A task made of rows of prompts, with reference answers or without, from any file or data set."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from ...formats.errors import DataError, UsageError
from ._columns import TaskColumns, is_missing, lookup, named_column
from ._splits import check_split, hash_split, is_in
from .answers import check, final_answer
from .kind import Problem

__all__ = ["Row", "TableTask", "given_options", "lookup"]

Row = tuple[Mapping[str, Any], str | None]  # a row and its split, None if nothing names the split


@dataclass
class Index:
    """Which rows are problems. split: {problem_id: its split}. row: {problem_id: its row's number from 1}. answered: those
    with a reference. repeated, differing: rows that ask a question again, and those of them with another answer."""

    split: dict[str, str] = field(default_factory=dict)
    row: dict[str, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    hashed: int = 0
    repeated: int = 0
    differing: int = 0

    def add(self, number: int, problem_id: str, split: str, reference: Any) -> None:
        """Add a row. The first row of a question counts, or the first with an answer; it is a test problem if any is."""
        answer = hash(json.dumps(reference))
        if problem_id not in self.split:
            self.split[problem_id], self.row[problem_id] = split, number
        else:
            self.repeated += 1
            self.differing += reference is not None and self.answered.get(problem_id, answer) != answer
            if split == "test":
                self.split[problem_id] = split
        if reference is not None and problem_id not in self.answered:
            self.answered[problem_id], self.row[problem_id] = answer, number


@dataclass(frozen=True)
class TableTask:
    """Problems from rows, shuffled by the seed. The final answer is checked as text and by math-verify.

    spec: the `--task` value, which errors also name as the place.
    options: prompt_field, answer_field (a dot reaches into a column of structs), instruction, columns (those to keep
        besides question and answer, separated by commas; all if it is not given), test_fraction, split_field ("" for none),
        and the family's own.
    read: yields the rows in order, the same in every call. `problems` calls it twice, so that only the problems it gives
        are held in memory; verifying answers does not need the file.
    split_fields: columns of which the first that a row has names its split, unless the option split_field does.
    """

    spec: str
    options: dict[str, Any]
    read: Callable[[], Iterable[Row]]
    split_fields: Sequence[str] = ()
    needs_reference = True

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` problems of `split`, in an order that the seed decides. UsageError if there are fewer."""
        names = self._names(split)
        if count > len(names):
            sizes = Counter(self._index.split.values())
            ask = f"ask for at most {len(names)}, or " if names else ""
            raise UsageError(
                f"task {self.spec!r}: {count:,} {'problems' if split == 'all' else f'{split} problems'} requested, but there "
                f"are only {len(names)} distinct ones (by split: train {sizes['train']}, test {sizes['test']}); "
                f"{ask}{'add prompts' if split == 'all' else 'for another split (--split all takes both)'}"
            )
        # A str seed is hashed with SHA-512, so it gives the same order in every process and on every machine.
        chosen = [names[index] for index in Random(f"rows {seed}").sample(range(len(names)), len(names))[:count]]
        return iter(self._read_problems(chosen))

    def count(self, split: str) -> int:
        """How many problems `split` has."""
        return len(self._names(split))

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the rows that were read: how many repeat a question."""
        found = self._index
        if not found.repeated:
            return []
        rows = "1 row repeats the question of an earlier one and was" if found.repeated == 1 else (
            f"{found.repeated:,} rows repeat the question of an earlier one and were"
        )  # fmt: skip
        other = f" ({found.differing:,} with another answer)" if found.differing else ""
        return [f"{rows} left out{other}"]

    def verify(self, text: str, reference: Any) -> float:
        """1 if the final answer equals the reference (or one of them, if it is a list), else 0. DataError without one."""
        if reference is None:
            raise DataError(f"{self.spec}: this prompt has no reference answer")
        accepted = reference if isinstance(reference, list) else [reference]
        return check(final_answer(text, hashes=True), [str(one) for one in accepted])

    def _names(self, split: str) -> list[str]:
        """The ids of the problems of a split, in the order of the rows."""
        check_split(split)
        return [name for name, own in self._index.split.items() if is_in(split, own)]

    @cached_property
    def _columns(self) -> TaskColumns:
        return TaskColumns(self.options)

    @cached_property
    def _index(self) -> Index:
        """All rows, each checked: its split is the one that it names, or else the one that its question's hash decides."""
        index, columns, number = Index(), self._columns, 0
        field, fraction = self.options.get("split_field"), self.options.get("test_fraction")
        for number, (row, named) in enumerate(self.read(), start=1):
            try:
                columns.look_at(row)
                prompt = columns.prompt_of(row)
                reference = columns.reference_of(row)
            except DataError as error:
                raise DataError(f"{self.spec}: row {number}: {error}") from error
            split = self._split_of(row) or (named if field is None else None)
            index.hashed += split is None
            split = split or (
                hash_split(prompt.question) if fraction is None else hash_split(prompt.question, fraction)
            )
            index.add(number, prompt.problem_id, split, reference)
        if not number:
            raise DataError(f"{self.spec}: no rows; it must have at least one prompt")
        try:
            columns.check_all()
        except DataError as error:
            raise DataError(f"{self.spec}: {error}") from error
        if field and not columns.has(field):
            raise DataError(f"{self.spec}: {named_column(field, columns.seen)}; name it with --task-set split_field=…")
        if fraction is not None and not index.hashed:
            raise UsageError(
                f"{self.spec}: every row names its split, so test_fraction decides nothing; leave it out, or ignore what "
                "the rows say with --task-set split_field="
            )
        return index

    def _split_of(self, row: Mapping[str, Any]) -> str | None:
        """The split that a row's column names: "train" if the value begins so, else "test"; None if none does."""
        field = self.options.get("split_field")
        fields = self.split_fields if field is None else [field] if field else []
        named = next((value for each in fields if not is_missing(value := lookup(row, each))), None)
        return None if named is None else "train" if str(named).strip().lower().startswith("train") else "test"

    def _read_problems(self, names: Sequence[str]) -> list[Problem]:
        """The problems with these ids, in this order."""
        wanted = {self._index.row[name]: name for name in names}
        found: dict[str, Problem] = {}
        for number, (row, _) in enumerate(self.read(), start=1):
            if len(found) == len(wanted):
                break
            if number in wanted:
                found[wanted[number]] = self._columns.problem_of(row, f"row {number}")
        return [found[name] for name in names]


def given_options(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}
