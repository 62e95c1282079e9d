"""How a file came to be: one record per stage, kept in the file's own metadata.

A record holds no times and no machine names: the same inputs, parameters and versions give the same record.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError
from .schema import FORMAT_VERSION, METADATA_KEY

LARGEST = 1 << 26  # bytes of a history
DEEPEST = 64  # lists and mappings in one another


@dataclass(frozen=True, kw_only=True)
class Record:
    """One stage's run. `inputs` are {role: digest}; `parameters` are the resolved options, defaults included."""

    stage: str
    version: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """A file's format version, its history (oldest first) and file-wide facts such as tokens_exact."""

    history: tuple[Record, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Provenance":
        """DataError for text that is no history, or one of a newer format.

        A history is input like any other: every field has its type afterwards, and nothing is nested deeper than DEEPEST.
        """
        if len(text) > LARGEST:
            raise DataError(f"its history has {len(text):,} bytes; expected at most {LARGEST:,}")
        try:
            content = json.loads(text)
            json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is no text, and cannot be printed
        except (ValueError, RecursionError) as error:
            raise DataError(f"its history is damaged ({error})") from error
        _check_depth(content)
        _check(content, Mapping, "the whole")
        version = content.get("format", FORMAT_VERSION)
        _check(version, int, "format")
        if version > FORMAT_VERSION:
            raise DataError(
                f"written in format {version}, this apportion reads up to {FORMAT_VERSION}; "
                "install a newer one: pip install -U apportion"
            )
        facts, records = content.get("facts", {}), content.get("history", [])
        _check(facts, Mapping, "facts")
        _check(records, list, "history")
        _check(facts.get("tokens_exact", True), bool, "facts, tokens_exact")
        history = tuple(_record_of(each, number) for number, each in enumerate(records))
        for number, places in enumerate(inputs_of(history)):
            if any(place is not None and place >= number for place in places):
                raise DataError(f"its history is damaged (record {number} reads what was made after it)")
        return cls(history=history, facts=facts, format=version)

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> "Provenance":
        """From Parquet key-value metadata; empty for a file another tool wrote."""
        raw = (metadata or {}).get(METADATA_KEY)
        return cls.from_json(raw) if raw else cls()

    def with_record(self, record: Record) -> "Provenance":
        return Provenance(history=(*self.history, record), facts=self.facts)


_FIELDS = {"stage": str, "version": str, "parameters": Mapping, "inputs": Mapping, "counts": Mapping}
_KINDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", Mapping: "a mapping"}


def _record_of(content: Any, number: int) -> Record:
    """The record of that number as a history has it. DataError for anything else."""
    where = f"record {number}"
    _check(content, Mapping, where)
    for name in ("stage", "version", "parameters"):
        if name not in content:
            raise DataError(f"its history is damaged ({where} has no {name})")
    for name, value in content.items():
        if name not in _FIELDS:
            raise DataError(f"its history is damaged ({where} has {name!r:.40}, which no record has)")
        _check(value, _FIELDS[name], f"{where}, {name}")
    for name, kind in (("inputs", str), ("counts", int)):
        for key, value in content.get(name, {}).items():
            _check(value, kind, f"{where}, {name}, {key!r:.40}")
    several = content["parameters"].get("histories", [[]])
    _check(several, list, f"{where}, histories")
    if not several:
        raise DataError(f"its history is damaged ({where}, histories: none, expected one or more)")
    for own in several:
        _check(own, list, f"{where}, histories")
        for place in own:
            _check(place, int, f"{where}, histories")
            if not 0 <= place < number:
                raise DataError(f"its history is damaged ({where}, histories: {place}, expected a record before it)")
    return Record(**content)


def _check(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"its history is damaged ({where}: {value!r:.40}, expected {_KINDS[kind]})")


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, Mapping | list)
            for inner in (each.values() if isinstance(each, Mapping) else each)
        ]
    if level:
        raise DataError(f"its history is damaged (nested deeper than {DEEPEST})")


def inputs_of(history: Sequence[Record]) -> list[list[int | None]]:
    """For every record, by number, the records whose outputs it read: the one before it, None for the first.

    A record that put several histories together (`merge`) says in its parameter `histories` which of the records before it
    belong to each of its inputs, oldest first; it read the last of each, None where an input has no history.
    """
    found: list[list[int | None]] = [[None] for _ in history]
    chains = [list(range(len(history)))]
    known: set[int] = set()  # what a record read is the same in every chain it is in
    while chains:
        chain = chains.pop()
        for index in range(len(chain) - 1, -1, -1):
            if chain[index] in known:
                break
            known.add(chain[index])
            several = history[chain[index]].parameters.get("histories")
            if several is not None:
                found[chain[index]] = [own[-1] if own else None for own in several]
                chains += [own for own in several if own]
                break
            if index:
                found[chain[index]] = [chain[index - 1]]
    return found


def digest_of(content: Any) -> str:
    """Short stable digest of JSON-able content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_of_file(path: Path) -> str:
    """Digest of a file's bytes; of a directory, of its files' names and bytes."""
    if path.is_dir():
        members = sorted(child for child in path.rglob("*") if child.is_file())
        return digest_of([(str(child.relative_to(path)), digest_of_file(child)) for child in members])
    hasher = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            hasher.update(chunk)
    return hasher.hexdigest()
