"""What a Parquet file's footer says of the size of its columns, before any of it is decoded.

pyarrow says it too, but where a footer is damaged it ends the process ("terminate called after throwing …"): its Python
side takes what C++ throws there for impossible. So these few numbers are read here: Thrift's compact protocol, of which
every field that is not asked for is passed over.
"""

from typing import IO, Any, NamedTuple

DEEPEST = 32  # structs in one another
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3  # fields of FileMetaData, RowGroup, ColumnChunk
_TYPE, _PATH, _VALUES, _BYTES = 1, 3, 5, 6  # of ColumnMetaData
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}  # bytes of Parquet's numbers in memory
_TEXT = 6
_SIZES = {7: 8, 13: 16}  # bytes of Thrift's floats and UUIDs


class Leaf(NamedTuple):
    """One leaf of a row group: its path in Parquet's words (`token.id.list.element`), whether it holds texts, how many
    values, nulls included, and how many bytes they have before compression."""

    path: str
    is_text: bool
    values: int
    bytes: int
    width: int


def leaves_of(source: IO[bytes]) -> list[list[Leaf]]:
    """The leaves of every row group. ValueError for a footer that is damaged."""
    source.seek(-8, 2)
    size = int.from_bytes(source.read(4), "little")
    source.seek(-8 - size, 2)
    try:
        footer = _Compact(source.read(size)).struct(0)
        return [[_leaf(column[_META_DATA]) for column in group[_COLUMNS]] for group in footer[_ROW_GROUPS]]
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("its footer is damaged") from error


def _leaf(known: dict[int, Any]) -> Leaf:
    path = b".".join(known[_PATH]).decode()
    return Leaf(path, known[_TYPE] == _TEXT, known[_VALUES], known[_BYTES], _WIDTHS.get(known[_TYPE], 0))


class _Compact:
    """Thrift's compact protocol: a struct as {number of the field: value}; maps and floats are passed over."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):  # a truth value in a list, a byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind in _SIZES:
            return self._take(_SIZES[kind])
        if kind == 8:
            return self._take(self._number())
        if depth > DEEPEST:
            raise ValueError("its footer is damaged")
        if kind in (9, 10):
            head = self._byte()
            size = self._number() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(size)]
        if kind == 11:
            size = self._number()
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._value(kinds >> 4, depth + 1)
                self._value(kinds & 15, depth + 1)
            return None
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("its footer is damaged")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("its footer is damaged")
        return self._data[self._at - size : self._at]

    def _number(self) -> int:
        found = shift = 0
        while (byte := self._byte()) & 0x80 and shift < 64:
            found |= (byte & 0x7F) << shift
            shift += 7
        return found | byte << shift

    def _integer(self) -> int:
        number = self._number()
        return number >> 1 ^ -(number & 1)
