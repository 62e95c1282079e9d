"""What reasoning-gym 0.1.25 needs to be run on a model's text, and to make the same problems in every process."""

import math
import re
from ast import literal_eval
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from sys import modules
from typing import Any

# Verifiers that give the answer to `eval`, where a literal is what they want.
READ_LITERAL = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens")
# Verifiers that give the answer to sympy's parse_expr, which evaluates it as Python.
READ_FORMULA = (
    "countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication",
)  # fmt: skip

MAX_FORMULA = 2_000  # characters
MAX_POWER = 1_000
UNREADABLE = "?"
_FORMULA_NAMES = frozenset(
    "sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh coth asinh acosh atanh exp log ln sqrt cbrt "
    "abs Abs sign pi E I oo Rational Integer Float erf Ei Si Ci li sech csch root".split()
)
_NO_FORMULA = re.compile(r"""["'`{}\[\]@:;!\\]|__|\.\s*[A-Za-z_]""")
# A power of a power, and an exponent in parentheses that is neither a fraction nor holds a letter.
_NO_POWER = re.compile(r"\*\*\s*-?\s*\w+\s*\*\*|\*\*\s*\((?![^()]*[A-Za-z])(?!\s*-?\s*\d+\s*(?:/\s*\d+\s*)?\))")
_POWER = re.compile(r"\*\*\s*\(?\s*-?\s*(\d+)")
_POWER_OF_SUM = re.compile(r"\)\s*\*\*\s*\(?\s*-?\s*(\d+)")


def read_literals_only(datasets: Mapping[str, tuple[Any, Any]]) -> None:
    """Put `literal_eval` in the place of `eval` in the verifiers that call it on the answer: a model's text never runs.

    Literals, which are what these verifiers ask for, score as before.
    """
    for name in READ_LITERAL:
        vars(modules[datasets[name][0].__module__])["eval"] = literal_eval


def harmless(generator: str, answer: str) -> str:
    """The answer, or one that no verifier can read where sympy would run this one as Python, or never come back."""
    return UNREADABLE if generator in READ_FORMULA and not is_formula(answer) else answer


def is_formula(answer: str) -> bool:
    """Whether sympy may have it: only names of functions and single letters, no attribute, no string, no huge power.

    >>> [is_formula(text) for text in ("x**2/2 + log(x) + C", "exec(chr(49))", "x.__class__", "9**9**9", "'a'")]
    [True, False, False, False, False]
    """
    if len(answer) > MAX_FORMULA or _NO_FORMULA.search(answer) or _NO_POWER.search(answer):
        return False
    if any(int(power) > MAX_POWER for power in _POWER.findall(answer)):
        return False
    if math.prod(int(power) for power in _POWER_OF_SUM.findall(answer)) > 10 * MAX_POWER:
        return False
    return all(len(name) == 1 or name in _FORMULA_NAMES for name in re.findall(r"[A-Za-z_]\w*", answer))


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
