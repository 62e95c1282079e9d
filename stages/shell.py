"""A command with its options as a line of shell: what `run --shell` and `log --shell` print."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ..formats.errors import UsageError
from .commands import Command
from .options import parse_settings


def command_line(
    command: Command, options: Mapping[str, Any], *, bare: Mapping[str, Any] | None = None, plugins: Iterable[Path] = ()
) -> str:
    """`apportion …` with every option that is not at its default.

    Args:
        command: whose line it is.
        options: values by recipe key, resolved; None is left out.
        plugins: files whose entries it names.
        bare: {option: its value where nothing is set}, for mappings such as `--set`; such entries are left out too.

    KeyError for an option the command lacks.

    >>> from .commands import commands
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
            words += [quote(str(each)) for each in (value if isinstance(value, list) else [value])]
        elif isinstance(value, Mapping):
            unset = (bare or {}).get(key, {})
            words += [
                f"{option.flags[-1]} {quote(f'{name}={_as_yaml(each)}')}"
                for name, each in value.items()
                if name not in unset or unset[name] != each
            ]
        elif isinstance(value, bool):
            words.append(option.flags[-1] if value else f"--no-{option.flags[-1].removeprefix('--')}")
        elif isinstance(value, list):
            words += [f"{option.flags[-1]} {quote(str(each))}" for each in value]
        else:
            words.append(f"{option.flags[0]} {quote(str(value))}")
    return " ".join(words)


def _as_yaml(value: Any) -> str:
    """A setting's value as `--set` reads it back: null, not None; a text that looks like a number in quotes."""
    try:
        same = isinstance(value, str) and parse_settings([f"x={value}"]) == {"x": value}
    except UsageError:  # no YAML, unless in quotes
        same = False
    return value if same else json.dumps(value)
