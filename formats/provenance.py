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
        """DataError for text that is no history, or one of a newer format."""
        try:
            content = dict(json.loads(text))
            version = int(content.get("format", FORMAT_VERSION))
            if version > FORMAT_VERSION:
                raise DataError(
                    f"written in format {version}, this apportion reads up to {FORMAT_VERSION}; "
                    "install a newer one: pip install -U apportion"
                )
            history = tuple(Record(**record) for record in content.get("history", ()))
        except (ValueError, TypeError) as error:
            raise DataError(f"its history is damaged ({error})") from error
        return cls(history=history, facts=content.get("facts", {}), format=version)

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> "Provenance":
        """From Parquet key-value metadata; empty for a file another tool wrote."""
        raw = (metadata or {}).get(METADATA_KEY)
        return cls.from_json(raw) if raw else cls()

    def with_record(self, record: Record) -> "Provenance":
        return Provenance(history=(*self.history, record), facts=self.facts)


def inputs_of(history: Sequence[Record]) -> list[list[int | None]]:
    """For every record, by number, the records whose outputs it read: the one before it, None for the first.

    A record that put several histories together (`merge`) says in its parameter `histories` which of the records before it
    belong to each of its inputs, oldest first; it read the last of each, None where an input has no history.
    """
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
