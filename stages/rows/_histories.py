"""The histories of several inputs as one."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ...formats.provenance import Provenance, Record, digest_of, inputs_of


def join_histories(inputs: Sequence[Provenance], record: Record) -> Provenance:
    """All inputs' records and then `record`; a record of two inputs that read the same is there once.

    `record` gets the parameter `histories`: for each input, which of the records before it are its history, by number from
    0, oldest first. Facts are kept where all inputs agree; `tokens_exact` is false as soon as one says so.
    """
    records: list[Record] = []
    places: dict[tuple[tuple[int | None, ...], str], int] = {}  # (what it read, itself) -> where it stands
    histories: list[list[int]] = []
    for each in inputs:
        chain: list[int] = []
        for one, read in zip(each.history, inputs_of(each.history), strict=True):
            bare = {name: value for name, value in one.parameters.items() if name != "histories"}
            before = tuple(None if place is None else chain[place] for place in read)
            key = (before, digest_of(asdict(replace(one, parameters=bare))))
            if key not in places:
                places[key] = len(records)
                records.append(_move(one, chain))
            chain.append(places[key])
        histories.append(chain)
    own = replace(record, parameters={**record.parameters, "histories": histories})
    return Provenance(history=(*records, own), facts=_facts(inputs))


def _move(record: Record, chain: Sequence[int]) -> Record:
    """The record of an earlier merge counts in its own file; here its records stand at `chain`."""
    if "histories" not in record.parameters:
        return record
    histories = [[chain[place] for place in own] for own in record.parameters["histories"]]
    return replace(record, parameters={**record.parameters, "histories": histories})


def _facts(inputs: Sequence[Provenance]) -> dict[str, Any]:
    first = inputs[0].facts
    facts = {
        name: value
        for name, value in first.items()
        if all(name in each.facts and each.facts[name] == value for each in inputs)
    }
    if any(each.facts.get("tokens_exact") is False for each in inputs):
        facts["tokens_exact"] = False
    return facts
