"""What a predicate computes with: columns of a batch and literals as `Operand`s, and the functions that take them.

An operand is a literal, or has one value a rollout, or one a place of a ruler. A missing value is none: `valid` says which
rollouts have one, and NaN is missing too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError, UsageError, unknown
from .rollouts import Rollouts
from .schema import RULERS
from .segments import Array, Segments

Kind = Literal["number", "truth", "text", "nothing"]
LITERAL, ROLLOUT = "", "rollout"
DERIVED = {"length": "token.id", "prompt_length": "prompt_ids", "group_size": "group_id", "row": "group_id"}


@dataclass(frozen=True)
class Operand:
    """data: a Python scalar of a literal, else [R] values or those of all places of `axis`. valid: [R] bool, None is all.

    what: its text in the predicate, for messages.
    """

    kind: Kind
    ruler: str
    data: Any
    what: str
    valid: Array | None = None
    axis: Segments | None = None

    @property
    def is_list(self) -> bool:
        return self.axis is not None


class Columns:
    """A batch's columns as operands. first_row: the file's row the batch begins with."""

    def __init__(self, rollouts: Rollouts, first_row: int = 0):
        self.rollouts = rollouts
        self._first_row = first_row
        self._axes: dict[str, tuple[Segments, str]] = {}

    def named(self, name: str) -> Operand:
        """A derived name or a column. UsageError with the nearest match where there is none of that name."""
        if name not in DERIVED:
            return self.column(name)
        if DERIVED[name] not in self.rollouts:
            raise UsageError(f"{name!r} needs the column {DERIVED[name]!r}, which is not there")
        if name == "length":
            data = self.rollouts.tokens.sizes
        elif name == "prompt_length":
            return count(self.column("prompt_ids"))
        elif name == "group_size":
            data = self.rollouts.groups.spread(self.rollouts.groups.sizes)
        else:
            data = np.arange(len(self.rollouts)) + self._first_row
        return Operand("number", ROLLOUT, data, name)

    def column(self, path: str) -> Operand:
        """A column of the file by its path."""
        if path not in self.rollouts:
            raise unknown("column", path, [*self.rollouts.paths, *DERIVED])
        array = self.rollouts.arrow(path)
        if not _is_list(array.type):
            kind, data = _values(array, path)
            return Operand(kind, ROLLOUT, data, path, _valid(array))
        kind, data = _values(array.flatten(), path)
        ruler = path.partition(".")[0] if path not in self.rollouts.table.column_names else path
        axis, leader = self._axis(ruler)
        sizes = pc.fill_null(array.value_lengths(), 0).to_numpy(zero_copy_only=False)
        valid = _valid(array)
        wrong = sizes != axis.sizes if valid is None else (sizes != axis.sizes) & valid
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(f"row {row}, column {path!r}: {sizes[row]} values, but {leader!r} has {axis.sizes[row]}")
        if valid is not None:  # the places of missing lists
            filled = np.full(int(axis.offsets[-1]), None if kind == "text" else 0, data.dtype)
            filled[axis.spread(valid)] = data
            data = filled
        return Operand(kind, ruler, data, path, valid, axis)

    def _axis(self, ruler: str) -> tuple[Segments, str]:
        """The places of a ruler [N] as stretches, one a rollout, and the column that says so."""
        if ruler not in self._axes:
            leaves = [path for path in self.rollouts.paths if path == ruler or path.startswith(f"{ruler}.")]
            known = [f"{ruler}.{field}" for field in RULERS[ruler].axis] if ruler in RULERS else []
            chosen = [path for path in known if path in leaves][:1] or leaves
            lists = [array for path in chosen if _is_list((array := self.rollouts.arrow(path)).type)]
            sizes = [pc.fill_null(array.value_lengths(), 0).to_numpy(zero_copy_only=False) for array in lists]
            self._axes[ruler] = Segments.of_sizes(np.max(sizes, axis=0)), chosen[0]
        return self._axes[ruler]

    @cached_property
    def groups(self) -> Segments:
        return self.rollouts.groups


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _valid(array: pa.Array) -> Array | None:
    return array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None


def _values(array: pa.Array, path: str) -> tuple[Kind, Array]:
    """Numbers in their own precision, integers as 64 bits; a missing one is NaN or 0, a missing text None."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _values(array.dictionary_decode(), path)
    if pa.types.is_null(kind):
        return "nothing", np.full(len(array), np.nan)
    if pa.types.is_boolean(kind):
        return "truth", pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    if pa.types.is_integer(kind):
        if not array.null_count:
            values = array.to_numpy(zero_copy_only=False)
            return "number", values if kind == pa.uint64() else values.astype(np.int64, copy=False)
        return "number", pc.fill_null(array, pa.scalar(0, kind)).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_floating(kind):
        return "number", array.to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        try:
            texts = array.to_pylist()
        except UnicodeDecodeError as error:
            raise DataError(f"column {path!r}: {error}") from error
        data = np.empty(len(texts), object)
        data[:] = texts
        return "text", data
    raise UsageError(f"column {path!r} holds {kind}, which a predicate cannot read")


def align(left: Operand, right: Operand, what: str) -> tuple[Any, Any, Operand]:
    """Both operands' data on one ruler, and a frame for the result: its ruler, axis and rollouts with a value.

    A literal stands for every place, a rollout's value for all of its places. UsageError for lists of two rulers.
    """
    if left.is_list and right.is_list and left.ruler != right.ruler:
        raise UsageError(
            f"{what!r} puts places on {left.ruler!r} beside places on {right.ruler!r}; reduce one, as in sum({left.what})"
        )
    frame = left if left.is_list or right.ruler == LITERAL else right
    axis = frame.axis
    data = [
        axis.spread(each.data) if axis is not None and each.ruler == ROLLOUT else each.data for each in (left, right)
    ]
    valid = _both(left.valid, right.valid)
    return data[0], data[1], Operand("number", frame.ruler, None, what, valid, axis)


def _both(left: Array | None, right: Array | None) -> Array | None:
    return right if left is None else left if right is None else left & right


def truth(frame: Operand, data: Any) -> Operand:
    """A condition on the frame's ruler: false where a value is missing."""
    if frame.ruler == LITERAL:
        return replace(frame, kind="truth", data=bool(data))
    if frame.valid is not None:
        data = data & (frame.valid if frame.axis is None else frame.axis.spread(frame.valid))
    return replace(frame, kind="truth", data=data, valid=None)


def require_kind(operand: Operand, kinds: tuple[Kind, ...], who: str) -> None:
    """UsageError where `who` cannot take the operand."""
    if operand.kind not in kinds:
        needed = {"number": "a number", "truth": "a condition", "text": "text"}[kinds[0]]
        raise UsageError(f"{who}: {operand.what!r} is {describe_operand(operand)}, expected {needed}")


def describe_operand(operand: Operand) -> str:
    """In words: "a number", "a list of numbers" …"""
    one = {"number": "a number", "truth": "a condition", "text": "text", "nothing": "nothing"}[operand.kind]
    many = {"number": "numbers", "truth": "conditions", "text": "texts", "nothing": "nothing"}[operand.kind]
    return f"a list of {many} on {operand.ruler!r}" if operand.is_list else one


NUMERIC: tuple[Kind, ...] = ("number", "truth", "nothing")


def absent_in(data: Any) -> Any:
    """[N] bool: None or NaN; False of a literal."""
    if isinstance(data, np.ndarray) and data.dtype == object:
        return np.fromiter((each is None for each in data), bool, len(data))
    return np.isnan(data) if isinstance(data, np.ndarray) and data.dtype.kind == "f" else np.False_


def missing(operand: Operand) -> Operand:
    """missing(x): a rollout's value, or its whole list, is not there."""
    if operand.ruler == LITERAL:
        return Operand("truth", LITERAL, operand.data is None, f"missing({operand.what})")
    rows = len(operand.axis) if operand.axis is not None else len(operand.data)
    absent = np.zeros(rows, bool) if operand.valid is None else ~operand.valid
    if not operand.is_list:
        absent |= absent_in(operand.data)
    return Operand("truth", ROLLOUT, absent, f"missing({operand.what})")


def absolute(operand: Operand) -> Operand:
    """abs(x), of a number or of every number of a list."""
    require_kind(operand, NUMERIC, "abs")
    return replace(operand, kind="number", data=abs(_number(operand.data)), what=f"abs({operand.what})")


def _number(data: Any) -> Any:
    return data.astype(np.int64) if isinstance(data, np.ndarray) and data.dtype == bool else data


def _list(operand: Operand, who: str, kinds: tuple[Kind, ...]) -> Segments:
    if operand.axis is None:
        raise UsageError(
            f"{who}({operand.what}): {describe_operand(operand)}, expected a list such as token.advantage; "
            f"over the rollouts of a group: group_{who}"
        )
    require_kind(operand, kinds, who)
    return operand.axis


def count(operand: Operand) -> Operand:
    """count(x): places of a list; of a condition, those where it holds."""
    axis = _list(operand, "count", ("number", "truth", "text", "nothing"))
    present = axis.sizes if operand.valid is None else axis.sizes * operand.valid
    data = axis.sum(operand.data) if operand.kind == "truth" else present
    return Operand("number", ROLLOUT, data, f"count({operand.what})")


def _any(operand: Operand) -> Operand:
    axis = _list(operand, "any", ("truth",))
    return Operand("truth", ROLLOUT, axis.any(_sound(operand)), f"any({operand.what})")


def _all(operand: Operand) -> Operand:
    axis = _list(operand, "all", ("truth",))
    return Operand("truth", ROLLOUT, ~axis.any(~operand.data), f"all({operand.what})")


def _sound(operand: Operand) -> Any:
    """The data of a condition, false where it is missing."""
    return truth(operand, operand.data).data


def _reducer(name: str, *, empty: bool) -> Callable[[Operand], Operand]:
    """A list's numbers to one; `empty`: an empty list has a value too."""

    def reduce(operand: Operand) -> Operand:
        axis = _list(operand, name, NUMERIC)
        data = getattr(axis, name)(_number(operand.data))
        valid = operand.valid if empty else _both(operand.valid, axis.sizes > 0)
        return Operand("number", ROLLOUT, data, f"{name}({operand.what})", valid)

    return reduce


FUNCTIONS: dict[str, Callable[[Operand], Operand]] = {
    "abs": absolute,
    "missing": missing,
    "count": count,
    "any": _any,
    "all": _all,
    "sum": _reducer("sum", empty=True),
    **{name: _reducer(name, empty=False) for name in ("mean", "std", "min", "max", "first", "last")},
}
GROUP_FUNCTIONS = ("group_mean", "group_std", "group_min", "group_max", "group_sum", "group_any", "group_all")


def group_value(name: str, operand: Operand, groups: Segments) -> Operand:
    """group_mean(x) and its like: every rollout gets the value of its group; missing ones take no part."""
    if operand.is_list or operand.ruler == LITERAL:
        kind = "a literal" if operand.ruler == LITERAL else describe_operand(operand)
        raise UsageError(f"{name}({operand.what}): {kind}, expected one value a rollout, as in {name}(reward)")
    what, which = f"{name}({operand.what})", name.removeprefix("group_")
    if which in ("any", "all"):
        require_kind(operand, ("truth",), name)
        holds = _sound(operand)
        data = groups.any(holds) if which == "any" else ~groups.any(~holds)
        return Operand("truth", ROLLOUT, groups.spread(data), what)
    require_kind(operand, NUMERIC, name)
    there = ~missing(operand).data
    parts = Segments.of_sizes(groups.sum(there))
    data = getattr(parts, which)(_number(operand.data)[there])
    valid = None if which == "sum" else groups.spread(parts.sizes > 0)
    return Operand("number", ROLLOUT, groups.spread(data), what, valid)
