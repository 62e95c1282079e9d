"""`Gate`: when does a result fail? A comparison of a result's figures with numbers, as `--fail-if` takes it.

    gate        comparison   comparison and comparison   comparison or comparison; `and` binds first
    comparison  figure < number, with < <= > >= == !=; either side may be a figure or a number
    figure      a key of the command's --json, nested ones with dots: mean_tokens   mean_reward.low   counts.singleton
                of a number with an interval, the name alone is its value: mean_reward is mean_reward.value
                pass@1 is pass_at.1; a name with spaces or signs in it stands in quotes: 'gain.my series'

A figure that is undefined (null, NaN) makes its comparison impossible, and the gate fails whatever else is in it.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import GateError, UsageError, unknown

MAX_LENGTH = 1000
Figures = Mapping[str, float | None]
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?%?"
_TOKEN = re.compile(
    rf"\s*(?:(?P<sign><=|>=|==|!=|<|>)|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<number>{_NUMBER})(?![\w.@])|(?P<name>[^\W\d][\w.@/-]*))"
)


@dataclass(frozen=True)
class _Comparison:
    left: str | float
    sign: str
    right: str | float

    def names(self) -> Iterator[str]:
        yield from (side for side in (self.left, self.right) if isinstance(side, str))


class Gate:
    """A gate, parsed. UsageError for text that is none.

    >>> Gate("pass@1 < 0.6").fault({"pass_at.1.value": 0.42})
    GateError("gate: pass@1 is 0.42, fails 'pass@1 < 0.6'")
    >>> Gate("pass@1 < 0.6 and problems > 10").fault({"pass_at.1.value": 0.42, "problems": 4.0})
    """

    def __init__(self, text: str):
        self.text = " ".join(text.split())
        if not self.text or len(self.text) > MAX_LENGTH:
            raise UsageError(f"--fail-if {self.text[:60]!r}: expected a comparison such as 'pass@1 < 0.6'")
        self._any_of = _parse(self.text)

    def names(self) -> list[str]:
        """The figures that it reads, as they are written."""
        return list(dict.fromkeys(name for each in self._any_of for one in each for name in one.names()))

    def check(self, known: Iterable[str]) -> None:
        """UsageError for a figure that is none of those."""
        names = set(known)
        for name in self.names():
            _place(name, names, self.text)

    def fault(self, figures: Figures) -> GateError | None:
        """What a command ends with whose result has these figures. UsageError for an unknown one."""
        values = {name: figures[_place(name, figures.keys(), self.text)] for name in self.names()}
        undefined = [name for name, value in values.items() if value is None or math.isnan(value)]
        if undefined:
            return GateError(
                f"gate: {' and '.join(undefined)} {'is' if len(undefined) == 1 else 'are'} undefined, so {self.text!r} cannot be told"
            )

        def number(side: str | float) -> float:
            return float(values[side] or 0) if isinstance(side, str) else side

        def holds(one: _Comparison) -> bool:
            return _COMPARE[one.sign](number(one.left), number(one.right))

        if not any(all(map(holds, each)) for each in self._any_of):
            return None
        shown = ", ".join(f"{name} is {value:.6g}" for name, value in values.items())
        return GateError(f"gate: {shown}, fails {self.text!r}")


def _parse(text: str) -> list[list[_Comparison]]:
    """Alternatives, each of comparisons that hold together."""
    tokens = list(_tokens(text))
    any_of: list[list[_Comparison]] = [[]]
    for start in range(0, len(tokens), 4):
        three, joint = tokens[start : start + 3], tokens[start + 3 : start + 4]
        if [kind for kind, _ in three] != ["side", "sign", "side"]:
            raise _wrong(text)
        (_, left), (_, sign), (_, right) = three
        any_of[-1].append(_Comparison(left, sign, right))
        if (joint and joint[0] not in (("side", "and"), ("side", "or"))) or (joint and start + 4 >= len(tokens)):
            raise _wrong(text)
        if joint and joint[0][1] == "or":
            any_of.append([])
    if not any(one for each in any_of for comparison in each for one in comparison.names()):
        raise _wrong(text)
    return any_of


def _tokens(text: str) -> Iterator[tuple[str, Any]]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _wrong(text, f" (character {at + 1})")
        at = found.end()
        if found["sign"]:
            yield "sign", found["sign"]
        elif found["number"]:
            share = found["number"].endswith("%")
            yield "side", float(found["number"].rstrip("%")) / (100 if share else 1)
        else:
            yield "side", (found["quoted"] or "")[1:-1] or found["name"] or ""


def _wrong(text: str, where: str = "") -> UsageError:
    return UsageError(
        f"--fail-if {text!r:.200}{where}: expected FIGURE < NUMBER with < <= > >= == !=, joined by and, or: 'pass@1 < 0.6'"
    )


def _place(name: str, known: Iterable[str], text: str) -> str:
    """The key that a name stands for. UsageError with the nearest one where it stands for none."""
    names, full = set(known), re.sub(r"^(\w+)@", r"\1_at.", name)
    for each in (name, full, f"{full}.value"):
        if each in names:
            return each
    told = [re.sub(r"^pass_at\.", "pass@", each).removesuffix(".value") for each in names]
    raise UsageError(f"--fail-if {text!r}: {unknown('figure', name, told)}")


def flatten_figures(content: Any, prefix: str = "") -> dict[str, float | None]:
    """The numbers in a result's JSON, nested ones by dots; null and NaN are undefined. Lists and texts are left out.

    >>> flatten_figures({"pass_at": {"1": {"value": 0.5}}, "gain": None, "path": "a", "out": ["b"]})
    {'pass_at.1.value': 0.5, 'gain': None}
    """
    found: dict[str, float | None] = {}
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            found |= flatten_figures(value, f"{prefix}{key}.")
        elif value is None:
            found[f"{prefix}{key}"] = None
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = None if math.isnan(value) else value
    return found
