"""`split` behind its signature."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from ... import __version__
from ...formats.errors import DataError, UsageError, unknown
from ...formats.files import check_output, whole_directory
from ...formats.invariants import UsedNames
from ...formats.parquet import STREAM, TOKENS_PER_ROW_GROUP, RolloutFile, RolloutWriter, files_of
from ...formats.provenance import Record
from ...formats.rollouts import Rollouts
from ...formats.schema import paths_of
from ..core.progress import track
from ._histories import join_histories

MOST_PARTS = 256  # files written at the same time
MISSING = "null"  # the file of rows without a value


@dataclass(frozen=True)
class Piece:
    """One file of the output."""

    file: str
    rollouts: int
    groups: int
    tokens: int


@dataclass(frozen=True)
class Parts:
    """What `split` wrote."""

    out: str
    parts: list[Piece]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> None:
        for part in self.parts:
            print(
                f"{self.out}/{part.file}: {part.rollouts:,} rollouts, {part.groups:,} groups, {part.tokens:,} tokens",
                file=sys.stderr,
            )


def split_groups(
    source: Path, *, by: str | None, parts: int | None, shares: str | None, seed: int, out: Path, force: bool
) -> Parts:
    """See `split`. UsageError for anything but one way to divide; DataError for a group with two values of the column,
    for more than 256 values, and for a part that no group falls into."""
    given = [name for name, value in (("--by", by), ("--parts", parts), ("--shares", shares)) if value is not None]
    if len(given) != 1:
        raise UsageError(f"{' and '.join(given) or 'no way to divide'}: give one of --by, --parts and --shares")
    if out == STREAM:
        raise UsageError("-o -: parts are files in a directory; name one")
    bounds: dict[str, float] = {}
    if parts is not None:
        width = len(str(parts - 1))
        bounds = {f"part-{part:0{width}}": (part + 1) / parts for part in range(parts)}
    elif shares is not None:
        bounds = _bounds(shares)
    check_output(out, force=force, directory=True)
    files = [RolloutFile(path) for path in files_of(source)]
    for file in files:
        if file.num_rows == 0:
            raise DataError(f"{file.path}: no rollouts in it")
        if by is not None and by not in paths_of(file.schema):
            raise unknown("column", by, paths_of(file.schema))
    chosen: Callable[[Rollouts], list[str]] = (
        (lambda batch: _by_value(batch, by)) if by is not None else (lambda batch: _by_hash(batch, bounds, seed))
    )
    parameters = {"by": by, "parts": parts, "shares": shares, "seed": seed}
    record = Record(stage="split", version=__version__, parameters=parameters, inputs=_digests(files))
    writers: dict[str, RolloutWriter] = {}
    with whole_directory(out, force=force) as folder:
        try:
            _write(files, chosen, folder, writers, len(bounds) or MOST_PARTS)
            for name in bounds:
                if name not in writers:
                    groups = sum(writer.counts["groups"] for writer in writers.values())
                    raise DataError(
                        f"{source}: none of its {groups:,} groups falls into {name!r}; "
                        "fewer parts, larger shares, or another --seed"
                    )
            for name, writer in writers.items():
                _close(name, writer, files, record)
        except BaseException:
            for writer in writers.values():
                with suppress(Exception):
                    writer.abort()
            raise
    order = list(bounds) or sorted(writers)
    return Parts(str(out), [Piece(f"{name}.parquet", **writers[name].counts) for name in order])


def _digests(files: Sequence[RolloutFile]) -> dict[str, str]:
    if len(files) == 1:
        return {"rollouts": files[0].digest()}
    return {f"rollouts/{index}": file.digest() for index, file in enumerate(files)}


def _close(name: str, writer: RolloutWriter, files: Sequence[RolloutFile], record: Record) -> None:
    own = replace(record, parameters={**record.parameters, "part": f"{name}.parquet"}, counts=dict(writer.counts))
    histories = [file.provenance for file in files]
    writer.close(histories[0].with_record(own) if len(files) == 1 else join_histories(histories, own))


def _write(
    files: Sequence[RolloutFile],
    chosen: Callable[[Rollouts], list[str]],
    folder: Path,
    writers: dict[str, RolloutWriter],
    parts: int,
) -> None:
    """Every group into its part's file, made when the first one comes."""
    bound = max(1 << 14, TOKENS_PER_ROW_GROUP // parts)  # what all of them hold back is one row group
    names = UsedNames()
    total = sum(file.num_row_groups for file in files)
    batches = ((file, batch) for file in files for batch in file.batches(check=(), names=names))
    for file, batch in track(batches, total=total, what="split"):
        try:
            of_group = np.array(chosen(batch), dtype=object)
        except DataError as error:
            raise DataError(f"{file.path}: {error}") from error
        for name in dict.fromkeys(of_group.tolist()):
            if name not in writers:
                if len(writers) == MOST_PARTS:
                    raise DataError(f"{file.path}: more than {MOST_PARTS} values to divide by; see --parts")
                if any(name.casefold() == other.casefold() for other in writers):
                    raise DataError(
                        f"{file.path}: two values differ in case only ({name!r}), and their files are one on some systems; "
                        "see --parts"
                    )
                writers[name] = RolloutWriter(folder / f"{name}.parquet", f"{name}.parquet", bound)
            mine = batch.groups.spread(of_group == name)
            writers[name].write(batch if mine.all() else batch.take(np.flatnonzero(mine)))


def _bounds(shares: str) -> dict[str, float]:
    """{part: upper end of its share of 0 to 1} from "0.9,0.1" or "train=0.9,test=0.1"."""
    names: list[str] = []
    sizes: list[float] = []
    for index, item in enumerate(shares.split(",")):
        name, _, number = item.rpartition("=")
        try:
            size = float(number)
        except ValueError:
            size = 0.0
        if not 0 < size < float("inf"):
            raise UsageError(
                f"--shares {shares}: {item.strip()!r}: expected a number above 0, as in 0.9,0.1 or test=0.1"
            )
        names.append(name.strip() or f"part-{index}")
        sizes.append(size)
    if len(set(names)) < len(names):
        raise UsageError(f"--shares {shares}: two parts of one name")
    for name in names:
        if quote(name, safe=" +=,@") != name or name.startswith("."):
            raise UsageError(f"--shares {shares}: {name!r}: expected letters, digits, - and _")
    if len(names) > MOST_PARTS:
        raise UsageError(f"--shares: {len(names)} parts, expected at most {MOST_PARTS}")
    ends = (np.cumsum(sizes) / sum(sizes)).tolist()
    return dict(zip(names, [*ends[:-1], 1.0], strict=True))


def _groups(batch: Rollouts) -> list[str]:
    return [batch.arrow("group_id")[start].as_py() for start in batch.groups.starts.tolist()]


def _by_hash(batch: Rollouts, bounds: dict[str, float], seed: int) -> list[str]:
    """The part of every group [G]: that whose share a number from 0 to 1, made from seed and name, falls into."""
    digests = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=6).digest() for name in _groups(batch)]
    places = np.array([int.from_bytes(digest) for digest in digests]) / 2.0**48
    names = list(bounds)
    return [names[part] for part in np.searchsorted(list(bounds.values()), places, side="right").tolist()]


def _by_value(batch: Rollouts, path: str) -> list[str]:
    """The part of every group [G]: the column's value in all of its rows, as a file's name."""
    array = batch.arrow(path)
    if array.type.num_fields:
        raise UsageError(f"--by {path}: it holds {array.type}, expected a column of one value a rollout")
    plain = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    codes = plain.dictionary_encode(null_encoding="encode")
    indices = codes.indices.to_numpy(zero_copy_only=False)
    values = codes.dictionary.to_pylist()
    groups = batch.groups
    torn = np.flatnonzero(groups.max(indices) != groups.min(indices))
    if len(torn):
        group = int(torn[0])
        rows = indices[groups.offsets[group] : groups.offsets[group + 1]]
        seen = " and ".join(repr(values[code]) for code in dict.fromkeys(rows.tolist()))
        raise DataError(
            f"group {_groups(batch)[group]!r} has {path} {seen}, and a group stays in one file; "
            f'to take it apart: apportion filter IN --where "{path} == …" --drop -o OUT'
        )
    return [file_name(values[code]) for code in groups.first(indices).tolist()]


def file_name(value: Any) -> str:
    """A value as a file's name without its ending, one for each value.

    >>> [file_name(value) for value in ("gsm8k", "reasoning_gym/chain_sum", 0.5, True, None, "null", "")]
    ['gsm8k', 'reasoning_gym%2Fchain_sum', '0.5', 'true', 'null', '%6Eull', '%']
    """
    if value is None:
        return MISSING
    text = str(value).lower() if isinstance(value, bool) else str(value)
    name = quote(text, safe=" +=,@") or "%"
    if name == MISSING or name.startswith((".", " ")):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > 200:
        name = f"{name[:160]}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    return name
