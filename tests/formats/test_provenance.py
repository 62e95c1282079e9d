"""A history is input: what is not one is a DataError in one line, and what a record read is found in linear time."""

import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from apportion.formats.errors import DataError
from apportion.formats.provenance import DEEPEST, LARGEST, Provenance, Record, inputs_of
from apportion.stages.rows._histories import join_histories

RECORD = {"stage": "score", "version": "1", "parameters": {}, "inputs": {"rollouts": "d"}, "counts": {"groups": 1}}


def history(**changed: Any) -> str:
    return json.dumps({"format": 1, "facts": {}, "history": [RECORD, RECORD | changed]})


def test_what_is_a_history_is_read_as_it_was_written() -> None:
    written = Provenance(
        history=(Record(**RECORD), Record(stage="x", version="", parameters={"a": [None, {"b": 1e400}]}))
    )
    assert Provenance.from_json(written.to_json()) == written
    assert Provenance.from_json("{}") == Provenance()


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "the whole: [], expected a mapping"),
        ("[" * 100_000, "its history is damaged"),
        ("9" * 5000, "its history is damaged"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"format": true}', "format: True, expected a whole number"),
        ('{"format": 1.9}', "format: 1.9, expected a whole number"),
        ('{"facts": []}', "facts: [], expected a mapping"),
        ('{"facts": {"tokens_exact": "no"}}', "facts, tokens_exact: 'no', expected true or false"),
        ('{"history": {}}', "history: {}, expected a list"),
        ('{"history": [[]]}', "record 0: [], expected a mapping"),
        ('{"history": [{"stage": "a", "version": "1"}]}', "record 0 has no parameters"),
        (history(stage=None), "record 1, stage: None, expected a text"),
        (history(version=1), "record 1, version: 1, expected a text"),
        (history(parameters=[["a", 1]]), "record 1, parameters: [['a', 1]], expected a mapping"),
        (history(inputs={"rollouts": 3}), "record 1, inputs, 'rollouts': 3, expected a text"),
        (history(counts={"groups": "7"}), "record 1, counts, 'groups': '7', expected a whole number"),
        (history(counts={"groups": True}), "record 1, counts, 'groups': True, expected a whole number"),
        (history(time="now"), "record 1 has 'time', which no record has"),
        (history(parameters={"histories": 1}), "record 1, histories: 1, expected a list"),
        (history(parameters={"histories": []}), "record 1, histories: none, expected one or more"),
        (history(parameters={"histories": [0]}), "record 1, histories: 0, expected a list"),
        (history(parameters={"histories": [[1]]}), "record 1, histories: 1, expected a record before it"),
        (history(parameters={"histories": [[-1]]}), "record 1, histories: -1, expected a record before it"),
        (history(parameters={"a": deep(DEEPEST)}), f"nested deeper than {DEEPEST}"),
    ],
)
def test_what_is_no_history_is_said_in_one_line(text: str, said: str) -> None:
    with pytest.raises(DataError) as fault:
        Provenance.from_json(text)
    assert said in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_record_that_reads_a_later_one_is_refused() -> None:
    records = [RECORD, RECORD, RECORD | {"parameters": {"histories": [[1, 0]]}}]
    with pytest.raises(DataError, match="record 0 reads what was made after it"):
        Provenance.from_json(json.dumps({"history": records}))


def test_a_history_has_a_largest_size() -> None:
    with pytest.raises(DataError, match=r"its history has 67,108,865 bytes; expected at most 67,108,864"):
        Provenance.from_json(" " * (LARGEST + 1))


def inputs_chain_by_chain(history: Sequence[Record]) -> list[list[int | None]]:
    """What `inputs_of` gave before it knew what it had seen: every chain to its end, however often it comes."""
    found: list[list[int | None]] = [[None] for _ in history]
    chains = [list(range(len(history)))]
    while chains:
        chain = chains.pop()
        for index in range(len(chain) - 1, -1, -1):
            several = history[chain[index]].parameters.get("histories")
            if several is not None:
                found[chain[index]] = [own[-1] if own else None for own in several]
                chains += [own for own in several if own]
                break
            if index:
                found[chain[index]] = [chain[index - 1]]
    return found


def step(name: str) -> Record:
    return Record(stage=name, version="1", parameters={})


def test_what_records_read_is_what_every_chain_says() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        files = [Provenance(), Provenance().with_record(step("sample"))]
        for number in range(rng.randrange(2, 9)):
            if rng.random() < 0.5:
                files.append(rng.choice(files).with_record(step(f"{rng.choice('ab')}{number % 3}")))
            else:
                files.append(join_histories(rng.sample(files, min(len(files), rng.randrange(1, 4))), step("merge")))
        for file in files:
            assert inputs_of(file.history) == inputs_chain_by_chain(file.history)
            assert Provenance.from_json(file.to_json()) == Provenance.from_json(file.to_json())


def test_a_file_split_and_merged_often_is_read_at_once() -> None:
    file = Provenance().with_record(step("sample"))
    started = time.process_time()
    for _ in range(60):  # 2^60 ways from the last record to the first
        file = join_histories([file.with_record(step(part)) for part in ("left", "right")], step("merge"))
    assert len(file.history) == 1 + 60 * 3
    assert len(file.to_json()) < 100_000
    assert inputs_of(file.history)[-1] == [178, 179]
    assert time.process_time() - started < 5
