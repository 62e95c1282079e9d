"""What the importers of records of texts share: the loop over records, and fields of a known type."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....formats.errors import DataError
from ..formats._messages import is_chat
from ..kind import Sample, Source, Unmapped

TEXTS_ONLY = "the token ids that the policy sampled, so `train` refuses the file"


@dataclass(frozen=True)
class Record:
    """One record: its fields, its place for messages, and a name that no other record of the import has."""

    fields: Mapping[str, Any]
    where: str
    name: str

    def text(self, field: str) -> str:
        """A field that is a text. DataError for anything else, as of the methods below."""
        value = self.fields.get(field)
        if not isinstance(value, str):
            raise DataError(f"{field}: {value!r:.40}, expected a text")
        return value

    def said(self, field: str) -> "str | list[Mapping[str, Any]]":
        """A field that is a text or a conversation."""
        value = self.fields.get(field)
        if not isinstance(value, str) and not (is_chat(value) and value):
            raise DataError(f"{field}: {value!r:.40}, expected a text or a list of messages")
        return value

    def texts(self, field: str) -> list[str]:
        """A field that is a list of texts."""
        value = self.fields.get(field)
        if not isinstance(value, list):
            raise DataError(f"{field}: {value!r:.40}, expected a list of texts")
        for place, each in enumerate(value):
            if not isinstance(each, str):
                raise DataError(f"{field}: {each!r:.40} at position {place}, expected a text")
        return value

    def numbers(self, field: str) -> list[float]:
        """A field that is a list of numbers, true and false among them."""
        value = self.fields.get(field)
        if not isinstance(value, list):
            raise DataError(f"{field}: {value!r:.40}, expected a list of numbers, or of true and false")
        return [number(each, field, place) for place, each in enumerate(value)]

    def truth(self, field: str) -> bool:
        """A field that is true or false."""
        value = self.fields.get(field)
        if not isinstance(value, bool):
            raise DataError(f"{field}: {value!r:.40}, expected true or false")
        return value


def number(value: Any, field: str, place: int | None = None) -> float:
    """A finite number. DataError for anything else."""
    at = "" if place is None else f" at position {place}"
    if not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise DataError(f"{field}: {value!r:.40}{at}, expected a finite number")
    return float(value)


Read = Callable[[Record], Iterator[Sample | Unmapped]]


def read_records(source: Source, read: Read) -> Iterator[Sample | Unmapped]:
    """What `read` makes of each record, all of it or none. DataError, with the record's place, for what is wrong in one."""
    for position, (where, fields) in enumerate(source.records()):
        made: list[Sample | Unmapped] = []
        with source.record():
            if not isinstance(fields, Mapping):
                raise DataError(f"{where}: {type(fields).__name__}, expected a record with fields")
            try:
                made += read(Record(fields, where, f"{source.label}/{position}"))
            except DataError as error:
                raise DataError(f"{where}, {error}; --lenient leaves the record out") from error
        yield from made


def first_fields(source: Source) -> Mapping[str, Any]:
    """The fields of the first record; none where it is no mapping."""
    record = source.first[0] if isinstance(source.first, list) and source.first else source.first
    return record if isinstance(record, Mapping) else {}


def join_steps(texts: Sequence[str], separator: str) -> list[str]:
    """The texts of steps with the separator before each but the first, so that equal beginnings stay equal."""
    return [text if place == 0 else separator + text for place, text in enumerate(texts)]
