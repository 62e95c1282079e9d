"""The one registry: every method, scorer, strategy, task, engine and objective is found here by its name.

A built-in lives in one file of its room and registers itself when that file is imported; `Registry` imports the
files of the room on first use. Third parties add theirs through an entry point of the group `apportion.<kind>`
or with `--plugin file.py`; both are just imported, and register themselves the same way.
"""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ..formats.errors import UsageError, unknown


class Named(Protocol):
    """All that a registry asks of its entries."""

    @property
    def name(self) -> str: ...


E = TypeVar("E", bound=Named)


@dataclass
class Registry(Generic[E]):
    """Entries of one kind by name. `room` is the package whose files register them."""

    kind: str
    room: str
    plural: str
    _entries: dict[str, E] = field(default_factory=dict)
    _loaded: bool = False

    def add(self, entry: E) -> E:
        if entry.name in self._entries:
            raise ValueError(f"{self.kind} {entry.name!r} is registered twice: {self._entries[entry.name]} and {entry}")
        self._entries[entry.name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Forget an entry, as a plugin's test has to."""
        del self._entries[name]

    def load(self) -> None:
        """Import every file of the room and every installed entry point, once."""
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.room)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.room}.{module.name}")
        for point in entry_points(group=f"apportion.{self.plural}"):
            point.load()

    def __getitem__(self, name: str) -> E:
        self.load()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self.load()
        return name in self._entries

    def __iter__(self) -> Iterator[E]:
        self.load()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))


_plugins: list[Path] = []


def plugins_loaded() -> list[Path]:
    """The files given to `load_plugin`, for a process that has to load them too."""
    return list(_plugins)


def load_plugins(paths: Iterable[Path]) -> None:
    """`load_plugin` on each."""
    for path in paths:
        load_plugin(path)


def load_plugin(path: Path) -> None:
    """Import one file of the user's, which registers what it defines. UsageError when it is not there or not importable."""
    if not path.is_file():
        raise UsageError(f"--plugin {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"apportion_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UsageError(f"--plugin {path}: {type(error).__name__}: {error}") from error
    _plugins.append(path)


def options_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters of a function: its options, in order."""
    return {
        name: parameter
        for name, parameter in signature(function).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }
