"""The histories of several inputs as one."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ...formats.provenance import Provenance, Record, digest_of


def joined(inputs: Sequence[Provenance], record: Record) -> Provenance:
    """All inputs' records and then `record`; what two inputs have in common from the start on is there once.

    `record` gets the parameter `histories`: for each input, which of the records before it are its history, by number from
    0, oldest first. Facts are kept where all inputs agree; `tokens_exact` is false as soon as one says so.
    """
    records: list[Record] = []
    places: dict[tuple[int | None, str], int] = {}  # (the record before it, its content) -> where it stands
    histories: list[list[int]] = []
    for each in inputs:
        chain: list[int] = []
        for one in each.history:
            if "histories" in one.parameters:  # of an earlier merge: its numbers are that file's
                moved = [[chain[place] for place in old] for old in one.parameters["histories"]]
                one = replace(one, parameters={**one.parameters, "histories": moved})
            key = (chain[-1] if chain else None, digest_of(asdict(one)))
            if key not in places:
                places[key] = len(records)
                records.append(one)
            chain.append(places[key])
        histories.append(chain)
    own = replace(record, parameters={**record.parameters, "histories": histories})
    return Provenance(history=(*records, own), facts=_facts(inputs))


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
