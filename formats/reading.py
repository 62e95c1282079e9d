"""Read rollouts in Python: `apportion.open("rollouts.parquet")`, for a notebook or a script.

The file stays on disk. Columns are read when they are asked for, groups one after another, and texts as they stand.
"""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .errors import UsageError, unknown
from .parquet import RolloutFile, check_names, files_of
from .predicates import Predicate
from .provenance import Record
from .ragged import Ragged
from .rollouts import Rollouts
from .schema import RULERS, paths_of
from .segments import Array

if TYPE_CHECKING:
    import pandas
    import polars

SHOWN = 5  # groups in a notebook's view
NAMES = ("rollout_id", "group_id")


def open_rollouts(path: str | Path) -> "RolloutSet":
    """The rollouts of a file, or of all files of a directory.

    UsageError for a path that is not there, DataError for what is no rollout file.
    """
    files = [RolloutFile(file) for file in files_of(Path(path))]
    check_names(files)
    return RolloutSet(Path(path), tuple(files))


@dataclass(frozen=True)
class RolloutSet:
    """Rollouts on disk: R of them, in groups. Iterating gives the groups.

    data["reward"] is an array [R]; data["token.advantage"] a `Ragged` of R lists; data["text"] a list of R texts.
    """

    path: Path
    files: tuple[RolloutFile, ...]
    conditions: tuple[Predicate, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Every column by its path, those of a ruler with a dot: `token.advantage`."""
        return list(dict.fromkeys(path for file in self.files for path in paths_of(file.schema)))

    @property
    def history(self) -> tuple[Record, ...]:
        """What made the file, the oldest first; of a directory, its first file's."""
        return self.files[0].provenance.history

    def __len__(self) -> int:
        if not self.conditions:
            return sum(file.num_rows for file in self.files)
        return sum(len(batch) for batch in self.batches(["rollout_id"]))

    def where(self, condition: str) -> "RolloutSet":
        """Those of which a condition is true, in the language of `--where`: "reward > 0.5 and 'truncated' not in flags".

        UsageError for what is no condition, or an unknown column.
        """
        predicate = Predicate(condition)
        for file in self.files:
            predicate.check(file.schema)
        return RolloutSet(self.path, self.files, (*self.conditions, predicate))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Rollouts]:
        """Whole groups at a time, with these columns; None reads all. UsageError for an unknown column."""
        for file in self.files:
            known = paths_of(file.schema)
            for path in columns or ():
                if path not in known:
                    raise unknown(f"column of {file.path}", path, known)
            wanted = None if columns is None else [*columns, *self._read_by_conditions(file)]
            row = 0
            for batch in file.batches(None if wanted is None else list(dict.fromkeys([*NAMES, *wanted]))):
                keep = np.ones(len(batch), bool)
                for condition in self.conditions:
                    keep &= condition(batch, row)
                row += len(batch)
                if keep.any():
                    kept = batch if keep.all() else batch.take(np.flatnonzero(keep))
                    yield kept if columns is None else select(kept, list(dict.fromkeys([*NAMES, *columns])))

    def _read_by_conditions(self, file: RolloutFile) -> list[str]:
        return [path for condition in self.conditions for path in condition.reads(file.schema)]

    def read(self, columns: Sequence[str] | None = None) -> Rollouts:
        """All of them at once; None reads all columns. UsageError where there are none."""
        batches = list(self.batches(columns))
        if not batches:
            raise UsageError(f"{self.path}: no rollouts of which this is true: {self._conditions()}")
        return Rollouts.concat(batches)

    def _conditions(self) -> str:
        return " and ".join(condition.text for condition in self.conditions)

    def __getitem__(self, path: str) -> Any:
        """A column by its path: [R] numbers (a missing one is NaN), R lists of numbers, or R texts and other values."""
        return column_of(self.read([path]), path)

    def __iter__(self) -> "Iterator[Group]":
        for batch in self.batches():
            for first, last in pairwise(batch.groups.offsets.tolist()):
                yield Group(batch.slice(first, last))

    def group(self, name: str) -> "Group":
        """The group of that `group_id`. UsageError where there is none."""
        for batch in self.batches():
            rows = [row for row, each in enumerate(batch.strings("group_id")) if each == name]
            if rows:
                return Group(batch.slice(rows[0], rows[-1] + 1))
        raise UsageError(f"{self.path}: no group {name!r:.200}")

    def rollout(self, name: str) -> "Rollout":
        """The rollout of that `rollout_id`. UsageError where there is none."""
        for batch in self.batches():
            names = batch.strings("rollout_id")
            if name in names:
                return Rollout(batch, names.index(name))
        raise UsageError(f"{self.path}: no rollout {name!r:.200}")

    # To other libraries

    def to_arrow(self, ruler: str = "rollout", columns: Sequence[str] | None = None) -> pa.Table:
        """A table with a row for each rollout, or for each token ("token"), step or node, with the rollout's name and its place.

        ruler: "rollout", "token", "step", "node" …; columns: paths, None for all of the ruler. Rulers' columns of a rollout
        table are lists. UsageError for an unknown ruler or column.
        """
        if ruler == "rollout":
            return self.read(columns).table
        if ruler not in RULERS:
            raise unknown("ruler", ruler, ["rollout", *RULERS])
        own = [path for path in self.columns if path.startswith(f"{ruler}.")]
        if not own:
            raise UsageError(f"{self.path}: has no {ruler}s")
        for path in columns or ():
            head, dot, _ = path.partition(".")
            if dot and head in RULERS and head != ruler:
                raise UsageError(f"column {path!r} is not of the {ruler} ruler; read it with to_arrow({head!r})")
        axis = f"{ruler}.{RULERS[ruler].axis[0]}"
        paths = own if columns is None else list(columns)
        return long_table(self.read([axis, *paths]), axis, paths)

    def to_pandas(self, ruler: str = "rollout", columns: Sequence[str] | None = None) -> "pandas.DataFrame":
        """The same as a pandas DataFrame. UsageError where pandas is not installed."""
        needed("pandas")
        return self.to_arrow(ruler, columns).to_pandas()

    def to_polars(self, ruler: str = "rollout", columns: Sequence[str] | None = None) -> "polars.DataFrame":
        """The same as a Polars DataFrame. UsageError where polars is not installed."""
        return needed("polars").from_arrow(self.to_arrow(ruler, columns))

    def to_torch(self, columns: Sequence[str], device: str = "cpu") -> dict[str, Any]:
        """{path: tensor} of numbers: [R] of a rollout column, [R, L] of a ruler's, 0 beyond the end of a list and NaN where the
        list is missing; with token columns also "token.mask" [R, L] bool, true on the policy's tokens.

        `data[path].to_torch()` gives the lists without padding. UsageError for a column that has no numbers, and where torch is
        not installed.
        """
        torch = needed("torch")
        tokens = any(path.startswith("token.") for path in columns)
        paths = list(columns) + ["token.mask"] * (tokens and "token.mask" not in columns)
        rollouts = self.read(paths)
        found: dict[str, Any] = {}
        for path in paths:
            column = column_of(rollouts, path)
            if isinstance(column, list):
                raise UsageError(f"column {path!r} has no numbers; read it with data[{path!r}]")
            found[path] = torch.from_numpy(padded(column) if isinstance(column, Ragged) else column.copy()).to(device)
        return found

    def __repr__(self) -> str:
        names = ", ".join(self.columns[:8]) + (" …" if len(self.columns) > 8 else "")
        held = f" where {self._conditions()}" if self.conditions else ""
        return f"<rollouts of {self.path}{held}: {len(self):,} in {len(self.files)} file(s); {names}>"

    def _repr_html_(self) -> str:
        """The first groups as a table."""
        rows: list[str] = []
        for number, group in enumerate(self):
            if number == SHOWN:
                break
            rewards = ", ".join("–" if each.reward is None else f"{each.reward:.3g}" for each in group.rollouts[:8])
            rows.append(f"<tr><td>{html.escape(_short(group.prompt))}</td><td>{len(group)}</td><td>{rewards}</td></tr>")
        return (
            f"<p>{html.escape(repr(self))}</p><table><tr><th>prompt</th><th>rollouts</th><th>rewards</th></tr>"
            f"{''.join(rows)}</table>"
        )


@dataclass(frozen=True, eq=False)
class Group:
    """Rollouts of one prompt. data: their columns, as `Rollouts`."""

    data: Rollouts

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> "Iterator[Rollout]":
        return iter(self.rollouts)

    @property
    def id(self) -> str:
        return self.data.strings("group_id")[0]

    @property
    def prompt(self) -> str:
        """The prompt's messages as one text; "" in a file without."""
        return self.rollouts[0].prompt

    @cached_property
    def rollouts(self) -> "list[Rollout]":
        return [Rollout(self.data, row) for row in range(len(self))]

    def __repr__(self) -> str:
        return f"<group {self.id!r}: {len(self)} rollouts, {_short(self.prompt)!r}>"


@dataclass(frozen=True, eq=False)
class Rollout:
    """One rollout: row `row` of `data`. rollout["token.advantage"] is an array [T], rollout["finish_reason"] a value."""

    data: Rollouts
    row: int

    def __getitem__(self, path: str) -> Any:
        column = self.data.arrow(path)[self.row]
        value = column.as_py()
        is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        return np.array(value) if value is not None and is_list and _is_number(column.type.value_type) else value

    def get(self, path: str, default: Any = None) -> Any:
        """The value of a column; the default where the file lacks it."""
        return self[path] if path in self.data else default

    @property
    def id(self) -> str:
        return self["rollout_id"]

    @property
    def prompt(self) -> str:
        """The prompt's messages as one text; "" in a file without."""
        return "\n".join(str(message.get("content") or "") for message in self.get("prompt") or ())

    @property
    def text(self) -> str:
        """The response; "" in a file without texts."""
        return self.get("text") or ""

    @property
    def reward(self) -> float | None:
        return self.get("reward")

    @property
    def flags(self) -> list[str]:
        return self.get("flags") or []

    def __repr__(self) -> str:
        return f"<rollout {self.id!r}: reward {self.reward}, {_short(self.text)!r}>"


def column_of(rollouts: Rollouts, path: str) -> Array | Ragged | list[Any]:
    """A column as it is computed with: numbers [R], lists of numbers, or else Python values."""
    array = rollouts.arrow(path)
    kind = array.type
    if _is_number(kind):
        return rollouts.numbers(path)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return rollouts.ragged(path) if _is_number(kind.value_type) else array.to_pylist()
    return array.to_pylist()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def select(rollouts: Rollouts, paths: Sequence[str]) -> Rollouts:
    """The rollouts with these columns alone."""
    bare = Rollouts(rollouts.table.select([name for name in paths if name in rollouts.table.column_names]))
    return bare.with_columns({path: rollouts.arrow(path) for path in paths if path not in bare})


def long_table(rollouts: Rollouts, axis: str, paths: Sequence[str]) -> pa.Table:
    """A row for each place on a ruler: rollout_id, group_id, place (from 0), the ruler's columns by their last names, and columns of
    the rollout. A list that is missing is null on all its places."""
    places = rollouts.ragged(axis).segments
    rows = pa.array(places.ids)
    columns: dict[str, Any] = {name: rollouts.arrow(name).take(rows) for name in NAMES}
    columns["place"] = places.positions
    for path in paths:
        column = rollouts.arrow(path)
        head, _, leaf = path.partition(".")
        if head != axis.partition(".")[0]:  # of the rollout: on each of its places
            columns[path] = column.take(rows)
            continue
        flat = column.flatten()
        if len(flat) != len(rows):
            there = places.spread(column.is_valid().to_numpy(zero_copy_only=False))
            index = np.cumsum(there) - 1
            flat = flat.take(pa.array(index, mask=~there))
        columns[leaf] = flat
    return pa.table(columns)


def padded(lists: Ragged) -> Array:
    """[R, L]: the lists beside each other, 0 beyond the end of each. A row whose list is missing is NaN, as far as the others reach,
    where the numbers allow it."""
    sizes = lists.segments.sizes
    made = np.zeros((len(lists), int(sizes.max(initial=0))), lists.values.dtype)
    made[lists.segments.ids, lists.segments.positions] = lists.values
    if lists.present is not None and np.issubdtype(made.dtype, np.floating):
        made[~lists.present] = np.nan
    return made


def needed(package: str) -> Any:
    """The package. UsageError where it is not installed."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(f"this needs the package {package}; run: pip install {package}") from error


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
