"""An entry's docstring in parts: what `list NAME` shows and the documents are made of."""

import inspect
import re
from typing import Any

_HEADING = re.compile(r"^(Args|Returns|Raises|Departures|Bias|Cost):[ ]*", re.MULTILINE)


def split_docstring(entry: Any) -> dict[str, str]:
    """The parts by heading: "" is all before the first one, Example what follows `>>>`."""
    text = inspect.getdoc(entry.function) or ""
    text, arrow, example = text.partition(">>> ")
    parts = _HEADING.split(text)
    found = {"": parts[0].strip(), **{name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}}
    return {**found, "Example": arrow + example.strip()} if example else found


def meanings_of(entry: Any) -> dict[str, str]:
    """What `Args:` says of each parameter, on one line each."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in split_docstring(entry).get("Args", "").splitlines():
        begun = re.match(r"^ {0,4}(\w+(?:, \w+)*): (.*)", line)
        if begun:
            names = begun[1].split(", ")
            found |= dict.fromkeys(names, begun[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
