"""The members of a sweep: one for each value of a list that is given to a variable which is none."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from ...formats.errors import UsageError
from ...formats.recipes import Recipe
from ..core.options import as_setting

MOST = 1000


class Member(NamedTuple):
    """name: its folder within the sweep's, "." where there is no sweep. values: of the variables that vary."""

    name: str
    values: Mapping[str, Any]
    settings: Mapping[str, Any]


def members_of(recipe: Recipe, settings: Mapping[str, Any]) -> Sequence[Member]:
    """One for each combination of values; the settings alone where none is a list that makes a sweep.

    UsageError for an empty list, one with a list or mapping in it, a value twice, and more than MOST members.
    """
    lists = {name: value for name, value in settings.items() if _is_swept(recipe, name, value)}
    count = 1
    for name, values in lists.items():
        count *= len(values)
        if not values or any(isinstance(value, list | dict) for value in values):
            raise UsageError(
                f"--set {name}={values!r:.200}: a sweep needs a list of one value or more, each a number or text"
            )
    if count > MOST:
        raise UsageError(f"--set: a sweep of {count:,} members; expected at most {MOST:,}")
    found: dict[str, Member] = {}
    for chosen in product(*lists.values()):
        values = dict(zip(lists, chosen, strict=True))
        name = "/".join(_folder(*each) for each in values.items()) or "."
        if name in found:
            raise UsageError(f"--set: a sweep with two members for the folder {name}; leave one of the values out")
        found[name] = Member(name, values, {**settings, **values})
    return list(found.values())


def _is_swept(recipe: Recipe, name: str, value: Any) -> bool:
    """A list, of a variable that the recipe has and that is none."""
    held: Any = recipe.vars
    for part in name.split("."):
        if not isinstance(held, Mapping) or part not in held:
            return False
        held = held[part]
    return isinstance(value, list) and not isinstance(held, list)


def _folder(name: str, value: Any) -> str:
    """
    >>> _folder("model", "org/a b")
    'model=org_a_b'
    """
    return f"{name}={re.sub(r'[^A-Za-z0-9.,+_-]', '_', as_setting(value))[:100]}"
