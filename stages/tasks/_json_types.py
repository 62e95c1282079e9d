"""Convert Python values to JSON and back, including types that JSON lacks: tuples, and dictionaries with any keys."""

from enum import Enum
from typing import Any

_TUPLE, _ITEMS = "!tuple", "!items"


def to_json(value: Any) -> Any:
    """A JSON-able value that `from_json` turns back. numpy scalars become Python's; other types become their str().

    >>> to_json({(1, 2): "a"}), from_json(to_json({"grid": ((1, 0), (0, 1)), 3: None}))
    ({'!items': [[{'!tuple': [1, 2]}, 'a']]}, {'grid': ((1, 0), (0, 1)), 3: None})
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("!") for key in value):
            return {str(key): to_json(item) for key, item in value.items()}
        return {_ITEMS: [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [to_json(item) for item in value]}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return str(value)


def from_json(value: Any) -> Any:
    """The value that `to_json` was given."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if _TUPLE in value:
            return tuple(from_json(item) for item in value[_TUPLE])
        if _ITEMS in value:
            return {from_json(key): from_json(item) for key, item in value[_ITEMS]}
        return {key: from_json(item) for key, item in value.items()}
    return value
