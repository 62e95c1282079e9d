"""Imported rows on their way into a rollout file: checked, made columns, and put into whole groups.

Sources may scatter a group's rows. So the rows lie in a temporary folder first, a chunk a file, and are read again group by
group: memory holds one chunk and one batch, however large the source is.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.flags import ERROR
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.schema import FIELDS, arrow_type, ruler_of
from ...formats.segments import Array
from .kind import Sample
from .tokens import Encoder, whole_characters

CHUNK = 1 << 20  # response tokens
_LARGEST = np.iinfo(np.int32).max


class Spool:
    """Takes samples in any order, and gives rollouts in whole groups, in the order in which the groups first came.

    lenient: a row that breaks a rule is kept with the flag `error`, without what is wrong; otherwise it is a DataError.
    """

    def __init__(self, folder: Path, encoder: Encoder, *, lenient: bool):
        self._folder = folder
        self._encoder = encoder
        self._lenient = lenient
        self._rows: list[dict[str, Any]] = []
        self._tokens = 0
        self._ends: list[int] = []  # rows up to the end of each chunk
        self._types: dict[str, pa.DataType] = {}
        self._groups: dict[str, int] = {}
        self._group_of_row: list[int] = []
        self._names: set[str] = set()
        self._group_of_episode: dict[str, str] = {}
        self._prompts: list[int | None] = []  # equal where prompts are; None of a faulty row, which has none
        self.faults: Counter[str] = Counter()
        """Rows flagged `error`, by reason."""

    def __len__(self) -> int:
        return len(self._group_of_row)

    def add(self, sample: Sample, group_id: str, label: str) -> None:
        """Take one row. DataError, with the place and the field, for one that breaks a rule."""
        faults = self.faults.total()
        row = self._checked(sample)
        prompt = np.asarray(row["prompt_ids"], np.int32).tobytes() if self.faults.total() == faults else None
        name, group_id = whole_characters(sample.rollout_id), whole_characters(group_id)
        base = name
        if name in self._names:
            name = f"{label}/{name}"
        number = 1
        while name in self._names:
            number += 1
            name = f"{label}/{base}#{number}"
        self._names.add(name)
        row |= {"rollout_id": name, "group_id": group_id}
        if row.get("episode_id") is not None:
            row["episode_id"] = self._episode(row["episode_id"], group_id)
        self._group_of_row.append(self._groups.setdefault(group_id, len(self._groups)))
        self._prompts.append(None if prompt is None else hash(prompt))
        self._rows.append(row)
        self._tokens += len(row["token.id"])
        if self._tokens >= CHUNK:
            self._flush()

    def _episode(self, name: str, group_id: str) -> str:
        """An episode's name; with its group's before it, where an episode of another group has it, too."""
        if self._group_of_episode.setdefault(name, group_id) == group_id:
            return name
        return f"{group_id}/{name}"

    @property
    def num_groups(self) -> int:
        """How many groups the rows are of."""
        return len(self._groups)

    def group_with_several_prompts(self) -> int | None:
        """The number of the first group whose rows have different prompts; None if there is none."""
        first: dict[int, int] = {}
        for group, prompt in zip(self._group_of_row, self._prompts, strict=True):
            if prompt is not None and first.setdefault(group, prompt) != prompt:
                return group
        return None

    def _checked(self, sample: Sample) -> dict[str, Any]:
        try:
            return self._columns(sample)
        except DataError as error:
            if not self._lenient:
                raise DataError(f"{sample.where}, {error}; --lenient keeps the row and flags it error") from error
            field = str(error).partition(":")[0]
            self.faults[field] += 1
            whole = {
                path: whole_characters(value) for path, value in sample.columns.items() if ruler_of(path) == "rollout"
            }
            bare = {
                path: value for path, value in whole.items() if not path.startswith("rewards.") and _fits(path, value)
            }
            flags = [*(bare.get("flags") or []), ERROR]
            empty = {"prompt_ids": [], "token.id": np.empty(0, np.int32), "token.mask": np.empty(0, bool)}
            return {**bare, "reward": None, "flags": flags, "error": str(error), **empty}

    def _columns(self, sample: Sample) -> dict[str, Any]:
        """Every column of the row. DataError, beginning with the field, for one that does not fit the tokens."""
        columns = dict(sample.columns)
        if sample.pieces is not None:
            ids, mask, spans = self._encoder.encode_pieces(sample.pieces)
            prompt = self._encoder.encode_prompt(columns.get("prompt"))
            if "step.start" not in columns:
                columns["step.start"], columns["step.end"] = spans
        else:
            ids, mask, prompt = _ids(sample.ids, "token ids"), _flags(sample.mask, "mask"), sample.prompt_ids
        if len(mask) != len(ids):
            raise DataError(f"mask: {len(mask)} values for {len(ids)} response tokens")
        row: dict[str, Any] = {
            "prompt_ids": _ids(prompt, "prompt ids"), "token.id": ids, "token.mask": mask, "flags": [],
        }  # fmt: skip
        steps = None
        for path, value in columns.items():
            if path.startswith("token.") and value is not None:
                row[path] = _signal(path, value, mask)
            elif path.startswith("step.") and value is not None:
                if not _fits(path, value):
                    raise DataError(f"{path}: {value!r:.40}, expected {FIELDS[path].type} for every step")
                row[path] = value
                steps = len(value) if steps is None else steps
                if len(value) != steps:
                    raise DataError(f"{path}: {len(value)} values for {steps} steps")
            else:
                row[path] = _finite(path, value)
                if not _fits(path, row[path]):
                    raise DataError(f"{path}: {value!r:.40}, expected {FIELDS[path].type}")
        return row

    def _flush(self) -> None:
        if not self._rows:
            return
        arrays: dict[str, pa.Array] = {}
        for path in dict.fromkeys(path for row in self._rows for path in row):
            arrays[path] = _column(path, [row.get(path) for row in self._rows], self._types.get(path))
            self._types[path] = _wider(self._types.get(path), arrays[path].type)
        table = pa.table(arrays)
        with pa.OSFile(str(self._chunk(len(self._ends))), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self._ends.append(len(self))
        self._rows, self._tokens = [], 0

    def _chunk(self, number: int) -> Path:
        return self._folder / f"{number}.arrow"

    def batches(self) -> Iterator[Rollouts]:
        """The rollouts, whole groups at a time."""
        self._flush()
        group = np.array(self._group_of_row, np.int64)
        order = np.argsort(group, kind="stable")
        sizes = np.bincount(group, minlength=len(self._groups))
        ends = np.cumsum(sizes)
        step = max(1, int(np.diff(self._ends, prepend=0).mean())) if self._ends else 1
        start = 0
        while start < len(order):
            stop = int(ends[np.searchsorted(ends, min(start + step, len(order)))])
            yield self._gather(order[start:stop])
            start = stop

    def _gather(self, rows: Array) -> Rollouts:
        """These rows [M], in this order."""
        chunk_of = np.searchsorted(self._ends, rows, side="right")
        parts: list[pa.Table] = []
        places: list[Array] = []
        for chunk in np.unique(chunk_of).tolist():
            chosen = np.flatnonzero(chunk_of == chunk)
            first = self._ends[chunk - 1] if chunk else 0
            with pa.memory_map(str(self._chunk(chunk))) as stored:
                table = pa.ipc.open_file(stored).read_all().take(pa.array(rows[chosen] - first))
            parts.append(self._aligned(table))
            places.append(chosen)
        whole = pa.concat_tables(parts)
        if len(parts) > 1:
            whole = whole.combine_chunks().take(pa.array(np.argsort(np.concatenate(places))))
        columns = {path: whole.column(path).combine_chunks() for path in whole.column_names}
        bare = pa.table({path: columns.pop(path) for path in ("rollout_id", "group_id")})
        return Rollouts(bare).with_columns(columns)

    def _aligned(self, table: pa.Table) -> pa.Table:
        """With every column of the import, in one order and in one type each."""
        return pa.table(
            {
                path: table.column(path).cast(kind) if path in table.column_names else pa.nulls(table.num_rows, kind)
                for path, kind in self._types.items()
            }
        )


def _ids(values: Any, what: str) -> Array:
    found = _array(values, what)
    if found.size and (found.dtype.kind not in "iu" or found.min() < 0 or found.max() > _LARGEST):
        wrong = next((each for each in found.tolist() if not isinstance(each, int) or not 0 <= each <= _LARGEST), None)
        raise DataError(f"{what}: {wrong!r:.40}, expected whole numbers from 0 to {_LARGEST}")
    return found.astype(np.int32)


def _flags(values: Any, what: str) -> Array:
    found = _array(values, what)
    if found.size and (found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all()):
        raise DataError(f"{what}: expected true or false, or 1 or 0, for every token")
    return found.astype(bool)


def _array(values: Any, what: str) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        found = np.asarray(values)
    except ValueError:
        found = np.empty((0, 0))
    if found.ndim != 1:
        raise DataError(f"{what}: expected one list of numbers, got {type(values).__name__} of shape {found.shape}")
    return found


def _signal(path: str, values: Any, mask: Array) -> Array:
    """[T] numbers on the response's tokens, 0 where the mask is false, for logprobs and credit."""
    found = np.full(len(mask), values) if isinstance(values, float) else _array(values, path)  # one number a rollout
    if len(found) != len(mask):
        raise DataError(f"{path}: {len(found)} values for {len(mask)} response tokens")
    if found.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected numbers, got {found[:1].tolist()!r:.40}")
    if path in FIELDS and pa.types.is_boolean(FIELDS[path].type):
        return found.astype(bool)
    with np.errstate(over="ignore"):  # a number beyond float32 is infinite, and refused below
        found = np.where(mask, found.astype(np.float32), np.float32(0))
    if not np.isfinite(found).all():
        place = int(np.flatnonzero(~np.isfinite(found))[0])
        raise DataError(f"{path}: {found[place]} at response token {place}, expected a finite number")
    if path.endswith("logprob") and (found > 0).any():
        place = int(np.flatnonzero(found > 0)[0])
        raise DataError(f"{path}: {found[place]:g} at response token {place}, expected 0 or less")
    return found


def _fits(path: str, value: Any) -> bool:
    """Whether a column of the schema can hold a value; of another column, any value."""
    if value is None or path not in FIELDS:
        return True
    try:
        pa.array([value], arrow_type(path))
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def _finite(path: str, value: Any) -> Any:
    """A value on the rollout ruler; rewards are numbers, and texts whole characters."""
    if path not in ("reward", "weight") and not path.startswith("rewards."):
        return whole_characters(value)
    if value is None:
        return None
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise DataError(f"{path}: {value!r:.40}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{path}: {number}, expected a finite number")
    return number


def _column(path: str, values: list[Any], before: pa.DataType | None) -> pa.Array:
    """One column of a chunk. Lists of numbers are joined as arrays, never value by value."""
    if path.startswith("token.") or path == "prompt_ids":
        present = np.array([value is not None for value in values])
        lists = [np.empty(0) if value is None else value for value in values]
        kind = FIELDS[path].type if path in FIELDS else pa.float32()
        dtype = (kind.value_type if pa.types.is_list(kind) else kind).to_pandas_dtype()
        ragged = Ragged.from_lists(lists, dtype)
        return Ragged(ragged.values, ragged.offsets, None if present.all() else present).to_arrow()
    if path in FIELDS:
        return pa.array(values, arrow_type(path))
    if path.startswith("rewards."):
        return pa.array(values, pa.float64())
    try:
        return pa.array(values, before if before is not None and not pa.types.is_null(before) else None)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _wider(before: pa.DataType | None, now: pa.DataType) -> pa.DataType:
    """One type for the values of two chunks."""
    if before is None or before == now or pa.types.is_null(before):
        return now
    if pa.types.is_null(now):
        return before
    return pa.float64() if _is_number(before) and _is_number(now) else pa.string()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
