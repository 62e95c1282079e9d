"""`Predicate`: which rollouts? A small, safe language over a batch's columns, as `--where` takes it.

    predicate   any expression that is true or false for a rollout
    columns     reward   rewards.format   token.advantage   column('odd-name')
    derived     length (response tokens)   prompt_length   group_size   row (in the file, from 0)
    literals    1   2e-3   'text'   True   False   None   ['length', 'error']
    compare     == != < <= > >=, chained too: 0 < reward < 1;  reward == None is missing(reward)
    combine     and   or   not   ( )
    arithmetic  + - * / %
    membership  finish_reason in ['length', 'error']   'truncated' in flags   'wait' in text   not in
    of a list   sum mean std min max first last count any all, as in sum(token.advantage), any(token.advantage < 0)
    of a group  group_mean group_std group_min group_max group_sum group_any group_all, as in reward > group_mean(reward)
    of a value  abs   missing

A comparison with a missing (null) value is false, `!=` too; `not` makes it true. A missing list holds nothing: sum and its
like of one are missing, any of one is false, and nothing is `in` it. NaN, and what is divided by 0, is missing. Both
`std` divide by n - 1, and give 0 for one value. Text is compared with text, numbers with numbers.

The text is parsed with `ast` and never executed; what is computed is vectorised, over whole groups.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import DataError, UsageError, unknown
from .operands import (
    DERIVED,
    FUNCTIONS,
    GROUP_FUNCTIONS,
    LITERAL,
    NUMERIC,
    ROLLOUT,
    Columns,
    Operand,
    absent_in,
    align,
    describe_operand,
    group_value,
    missing,
    require_kind,
    truth,
)
from .rollouts import Rollouts
from .schema import RULERS, paths_of
from .segments import Array

MAX_LENGTH = 10_000
_NAMED_LITERALS = {"null": None, "true": True, "false": False}  # as SQL, JSON and YAML write them
_SLIPS = {"=": "==", "&": "and", "|": "or", "!": "not"}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.eq, ast.IsNot: operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide, ast.Mod: np.remainder,
}  # fmt: skip


class Predicate:
    """A predicate, parsed. UsageError for text that is none.

    >>> import pyarrow as pa
    >>> batch = Rollouts(pa.table({
    ...     "group_id": ["a", "a", "b"], "reward": [1.0, 0.0, None], "flags": [["truncated"], [], None],
    ...     "token": [{"id": [5, 7], "advantage": [0.5, -0.1]}, {"id": [5], "advantage": [0.0]}, {"id": [], "advantage": None}],
    ... }))
    >>> Predicate("reward > group_mean(reward)")(batch).tolist()
    [True, False, False]
    >>> Predicate("any(token.advantage < 0) or missing(reward)")(batch).tolist()
    [True, False, True]
    >>> Predicate("'truncated' not in flags and length < 2")(batch).tolist()
    [False, True, True]
    >>> Predicate("rewrd > 0")(batch)
    Traceback (most recent call last):
        ...
    apportion.formats.errors.UsageError: predicate 'rewrd > 0': unknown column 'rewrd'; did you mean 'reward'?
    """

    def __init__(self, text: str):
        self.text = " ".join(text.splitlines()).strip()
        if not self.text:
            raise UsageError("an empty predicate; expected one such as reward > 0")
        if len(self.text) > MAX_LENGTH:
            raise UsageError(f"a predicate of {len(self.text):,} characters; expected at most {MAX_LENGTH:,}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's advice on its own syntax
                self._tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            at = (error.offset or 1) - 1
            hint = next((f"; write {word}" for sign, word in _SLIPS.items() if self.text[at:].startswith(sign)), "")
            raise UsageError(f"predicate {self.text!r}: {error.msg} (character {at + 1}){hint}") from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise UsageError(f"predicate {self.text[:60]!r}: cannot be read ({error})") from error

    def reads(self, schema: pa.Schema) -> list[str]:
        """The file's columns that it reads, the axes of their rulers and group_id with them."""
        found = paths_of(schema)
        wanted = {"group_id"}
        for name in _names(self._tree):
            path = DERIVED.get(name, name)
            wanted.add(path)
            ruler = path.partition(".")[0]
            if ruler in RULERS:
                wanted.update(f"{ruler}.{axis}" for axis in RULERS[ruler].axis)
            elif ruler not in found:
                wanted.update(each for each in found if each.startswith(f"{ruler}.") and path != ruler)
        return [path for path in found if path in wanted]

    def check(self, schema: pa.Schema) -> None:
        """UsageError for an unknown column or an operation on the wrong type, before anything is read."""
        self(Rollouts(schema.empty_table()))

    def __call__(self, rollouts: Rollouts, first_row: int = 0) -> Array:
        """[R] bool: the rollouts it is true of. first_row: the file's row this batch of whole groups begins with."""
        try:
            with np.errstate(all="ignore"):
                found = _Evaluation(self.text, Columns(rollouts, first_row)).of(self._tree)
            if found.kind != "truth":
                raise UsageError(
                    f"{found.what!r} is {describe_operand(found)}, expected a condition such as reward > 0"
                )
            if found.is_list:
                raise UsageError(
                    f"{found.what!r} is one condition for each place on {found.ruler!r}; "
                    f"say any({found.what}) or all({found.what})"
                )
        except RecursionError as error:
            raise UsageError(f"predicate {self.text[:60]!r}: nested too deeply") from error
        except UsageError as error:
            raise UsageError(f"predicate {self.text!r}: {error}") from error
        except DataError as error:
            raise DataError(f"predicate {self.text!r}: {error}") from error
        if found.ruler == LITERAL:
            return np.full(len(rollouts), found.data)
        return truth(found, found.data).data


def _names(tree: ast.expr) -> Iterator[str]:
    """Every name in it that may be a column's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = _dotted_name(node)
            if name is not None:
                yield name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # column('…')


def _dotted_name(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


class _Evaluation:
    """One walk over the tree, on one batch."""

    def __init__(self, text: str, columns: Columns):
        self._text = text
        self._columns = columns

    def of(self, node: ast.expr) -> Operand:
        match node:
            case ast.Constant():
                return self._literal(node.value, self._source(node))
            case ast.Name() | ast.Attribute():
                name = _dotted_name(node)
                if name is None:
                    raise self._foreign(node)
                if name in _NAMED_LITERALS and name not in self._columns.rollouts:
                    return self._literal(_NAMED_LITERALS[name], name)
                if name in FUNCTIONS and name not in self._columns.rollouts:
                    raise UsageError(f"{name!r} is a function, expected {name}(…)")
                return self._columns.named(name)
            case ast.Compare():
                return self._compare(node)
            case ast.BoolOp():
                return self._combine(node)
            case ast.UnaryOp(op=ast.Not()):
                operand = self.of(node.operand)
                require_kind(operand, ("truth",), "not")
                whole = truth(operand, operand.data)
                flipped = not whole.data if whole.ruler == LITERAL else ~whole.data
                return replace(whole, data=flipped, what=self._source(node))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self._negative(node)
            case ast.BinOp():
                return self._arithmetic(node)
            case ast.Call():
                return self._call(node)
            case ast.List() | ast.Tuple() | ast.Set():
                raise UsageError(f"{self._source(node)!r}: a list of literals stands after `in`")
        raise self._foreign(node)

    def _source(self, node: ast.expr) -> str:
        return ast.get_source_segment(self._text, node) or ast.unparse(node)

    def _foreign(self, node: ast.expr) -> UsageError:
        return UsageError(f"{self._source(node)!r} is not part of a predicate; see `apportion filter --help`")

    def _literal(self, value: Any, what: str) -> Operand:
        if value is None:
            return Operand("nothing", LITERAL, None, what)
        if isinstance(value, bool):
            return Operand("truth", LITERAL, value, what)
        if isinstance(value, int | float):
            return Operand("number", LITERAL, float(value) if abs(value) >= 2**62 else value, what)
        if isinstance(value, str):
            return Operand("text", LITERAL, value, what)
        raise UsageError(f"{what!r} is no literal of a predicate; numbers, text, True, False and None are")

    def _compare(self, node: ast.Compare) -> Operand:
        sides = [node.left, *node.comparators]
        parts = []
        for left, test, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(test, ast.In | ast.NotIn):
                part = self._membership(self.of(left), right, isinstance(test, ast.NotIn), self._source(node))
            else:
                part = self._relation(self.of(left), test, self.of(right), self._source(node))
            parts.append(part)
        return self._joined(parts, operator.and_, self._source(node))

    def _relation(self, left: Operand, test: ast.cmpop, right: Operand, what: str) -> Operand:
        for one, other in ((left, right), (right, left)):
            if one.ruler == LITERAL and one.data is None:
                if not isinstance(test, ast.Eq | ast.Is | ast.NotEq | ast.IsNot):
                    raise UsageError(f"{what!r}: nothing is less or more than None")
                absent = missing(other)
                if isinstance(test, ast.NotEq | ast.IsNot):
                    absent = replace(absent, data=not absent.data if absent.ruler == LITERAL else ~absent.data)
                return replace(absent, what=what)
        texts = (left.kind == "text") + (right.kind == "text")
        if texts == 1 and "nothing" not in (left.kind, right.kind):
            raise UsageError(
                f"{what!r}: {left.what!r} is {describe_operand(left)} and {right.what!r} is {describe_operand(right)}, "
                "which cannot be compared"
            )
        a, b, frame = align(left, right, what)
        if "nothing" in (left.kind, right.kind):
            size = len(a) if isinstance(a, np.ndarray) else len(b)
            return truth(frame, np.zeros(size, bool))
        if frame.ruler == LITERAL:
            return truth(frame, _COMPARE[type(test)](a, b))
        there = ~(absent_in(a) | absent_in(b))
        if texts:
            a, b = (np.where(absent_in(each), "", each) if isinstance(each, np.ndarray) else each for each in (a, b))
        return truth(frame, _COMPARE[type(test)](a, b).astype(bool) & there)

    def _membership(self, left: Operand, right: ast.expr, negated: bool, what: str) -> Operand:
        """`left in right`: one of some literals, an element of a list column, or a part of a text column."""
        there = Operand("truth", LITERAL, True, what)  # where it can be said at all
        if not left.is_list and left.ruler != LITERAL:
            there = replace(there, ruler=ROLLOUT, data=~missing(left).data)
        if isinstance(right, ast.List | ast.Tuple | ast.Set):
            each = [self._relation(left, ast.Eq(), self.of(element), what) for element in right.elts]
            found = self._joined(each or [Operand("truth", LITERAL, False, what)], operator.or_, what)
            if left.is_list:
                there = self._relation(left, ast.Eq(), left, what)
        else:
            holder = self.of(right)
            if holder.axis is not None:
                if left.is_list:
                    raise UsageError(f"{what!r}: a list in a list; expected one value on the left")
                places = self._relation(left, ast.Eq(), holder, what)
                found = Operand("truth", ROLLOUT, holder.axis.any(places.data), what)
            elif holder.kind == "text" and holder.ruler == ROLLOUT:
                require_kind(left, ("text",), "in")
                there = self._joined(
                    [there, Operand("truth", ROLLOUT, ~missing(holder).data, what)], operator.and_, what
                )
                part, whole, frame = align(left, holder, what)
                parts = [part] * len(whole) if isinstance(part, str) else part
                pairs = zip(parts, whole, strict=True)
                inside = np.fromiter((a is not None and b is not None and a in b for a, b in pairs), bool, len(whole))
                found = truth(frame, inside)
            else:
                raise UsageError(
                    f"{what!r}: {holder.what!r} is {describe_operand(holder)}, expected a list, as in ['a', 'b'] or flags"
                )
        if not negated:
            return replace(found, what=what)
        found = replace(found, data=not found.data if found.ruler == LITERAL else ~found.data)
        return self._joined([found, there], operator.and_, what)

    def _combine(self, node: ast.BoolOp) -> Operand:
        word, join = ("and", operator.and_) if isinstance(node.op, ast.And) else ("or", operator.or_)
        parts = [self.of(value) for value in node.values]
        for part in parts:
            require_kind(part, ("truth",), word)
        return self._joined([truth(part, part.data) for part in parts], join, self._source(node))

    def _joined(self, parts: list[Operand], join: Callable[[Any, Any], Any], what: str) -> Operand:
        whole = parts[0]
        for part in parts[1:]:
            a, b, frame = align(whole, part, what)
            whole = replace(frame, kind="truth", data=join(a, b))
        return replace(whole, what=what)

    def _negative(self, node: ast.UnaryOp) -> Operand:
        operand = self.of(node.operand)
        require_kind(operand, NUMERIC, self._source(node))
        zero = Operand("number", LITERAL, 0, "0")
        sign = ast.Sub() if isinstance(node.op, ast.USub) else ast.Add()
        return self._computed(zero, sign, operand, self._source(node))

    def _arithmetic(self, node: ast.BinOp) -> Operand:
        if type(node.op) not in _ARITHMETIC:
            words = {ast.BitAnd: "; write `and`", ast.BitOr: "; write `or`"}.get(type(node.op), "")
            raise UsageError(f"{self._source(node)!r}: only + - * / % are computed{words}")
        return self._computed(self.of(node.left), node.op, self.of(node.right), self._source(node))

    def _computed(self, left: Operand, op: ast.operator, right: Operand, what: str) -> Operand:
        for operand in (left, right):
            require_kind(operand, NUMERIC, repr(what))
            if operand.ruler == LITERAL and operand.data is None:
                raise UsageError(f"{what!r}: None is no number")
        a, b, frame = align(left, right, what)
        exact = isinstance(op, ast.Mod) and all(np.asarray(each).dtype.kind in "iub" for each in (a, b))
        a, b = (_computable(each, exact) for each in (a, b))
        if isinstance(op, ast.Div | ast.Mod):
            divisor = np.asarray(b)
            result = np.where(divisor == 0, np.nan, _ARITHMETIC[type(op)](a, np.where(divisor == 0, 1, divisor)))
        else:
            result = _ARITHMETIC[type(op)](a, b)
        if frame.ruler == LITERAL:
            return replace(frame, kind="number", data=float(result))
        return replace(frame, kind="number", data=result)

    def _call(self, node: ast.Call) -> Operand:
        name = _dotted_name(node.func)
        known = (*FUNCTIONS, *GROUP_FUNCTIONS, "column")
        if name is None:
            raise self._foreign(node)
        if name not in known:
            raise unknown("function", name, known)
        if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            raise UsageError(f"{self._source(node)!r}: {name} takes one argument")
        argument = node.args[0]
        if name == "column":
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise UsageError(f"{self._source(node)!r}: expected a column's name in quotes")
            return self._columns.column(argument.value)
        operand = self.of(argument)
        if name in GROUP_FUNCTIONS:
            return group_value(name, operand, self._columns.groups)
        if operand.ruler == LITERAL and name not in ("abs", "missing"):
            raise UsageError(f"{self._source(node)!r}: a literal, expected a list such as token.advantage")
        return FUNCTIONS[name](operand)


def _computable(data: Any, exact: bool) -> Any:
    """Floats in their own precision; integers and truth values as float64, or as int64 where that is exact."""
    if not isinstance(data, np.ndarray):
        return data if isinstance(data, float) or exact else float(data)
    if data.dtype.kind == "f":
        return data.astype(np.float32) if data.dtype == np.float16 else data
    return data.astype(np.int64 if exact else np.float64)
