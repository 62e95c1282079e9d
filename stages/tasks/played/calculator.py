"""A calculator for arithmetic in Python's notation. It evaluates only what is listed here."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from ...core.ranges import AtLeast
from ..kind import task_family
from .tools import ToolBox, ToolTask, open_tool

MAX_TEXT = 300  # characters of an expression; also bounds its depth
MAX_BITS = 4096  # of a whole number, for intermediate results too
MAX_FACTORIAL = 300

Number = int | float
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_CONSTANTS = {"pi": math.pi, "e": math.e}


def calculate(expression: str) -> str:
    """The value of an expression of numbers, + - * / // % **, brackets, pi, e and some functions.

    ValueError, worded for the model that wrote it, for anything else, for undefined results, and for slow computations:
    numbers beyond 4096 bits, factorials beyond 300, expressions beyond 300 characters.

    >>> calculate("2*(3+4)**2"), calculate("sqrt(2)"), calculate("7/2"), calculate("6/2"), calculate("max(1, 10 % 4)")
    ('98', '1.41421356237', '3.5', '3', '2')
    """
    if len(expression) > MAX_TEXT:
        raise ValueError(f"the expression has {len(expression)} characters, at most {MAX_TEXT} are read")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError("not an arithmetic expression") from error
    try:
        return _write_number(_value(tree))
    except ZeroDivisionError as error:
        raise ValueError("division by zero") from error
    except (OverflowError, RecursionError) as error:
        raise ValueError("a number is too large") from error


def _write_number(value: Number) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the result is not a finite number")
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        return f"{value:.12g}"
    return str(value)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return _small(value)  # type: ignore[arg-type]
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            first, second = _value(left), _value(right)
            if isinstance(op, ast.Pow):
                _check_power(first, second)
            return _small(_BINARY[type(op)](first, second))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            least, most, function = _FUNCTIONS[name]
            if not least <= len(arguments) <= most:
                raise ValueError(f"{name} takes {least if least == most else f'{least} to {most}'} numbers")
            values = [_value(argument) for argument in arguments]
            try:
                return _small(function(*values))
            except TypeError as error:
                raise ValueError(f"{name} needs whole numbers") from error
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
        raise ValueError("^ is not read; powers are written **")
    raise ValueError(f"{ast.unparse(node)[:40]!r} is not arithmetic")


def _small(value: Any) -> Number:
    """The number. ValueError if it is not one (a complex power) or has too many bits."""
    if type(value) not in (int, float):
        raise ValueError("the result is not a real number")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError("a number is too large")
    return value


def _check_power(base: Number, exponent: Number) -> None:
    """Check a power before it is computed: of whole numbers, it has about bits(base) · exponent bits."""
    if (
        isinstance(base, int)
        and isinstance(exponent, int)
        and abs(base) > 1
        and base.bit_length() * exponent > MAX_BITS
    ):
        raise ValueError("a number is too large")


def _factorial(number: Number) -> int:
    if not isinstance(number, int) or not 0 <= number <= MAX_FACTORIAL:
        raise ValueError(f"factorial takes a whole number from 0 to {MAX_FACTORIAL}")
    return math.factorial(number)


def _round(value: Number, digits: Number = 0) -> Number:
    """Python's round, but with a whole number of digits, and not many of them."""
    if not isinstance(digits, int) or abs(digits) > 20:
        raise ValueError("round takes at most 20 digits")
    return round(value, digits) if digits else round(value)


_FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., Any]]] = {
    "abs": (1, 1, abs), "round": (1, 2, _round), "min": (1, 20, lambda *values: min(values)),
    "max": (1, 20, lambda *values: max(values)), "sqrt": (1, 1, math.sqrt), "floor": (1, 1, math.floor),
    "ceil": (1, 1, math.ceil), "exp": (1, 1, math.exp), "log": (1, 2, math.log), "log2": (1, 1, math.log2),
    "log10": (1, 1, math.log10), "sin": (1, 1, math.sin), "cos": (1, 1, math.cos), "tan": (1, 1, math.tan),
    "gcd": (1, 20, math.gcd), "lcm": (1, 20, math.lcm), "factorial": (1, 1, _factorial),
}  # fmt: skip

TOOL = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "The value of an arithmetic expression in Python's notation, such as 2*(3+4)**2 or sqrt(2).",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "The expression."}},
            "required": ["expression"],
        },
    },
}


def _calculate(arguments: Mapping[str, Any]) -> str:
    expression = arguments.get("expression")
    if not isinstance(expression, str | int | float) or isinstance(expression, bool):
        raise ValueError("calculate needs the argument 'expression', a text")
    return calculate(str(expression))


CALCULATOR = ToolBox((TOOL,), {"calculate": _calculate}, kind="tool")


@task_family("tool/calculator", played=True, source="ours")
def open_calculator(
    spec: str,
    /,
    *,
    of: str | None = None,
    max_turns: Annotated[int, AtLeast(1)] = 6,
    turn_tokens: Annotated[int | None, AtLeast(1)] = None,
    **options: Any,
) -> ToolTask:
    """The problems of another task, with a calculator at hand.

    Select it with `--task tool/calculator --task-set of=reasoning_gym/chain_sum`. Further options go to the task `of`.

    Args:
        of: the task that provides the problems, a `--task` value; required.
        max_turns: turns after which the rollout ends.
        turn_tokens: tokens after which a turn ends; None leaves that to the policy.
    """
    return open_tool(spec, of, CALCULATOR, options, max_turns=max_turns, turn_tokens=turn_tokens)
