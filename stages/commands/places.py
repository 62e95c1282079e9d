"""What a command reads and what it writes are different places: checked from its signature, before any work."""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ...formats.errors import UsageError
from ...formats.files import STREAM
from ..core.options import with_home
from ..core.table import Command, Option

NAMING = ("model", "reference", "task")  # options that are text and may name a place


def read_place(option: Option, value: Any) -> Any:
    """The value with `~` opened, where the option names a place."""
    if isinstance(value, str) and (option.key in NAMING or option.positional) and value.startswith("~"):
        return os.path.expanduser(value)
    return with_home(value)


def check_places(command: Command, values: Mapping[str, Any]) -> None:
    """UsageError for an output that is, holds or lies in another one, that is or holds an input, or that would be read as
    part of an input directory.

    values: by recipe key; what is None is not given.
    """
    known = command.options()
    outputs = {key: Path(values[key]) for key in command.outputs() if values.get(key) is not None}
    outputs = {key: path for key, path in outputs.items() if path != STREAM}

    @cache
    def real(path: Path) -> str:
        return os.path.realpath(path)

    def is_same(first: Path, second: Path) -> bool:
        if real(first) == real(second):
            return True
        try:
            return os.path.samefile(first, second)
        except OSError:
            return False

    def is_in(inner: Path, outer: Path) -> bool:
        return real(inner).startswith(os.path.join(real(outer), ""))

    for number, (key, path) in enumerate(outputs.items()):
        for other, taken in list(outputs.items())[:number]:
            if is_same(path, taken):
                raise UsageError(
                    f"{path}: named for {_flag(known[other])} and for {_flag(known[key])}; choose two names"
                )
            if is_in(path, taken) or is_in(taken, path):
                raise UsageError(f"{taken} and {path}: both are written, and one lies in the other; choose two places")
        for source, data in _inputs(known, values):
            how = known[key].output
            if how is None or how.is_filled:
                continue
            if is_same(path, source) and not (how.in_place and data and not source.is_dir()):
                raise UsageError(f"{path}: an input, which --force does not replace; choose another name")
            if is_in(source, path):
                raise UsageError(f"{path}: the input {source} lies in it; choose another name")
            if data and path.suffix == ".parquet" and source.is_dir() and is_same(path.absolute().parent, source):
                raise UsageError(
                    f"{path}: lies in {source}, whose files are read, and would be one of them; choose another place"
                )


def _inputs(known: Mapping[str, Option], values: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """Every place that is read, and whether as rollouts: paths, models and tasks, and the files that settings name."""
    for key, option in known.items():
        value = values.get(key)
        if option.output is not None or value is None:
            continue
        for each in value if isinstance(value, list) else value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(each, Path) and each != STREAM:
                yield each, True
            elif isinstance(each, str) and (key in NAMING or isinstance(value, Mapping)):
                place = Path(os.path.expanduser(each))
                if os.path.exists(place):
                    yield place, False


def _flag(option: Option) -> str:
    return option.flags[-1]
