"""Arithmetic in which the order of operations always matters, with worked solutions that can get it wrong.

A problem is a number followed by products: `7+2*5-3*4`. A solution works from left to right, one line per sum:

    right      wrong at the first product      wrong at both
    7+10=17    7+2=9                           7+2=9
    17-12=5    9*5=45                          9*5=45
               45-12=33                        45-3=42
                                               42*4=168

So every product is one decision: multiply first, or add first. A problem is kept only if every wrong decision, alone or
with others, changes the result, and if every number on every path lies in 0..max_value.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Annotated, Any, NamedTuple

from ...formats.errors import DataError, UsageError
from ..core.ranges import Between
from ._splits import check_split, is_in
from .kind import Problem, task_family

TEST_SHARE = 10  # one expression in ten is a test problem
MAX_DRAWS = 100_000  # draws without a new problem after which hardly any can be left
_ANSWER = re.compile(r"\s*(-?[0-9]{1,9})\W*")
_LINE = re.compile(r"\s*([0-9]{1,9})([-+*])([0-9]{1,9})=([0-9]{1,9})\s*")
_TERM = re.compile(r"([+-])([0-9]+)\*([0-9]+)")


class Term(NamedTuple):
    """`+b*c` (sign 1) or `-b*c` (sign -1)."""

    sign: int
    b: int
    c: int

    def __str__(self) -> str:
        return f"{'+' if self.sign > 0 else '-'}{self.b}*{self.c}"


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A source of such problems.

    terms: number of products after the first number, that is, of decisions in a problem.
    max_factor: factors are 2..max_factor, the first number is 1..max_factor².
    max_value: the largest number on any path, right or wrong. `builtin:tiny` reads numbers up to 299 as one token.
    """

    spec: str = "arithmetic"
    terms: int = 3
    max_factor: int = 5
    max_value: int = 299

    @property
    def options(self) -> dict[str, int]:
        return {"terms": self.terms, "max_factor": self.max_factor, "max_value": self.max_value}

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` distinct problems of `split`. A larger `count` with the same seed begins with the same problems."""
        check_split(split)
        # A str seed is hashed with SHA-512, so it gives the same problems in every process and on every machine.
        rng = Random(f"arithmetic {split} {seed}")
        seen: set[str] = set()
        for _ in range(count):
            problem = self._draw_new(split, rng, seen)
            seen.add(problem.problem_id)
            yield problem

    def verify(self, text: str, reference: Any) -> float:
        """1 if the number after the last `=` is the reference, else 0.

        >>> [Arithmetic().verify(text, 5) for text in ("7+10=17\\n17-12=5", "7+2=9\\n9*5=45", "5", "5=", "")]
        [1.0, 0.0, 1.0, 0.0, 0.0]
        """
        if not isinstance(reference, int | str) or not str(reference).lstrip("-").isdecimal():
            raise DataError(f"the reference must be a whole number, got {reference!r:.60}")
        answer = _ANSWER.fullmatch(text.rpartition("=")[2])
        return float(answer is not None and int(answer[1]) == int(reference))

    def demonstrate(self, problem: Problem, rng: Random, mistakes: float = 0.0) -> str:
        """A worked solution that, at each product, adds before it multiplies with probability `mistakes`.

        Everything else is exact: the result is right if and only if there was no such mistake.
        """
        value, terms = parse(problem.prompt[-1]["content"])
        lines: list[str] = []
        for sign, b, c in terms:
            operator = "+" if sign > 0 else "-"
            if rng.random() < mistakes:
                total = value + sign * b
                lines += [f"{value}{operator}{b}={total}", f"{total}*{c}={total * c}"]
                value = total * c
            else:
                lines.append(f"{value}{operator}{b * c}={value + sign * b * c}")
                value += sign * b * c
        return "\n".join(lines)

    def verify_step(self, problem: Problem, before: str, step: str) -> bool | None:
        """Whether a line is a right next line of the worked solution; None if it is not a sum.

        Right lines in `before` count as done. Wrong ones are skipped, so that a mistake can be taken back.
        >>> problem = Problem("", [{"role": "user", "content": "7+2*5-3*4"}], 5)
        >>> [Arithmetic().verify_step(problem, "7+10=17\\n", line) for line in ("17-12=5", "17-3=14", "17-12=6", "5")]
        [True, False, False, None]
        """
        value, terms = parse(problem.prompt[-1]["content"])
        lines = [_LINE.fullmatch(line) for line in before.splitlines()]
        done = [match.groups() for match in lines if match]
        for sign, b, c in terms:
            result = value + sign * b * c
            right = (str(value), "+" if sign > 0 else "-", str(b * c), str(result))
            if right not in done:
                break
            done = done[done.index(right) + 1 :]
            value = result
        else:
            right = None
        found = _LINE.fullmatch(step)
        return None if found is None else found.groups() == right

    def _draw_new(self, split: str, rng: Random, seen: set[str]) -> Problem:
        """The next problem of `split` that is not in `seen`."""
        for _ in range(MAX_DRAWS):
            first = rng.randint(1, self.max_factor**2)
            terms = [
                Term(rng.choice((1, -1)), rng.randint(2, self.max_factor), rng.randint(2, self.max_factor))
                for _ in range(self.terms)
            ]
            if not order_matters(first, terms, self.max_value):
                continue
            expression = f"{first}{''.join(map(str, terms))}"
            digest = blake2b(expression.encode(), digest_size=8)
            problem_id = f"arithmetic-{digest.hexdigest()}"
            is_test = int.from_bytes(digest.digest(), "big") % TEST_SHARE == 0
            if is_in(split, "test" if is_test else "train") and problem_id not in seen:
                reference = first + sum(sign * b * c for sign, b, c in terms)
                return Problem(problem_id, [{"role": "user", "content": expression}], reference)
        raise UsageError(
            f"task {self.spec!r}: no more {split} problems after {len(seen)} with {self.options}; "
            "ask for fewer, or raise max_factor or max_value"
        )


def parse(expression: str) -> tuple[int, list[Term]]:
    """The first number and the products of an expression.

    >>> parse("7+2*5-3*4")
    (7, [Term(sign=1, b=2, c=5), Term(sign=-1, b=3, c=4)])
    """
    first = re.match(r"[0-9]*", expression)[0]  # type: ignore[index]
    terms = [Term(1 if op == "+" else -1, int(b), int(c)) for op, b, c in _TERM.findall(expression)]
    return int(first), terms


def order_matters(first: int, terms: list[Term], max_value: int) -> bool:
    """Whether every wrong decision, alone or with others, changes the result, with 0..max_value on every path.

    >>> order_matters(7, [Term(1, 2, 5), Term(-1, 3, 4)], 299)
    True
    >>> order_matters(2, [Term(-1, 2, 5)], 299)      # 2-10 is below 0
    False
    """
    right, wrong = first, set[int]()
    for sign, b, c in terms:
        sums = [value + sign * b for value in (right, *wrong)]
        wrong = {total * c for total in sums} | {value + sign * b * c for value in wrong}
        right += sign * b * c
        if min(right, *sums, *wrong) < 0 or max(right, *sums, *wrong) > max_value:
            return False
    return right not in wrong


@task_family("arithmetic", played=False)
def open_arithmetic(
    spec: str,
    *,
    terms: Annotated[int, Between(1, 8)] = 3,
    max_factor: Annotated[int, Between(3, 99)] = 5,
    max_value: Annotated[int, Between(9, 1_000_000)] = 299,
) -> Arithmetic:
    """Sums of products in which the order of operations decides the result.

    Select it with `--task arithmetic`.

    Args:
        terms: number of products after the first number, that is, of decisions in a problem.
        max_factor: factors are 2 to max_factor, the first number is 1 to max_factor².
        max_value: the largest number on any path, right or wrong. `builtin:tiny` reads numbers up to 299 as one token.
    """
    if spec != "arithmetic":
        raise UsageError(f"task {spec!r}: arithmetic takes nothing after its name; set its options with --task-set")
    return Arithmetic(spec=spec, terms=terms, max_factor=max_factor, max_value=max_value)
