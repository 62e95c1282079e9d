"""Ranges stand in signatures: every one is checked by name, before any work, with the option's place."""

from typing import Any

import pytest
from apportion.formats.errors import UsageError
from apportion.stages.core.kinds import kinds
from apportion.stages.core.options import parameter_hints
from apportion.stages.core.ranges import Above, AtLeast, Between, Finite, Inside, Range, range_of
from apportion.stages.core.table import commands

RANGED = [
    (plural, entry.name, name, range_of(parameter_hints(entry.function)[name]))
    for plural, kind in kinds().items()
    for entry in kind
    for name in entry.options
    if range_of(parameter_hints(entry.function)[name]) is not None
]


def outside(allowed: Range) -> float:
    """A number that is not in the range."""
    if allowed.least is not None:
        return allowed.least if allowed.above else allowed.least - 1
    return allowed.most + 1 if allowed.most is not None else float("inf")


@pytest.mark.parametrize(("plural", "name", "option", "allowed"), RANGED, ids=lambda each: str(each))
def test_a_value_out_of_range_is_refused_by_name(plural: str, name: str, option: str, allowed: Range) -> None:
    kind = kinds()[plural]
    hint = str(parameter_hints(kind[name].function)[option])
    value: Any = outside(allowed)
    value = int(value) if "int" in hint and "float" not in hint else value
    if "Sequence" in hint or "tuple" in hint:
        value = [value]
    needed = {"live": 1, "history": ["x"], "memory": "x", "regex": "x"}
    given = {key: needed[key] for key, each in kind[name].options.items() if each.default is each.empty} | {
        option: value
    }
    with pytest.raises(UsageError, match=rf"^{kind.noun} {name}: {option} must be "):
        kind.settle(name, given)


def test_there_are_ranges_to_look_at() -> None:
    assert len(RANGED) > 100


@pytest.mark.parametrize(
    ("allowed", "inside", "beyond"),
    [
        (Between(0, 1), [0, 1, 0.5], [-0.1, 1.1, float("nan"), float("inf")]),
        (Inside(0, 1), [0.5], [0, 1]),
        (AtLeast(1), [1, 2], [0, float("inf")]),
        (Above(0), [0.1], [0, -1]),
        (Finite, [-1e300, 0], [float("inf"), float("-inf"), float("nan")]),
    ],
)
def test_what_lies_in_a_range(allowed: Range, inside: list[float], beyond: list[float]) -> None:
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in beyond)


def test_defaults_lie_in_their_ranges() -> None:
    for plural, name, option, allowed in RANGED:
        default = kinds()[plural][name].options[option].default
        assert allowed is not None
        for value in default if isinstance(default, tuple | list) else [default]:
            assert not isinstance(value, int | float) or value in allowed, (plural, name, option)
    for command in commands().values():
        for key, found in command.options().items():
            if found.range is not None and isinstance(found.default, int | float):
                assert found.default in found.range, (command.name, key)
