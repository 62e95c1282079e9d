"""What an entry's function gave, checked against what its kind must give: a plugin's mistake is one line that says both."""

from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any, TypeVar

from ...formats.errors import PluginError

T = TypeVar("T")


def check_result(fits: bool, who: str, needed: str, given: Any) -> None:
    """PluginError unless the result fits. who: such as "strategy rose"."""
    if not fits:
        raise PluginError(f"{who}: must give {needed}; gave {in_short(given)}")


def check_each(given: Iterable[T], wanted: type[T] | tuple[type[T], ...], who: str, needed: str) -> Iterator[T]:
    """What an entry's function yields, each checked to be of this type. PluginError for another, and for what yields nothing
    at all."""
    check_result(isinstance(given, Iterable), who, needed, given)
    for each in given:
        check_result(isinstance(each, wanted), who, needed, each)
        yield each


def check_number(given: Any, who: str) -> float:
    """The number that was given. PluginError for anything else."""
    check_result(isinstance(given, Real) or getattr(given, "shape", None) == (), who, "a number", given)
    return float(given)


def in_short(given: Any) -> str:
    """A value as messages show it.

    >>> in_short(None), in_short([1, 2]), in_short("good")
    ('None', 'a list of 2', "'good'")
    """
    shape = getattr(given, "shape", None)
    if shape is not None:
        return f"an array of shape {tuple(shape)}, {getattr(given, 'dtype', '?')}"
    if isinstance(given, list | tuple | dict):
        return f"a {type(given).__name__} of {len(given)}"
    return (
        repr(given)
        if given is None or (isinstance(given, str | Real) and len(repr(given)) < 60)
        else f"a {type(given).__name__}"
    )
