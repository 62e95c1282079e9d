"""A command with its options as a line of shell: what `run --shell` and `log --shell` print."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ...formats.errors import UsageError
from ..core.harmless import UNSAFE, on_one_line
from ..core.options import Spelled, parse_settings
from ..core.table import Command


def command_line(
    command: Command, options: Mapping[str, Any], *, bare: Mapping[str, Any] | None = None, plugins: Iterable[Path] = ()
) -> str:
    """`apportion …` with every option that is not at its default.

    Args:
        command: whose line it is.
        options: values by recipe key, resolved; None is left out.
        plugins: files whose entries it names.
        bare: {option: its value where nothing is set}, for mappings such as `--set`; such entries are left out too.

    KeyError for an option the command lacks. UsageError for a value that no line of shell can hold (see `word`).

    >>> from ..core.table import commands
    >>> command_line(commands()["score"], {"rollouts": "a b", "with": "verify", "set": {"truncated": 1}, "out": "c"})
    "apportion score 'a b' --set truncated=1 -o c"
    """
    words = ["apportion", *(f"--plugin {quote(str(file))}" for file in plugins), *command.name.split()]
    known = command.options()
    for key, value in options.items():
        option = known[key]
        if value is None or (value == option.default and key != "out"):
            continue
        if option.positional:
            words += [word(each, key) for each in (value if isinstance(value, list) else [value])]
        elif isinstance(value, Mapping):
            unset = (bare or {}).get(key, {})
            words += [
                f"{option.flags[-1]} {word(f'{name}={_as_yaml(each)}', key)}"
                for name, each in value.items()
                if name not in unset or unset[name] != each
            ]
        elif isinstance(value, bool) and option.type is bool:
            words.append(option.flags[-1] if value else f"--no-{option.flags[-1].removeprefix('--')}")
        elif isinstance(value, list) and option.chooses is not None and option.chooses.several:
            words.append(f"{option.flags[0]} {word(','.join(map(str, value)), key)}")
        elif isinstance(value, list):
            words += [f"{option.flags[-1]} {word(each, key)}" for each in value]
        else:
            words.append(f"{option.flags[0]} {word(value, key)}")
    return " ".join(words)


def word(value: Any, key: str) -> str:
    """The value as one word of shell, quoted. key: the option that it is of.

    UsageError for one with a control character: NUL ends a word, and a terminal obeys others when the line is printed.

    >>> word("$(id) `id`", "model")
    "'$(id) `id`'"
    """
    text = str(value)
    if UNSAFE.search(text):
        raise UsageError(f"option {key!r} is {text!r:.60}, and a line of shell takes no control characters")
    return quote(text)


def comment(text: str) -> str:
    """A comment of one line, whatever is in the text."""
    return f"# {on_one_line(text)}"


def _as_yaml(value: Any) -> str:
    """A setting's value as `--set` reads it back: null, not None; a text that looks like a number in quotes."""
    try:
        read = parse_settings([f"x={value}"])["x"] if isinstance(value, str) else None
        same = isinstance(value, str) and read == value and not isinstance(read, Spelled)
    except (UsageError, ValueError, RecursionError):  # no YAML, unless in quotes
        same = False
    return value if same else json.dumps(value)
