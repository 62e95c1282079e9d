"""Repairs that let reasoning-gym 0.1.25 run on untrusted texts, and ask the same questions in every process.

An answer and its reference may both come from a hostile file. We read how all 106 verifiers handle them. Those that
evaluate either are named here, with a safe substitute; the others only compare.
"""

import ast
import math
import operator
import re
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from sys import modules
from typing import Any

from ...formats.errors import DataError

# Verifiers that pass the answer, or the reference's, to `eval`, and expect a literal.
READ_LITERAL = ("binary_matrix", "n_queens", "number_sorting", "spiral_matrix", "string_insertion")
# Verifiers that pass the reference's problem to `eval`, and expect arithmetic of whole numbers.
READ_WHOLE_NUMBERS = ("bitwise_arithmetic",)
# Verifiers that pass the answer to sympy's parse_expr, which evaluates it as Python, and what else of the reference.
READ_FORMULA: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "countdown": lambda entry: [],
    "puzzle24": lambda entry: [],
    "simple_integration": lambda entry: [entry["metadata"]["integrand"], entry["metadata"]["variable"]],
    "intermediate_integration": lambda entry: [entry["metadata"]["integrand"], entry["metadata"]["variable"]],
    "polynomial_multiplication": lambda entry: [entry["answer"]],
}
# Numbers in the reference that decide how much memory the verifier takes.
SIZES: Mapping[str, Mapping[str, int]] = {
    "rubiks_cube": {"cube_size": 100},
    "tower_of_hanoi": {"num_disks": 1_000, "num_pegs": 1_000},
}
READ_FRACTION = ("coin_flip",)

MAX_FORMULA = 2_000  # characters
_LONG_EXPONENT = re.compile(r"[eE][-+]?[0-9_]{4,}")  # 1e999999999 is a number with a billion digits
MAX_BITS = 65_536  # of a whole number, for intermediate results too
MAX_COST = 10_000  # the largest power; a function counts as a 100th power, so three nested ones are too many
FUNCTION_COST = 100
CONSTANTS = ("pi", "oo")  # besides every single letter
FUNCTIONS = (
    "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc", "sinh", "cosh", "tanh",
    "coth", "asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "cbrt", "root", "abs", "Abs", "sign", "Rational",
    "erf", "Ei", "Si", "Ci", "li",
)  # fmt: skip


def run_no_text(datasets: Mapping[str, tuple[Any, Any]]) -> None:
    """Replace `eval` in the verifiers that call it by a parser, so that no text of a model or a file is executed.

    Literals and arithmetic of whole numbers, which these verifiers expect, score as before.
    """
    for names, reader in ((READ_LITERAL, literal_eval), (READ_WHOLE_NUMBERS, whole_number)):
        for name in names:
            vars(modules[datasets[name][0].__module__])["eval"] = reader


def is_readable(generator: str, answer: str) -> bool:
    """Whether this generator's verifier may safely read the answer."""
    if generator in READ_FORMULA:
        return is_formula(answer)
    return generator not in READ_FRACTION or _LONG_EXPONENT.search(answer) is None


def is_entry(entry: Any) -> bool:
    """Whether the value has what every reasoning-gym entry has."""
    return isinstance(entry, dict) and "answer" in entry and isinstance(entry.get("metadata"), dict)


def check_reference(generator: str, entry: Any) -> None:
    """Check a reference. DataError if it is not an entry of the generator, or is not safe for its verifier."""
    if not is_entry(entry):
        raise DataError(f"the reference must be an entry of reasoning-gym, with answer and metadata, got {entry!r:.60}")
    try:
        read = READ_FORMULA[generator](entry) if generator in READ_FORMULA else []
        unread = next((each for each in read if not is_formula(each)), None)
        if generator in READ_FRACTION and not is_readable(generator, entry["answer"]):
            unread = entry["answer"]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the reference must be an entry of {generator}, got {entry!r:.60}") from error
    if unread is not None:
        raise DataError(f"the reference holds {unread!r:.60}, which is not a formula; {generator} would execute it")
    for name, most in SIZES.get(generator, {}).items():
        size = entry["metadata"].get(name)
        if not isinstance(size, int) or size > most:
            raise DataError(f"the reference's {name} must be a whole number up to {most}, got {size!r:.60}")


def is_formula(answer: str) -> bool:
    """Whether sympy may evaluate the text: numbers, letters, known functions, and no power that takes forever.

    `Integral` is not allowed: the derivative of the unsolved integral would pass for a solution.
    >>> [is_formula(text) for text in ("x**2/2 + log(x) + C", "exec(chr(49))", "x.__class__", "9**9**9", "'a'")]
    [True, False, False, False, False]
    """
    if len(answer) > MAX_FORMULA or _LONG_EXPONENT.search(answer):
        return False
    try:
        return _cost(ast.parse(answer.strip(), mode="eval").body) <= MAX_COST
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def whole_number(text: str) -> int:
    """The value of an expression of whole numbers and + - * << >>. ValueError if it is anything else, or too large.

    >>> whole_number("((0x1f + 0x2) << 0x3)"), whole_number("-(2 - 0xff) * 3")
    (264, 759)
    """
    return _whole(ast.parse(text.strip(), mode="eval").body)


_ON_WHOLE: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}  # fmt: skip


def _whole(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_whole(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ON_WHOLE:
            first, second = _whole(left), _whole(right)
            if first.bit_length() + (second if isinstance(op, ast.LShift) else second.bit_length()) > MAX_BITS:
                raise ValueError(f"a number exceeds {MAX_BITS} bits")
            return _ON_WHOLE[type(op)](first, second)
    raise ValueError(f"whole-number arithmetic does not allow {type(node).__name__}")


def _cost(node: ast.expr) -> float:
    """The largest power that the expression raises anything to. ValueError if it is not a formula."""
    match node:
        case ast.Constant(value=bool() | complex()):
            raise ValueError(f"a formula does not allow {node.value}")
        case ast.Constant(value=int() | float()):
            return 1
        case ast.Name(id=name) if len(name) == 1 or name in CONSTANTS:
            return 1
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _cost(operand)
        case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
            return _cost(base) * _cost(exponent) * _exponent(exponent)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), left=left, right=right):
            return max(_cost(left), _cost(right))
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as arguments, keywords=[]) if name in FUNCTIONS:
            return FUNCTION_COST * max(_cost(argument) for argument in arguments)
    raise ValueError(f"a formula does not allow {type(node).__name__}")


def _exponent(node: ast.expr) -> float:
    """An upper bound on any sum, product or quotient of an exponent's whole numbers. ValueError if it has a power."""
    parts = list(ast.walk(node))
    if any(isinstance(part, ast.Pow) for part in parts):
        raise ValueError("an exponent does not allow a power")
    numbers = [part.value for part in parts if isinstance(part, ast.Constant)]
    return math.prod(abs(number) + 1 for number in numbers if isinstance(number, int | float))


class SortedSet(set[str]):
    """A set whose order does not depend on PYTHONHASHSEED."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__()))

    def __sub__(self, other: AbstractSet[Any]) -> "SortedSet":
        return SortedSet(super().__sub__(other))


def in_fixed_order(dataset: Any) -> Any:
    """The dataset, modified to draw from sorted lists where it would draw from sets."""
    for inner in getattr(dataset, "datasets", {}).values():  # the parts of a composite
        in_fixed_order(inner)
    name = type(dataset).__name__
    if name in ("IsomorphicStringsDataset", "RansomNoteDataset"):
        dataset.letters = SortedSet(dataset.letters)
    elif name == "PolynomialMultiplicationDataset":
        monomials = dataset._get_monomials
        dataset._get_monomials = lambda rng: sorted(monomials(rng), key=str)
    return dataset
