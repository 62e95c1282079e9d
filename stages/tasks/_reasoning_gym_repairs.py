"""What reasoning-gym 0.1.25 needs to be run on a model's text, and to ask the same questions in every process."""

import ast
import math
from ast import literal_eval
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from sys import modules
from typing import Any

# Verifiers that give an answer to `eval`, where a literal is what they want.
READ_LITERAL = ("binary_matrix", "n_queens", "number_sorting", "spiral_matrix", "string_insertion")
# Verifiers that give the answer to sympy's parse_expr, which evaluates it as Python.
READ_FORMULA = (
    "countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication",
)  # fmt: skip

MAX_FORMULA = 2_000  # characters
MAX_COST = 10_000  # the largest power; a function counts as a 100th power, so three in one another are too many
FUNCTION_COST = 100
CONSTANTS = ("pi", "oo")  # and every single letter
FUNCTIONS = (
    "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc", "sinh", "cosh", "tanh",
    "coth", "asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "cbrt", "root", "abs", "Abs", "sign", "Rational",
    "erf", "Ei", "Si", "Ci", "li",
)  # fmt: skip


def read_literals_only(datasets: Mapping[str, tuple[Any, Any]]) -> None:
    """Put `literal_eval` in the place of `eval` in the verifiers that call it on an answer: a model's text never runs.

    Literals, which are what these verifiers ask for, score as before.
    """
    for name in READ_LITERAL:
        vars(modules[datasets[name][0].__module__])["eval"] = literal_eval


def is_formula(answer: str) -> bool:
    """Whether sympy may evaluate it: numbers, letters, known functions, and no power that takes for ever.

    `Integral` is not among them: the derivative of the unsolved integral would pass for a solution.


    >>> [is_formula(text) for text in ("x**2/2 + log(x) + C", "exec(chr(49))", "x.__class__", "9**9**9", "'a'")]
    [True, False, False, False, False]
    """
    if len(answer) > MAX_FORMULA:
        return False
    try:
        return _cost(ast.parse(answer.strip(), mode="eval").body) <= MAX_COST
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _cost(node: ast.expr) -> float:
    """The largest power that the expression takes of anything. ValueError for what is no formula."""
    match node:
        case ast.Constant(value=bool() | complex()):
            raise ValueError(f"{node.value} in a formula")
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
    raise ValueError(f"{type(node).__name__} in a formula")


def _exponent(node: ast.expr) -> float:
    """No sum, product or quotient of an exponent's whole numbers is larger. ValueError for a power in it."""
    parts = list(ast.walk(node))
    if any(isinstance(part, ast.Pow) for part in parts):
        raise ValueError("a power in an exponent")
    numbers = [part.value for part in parts if isinstance(part, ast.Constant)]
    return math.prod(abs(number) + 1 for number in numbers if isinstance(number, int | float))


class SortedSet(set[str]):
    """A set whose order does not depend on PYTHONHASHSEED."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__()))

    def __sub__(self, other: AbstractSet[Any]) -> "SortedSet":
        return SortedSet(super().__sub__(other))


def in_fixed_order(dataset: Any) -> Any:
    """The dataset, made to draw from sorted lists where it draws from sets."""
    for inner in getattr(dataset, "datasets", {}).values():  # of a composite
        in_fixed_order(inner)
    name = type(dataset).__name__
    if name in ("IsomorphicStringsDataset", "RansomNoteDataset"):
        dataset.letters = SortedSet(dataset.letters)
    elif name == "PolynomialMultiplicationDataset":
        monomials = dataset._get_monomials
        dataset._get_monomials = lambda rng: sorted(monomials(rng), key=str)
    return dataset
