"""What numbers an option takes, said in its type hint: `epsilon: Annotated[float, Between(0, 1)] = 0.5`.

A range is checked with the plan and before any work, and `--help`, `list`, the documents and the JSON Schema show it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from ...formats.errors import UsageError


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`. With `above`, `least` itself is excluded; with `below`, `most` is. NaN and infinity
    lie in no range."""

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.least is not None and (value < self.least or (self.above and value == self.least)):
            return False
        return self.most is None or not (value > self.most or (self.below and value == self.most))

    def __str__(self) -> str:
        """The words after "must be".

        >>> str(Between(0, 1)), str(Above(0)), str(Range(0, 1, above=True))
        ('between 0 and 1', 'above 0', 'above 0 and at most 1')
        """
        least, most = (None if each is None else f"{each:,}" for each in (self.least, self.most))
        if least and most and self.above == self.below:
            return f"{'strictly ' if self.above else ''}between {least} and {most}"
        lower = f"{'above' if self.above else 'at least'} {least}" if least else ""
        upper = f"{'below' if self.below else 'at most'} {most}" if most else ""
        return " and ".join(each for each in (lower, upper) if each) or "finite"

    def to_schema(self) -> dict[str, float]:
        """The same in JSON Schema's words."""
        lower = {} if self.least is None else {"exclusiveMinimum" if self.above else "minimum": self.least}
        upper = {} if self.most is None else {"exclusiveMaximum" if self.below else "maximum": self.most}
        return lower | upper


def Between(least: float, most: float) -> Range:
    """least ≤ value ≤ most."""
    return Range(least, most)


def Inside(least: float, most: float) -> Range:
    """least < value < most."""
    return Range(least, most, above=True, below=True)


def AtLeast(least: float) -> Range:
    """value ≥ least."""
    return Range(least)


def Above(least: float) -> Range:
    """value > least."""
    return Range(least, above=True)


Finite = Range()
"""Any number but NaN and infinity."""


def range_of(hint: Any) -> Range | None:
    """The range in an `Annotated` hint; None where there is none."""
    if get_origin(hint) is not Annotated:
        return None
    return next((each for each in get_args(hint)[1:] if isinstance(each, Range)), None)


def check_range(hint: Any, value: Any, where: str) -> None:
    """UsageError for a number, or one of a list's, outside of the hint's range. None is not given, and is in every range.

    where: what the message begins with, such as "strategy rose: epsilon".
    """
    allowed = range_of(hint)
    if allowed is None:
        return
    for number in _numbers(value):
        if number not in allowed:
            raise UsageError(
                f"{where} must be {allowed}, got {number:g}"
                if isinstance(number, float)
                else f"{where} must be {allowed}, got {number:,}"
            )


def _numbers(value: Any) -> Iterator[float]:
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, int | float) and not isinstance(each, bool):
            yield each
