"""The seal of a file: a digest of its bytes, between its last column and its footer, where readers of Parquet do not look.

Pages have checksums of their own; their headers, their order and the footer have none, and a flipped bit there renames a
column or moves a value unseen. The seal covers all of it. It is no metadata of the table's, which other tools hand on when
they write a table anew: what another tool wrote has no seal, and that is no fault.

    columns and page indexes | MARK | digest of these columns | digest of the footer to the file's end | footer | its length | PAR1
"""

import hashlib
from contextlib import nullcontext
from typing import Any, BinaryIO, NamedTuple

from .errors import DataError

MARK = b"\napportion seal 1\n"
_SIZE = 16  # bytes of a digest
_CHUNK = 1 << 22
_TAIL = 8  # the footer's length and PAR1


class Seal(NamedTuple):
    """What a file says of itself. body: the digest of its first `end` bytes."""

    body: bytes
    end: int


def seal(target: Any) -> None:
    """Seal a Parquet file that was just written: a path, or a stream that can be read."""
    with nullcontext(target) if hasattr(target, "seek") else open(target, "r+b") as stream:
        _seal(stream)


def _seal(stream: BinaryIO) -> None:
    start = _footer_start(stream)
    assert start is not None, "a Parquet file that was just written"
    hasher = _hasher()
    stream.seek(0)
    _feed(hasher, stream, start)
    footer = stream.read()
    stream.seek(start)
    stream.write(MARK + hasher.digest() + _hasher(footer).digest() + footer)


def read_seal(stream: BinaryIO) -> Seal | None:
    """The seal of a file; None where there is none, or no Parquet file. DataError for a footer that is not the sealed one."""
    start = _footer_start(stream)
    end = None if start is None else start - len(MARK) - 2 * _SIZE
    if end is None or end < 0:
        return None
    stream.seek(end)
    if stream.read(len(MARK)) != MARK:
        return None
    body, footer = stream.read(_SIZE), stream.read(_SIZE)
    if _hasher(stream.read()).digest() != footer:
        raise DataError(
            "its footer, with the names and types of its columns, was damaged after it was written; make or copy it anew"
        )
    return Seal(body, end)


def checked_digest(stream: BinaryIO) -> str:
    """Digest of all bytes, as `digest_of_file`. DataError where they are not those that were sealed."""
    seal = read_seal(stream)
    hasher = _hasher()
    stream.seek(0)
    if seal is not None:
        _feed(hasher, stream, seal.end)
        if hasher.digest() != seal.body:
            raise DataError("its columns were damaged after they were written; make or copy it anew")
    while chunk := stream.read(_CHUNK):
        hasher.update(chunk)
    return hasher.hexdigest()


def _footer_start(stream: BinaryIO) -> int | None:
    size = stream.seek(0, 2)
    if size < _TAIL:
        return None
    stream.seek(size - _TAIL)
    tail = stream.read(_TAIL)
    start = size - _TAIL - int.from_bytes(tail[:4], "little")
    return start if tail[4:] == b"PAR1" and start >= 0 else None


def _hasher(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=_SIZE)


def _feed(hasher: Any, stream: BinaryIO, size: int) -> None:
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        hasher.update(chunk)
        size -= len(chunk)
