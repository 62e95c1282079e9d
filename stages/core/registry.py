"""The one registry: every method, scorer, strategy, task, engine, memory and objective is found here by its name.

A built-in lives in one file of its room and registers itself when that file is imported; `Registry` imports the
files of the room on first use. Third parties add theirs through an entry point of the group `apportion.<kind>` (methods,
scorers, strategies, tasks, objectives, engines, memories), which names a module, or with `--plugin file.py`; both are just
imported, and register themselves the same way.
"""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

from ...formats.errors import UsageError, unknown


class Named(Protocol):
    """All that a registry asks of its entries."""

    @property
    def name(self) -> str: ...


E = TypeVar("E", bound=Named)


@dataclass(eq=False)
class Plugin:
    """What registers entries from outside of this package: a file given to --plugin, or an installed entry point's module.

    name: the file's, or the module's. digest: of its code; of a package, of all its Python files. where: for messages.
    path: the file given to --plugin, None of an entry point.
    """

    name: str
    digest: str
    where: str
    path: Path | None = None


_REGISTRIES: "list[Registry[Any]]" = []
_HOMES = {
    "methods": "assign_credit.kind",
    "scorers": "score.kind",
    "strategies": "sample.kind",
    "memories": "remember.kind",
    "objectives": "train.kind",
    "engines": "models",
    "tasks": "tasks",
}  # where the registry of each kind is made
PLUGIN = "plugin"  # the role of one among a record's inputs: plugin/NAME
_READ_TASKS = ("sample", "score", "eval policy")  # commands that open the task that a file names
_STAGES = (__package__ or "").rpartition(".")[0]


@dataclass
class Registry(Generic[E]):
    """Entries of one kind by name. `room` is the package whose files register them."""

    kind: str
    room: str
    plural: str
    _entries: dict[str, E] = field(default_factory=dict)
    _brought_by: dict[str, Plugin] = field(default_factory=dict)
    _loaded: bool = False

    def __post_init__(self) -> None:
        _REGISTRIES.append(self)

    def add(self, entry: E) -> E:
        """UsageError for a plugin's entry whose name is taken."""
        plugin = None if _importing().startswith(f"{_STAGES}.") else _loading.get()
        if plugin is not None:
            self._load_room()  # or the plugin would take a built-in's name, and the built-in be the one that fails
        if entry.name in self._entries:
            owner = self._brought_by.get(entry.name)
            told = f"{self.kind} {entry.name!r} is there already ({owner.where if owner else 'built in'})"
            raise UsageError(f"{told}; choose another name")
        self._entries[entry.name] = entry
        if plugin is not None:
            self._brought_by[entry.name] = plugin
        return entry

    def remove(self, name: str) -> None:
        """Forget an entry, as a plugin's test has to."""
        del self._entries[name]
        self._brought_by.pop(name, None)

    def load(self) -> None:
        """Import every file of the room and every installed entry point, once. UsageError for an entry point that fails; its
        entries are not kept."""
        if self._loaded:
            return
        self._loaded = True
        try:
            self._load_room()
            for point in entry_points(group=f"apportion.{self.plural}"):
                _load_point(point)
        except BaseException:
            self._loaded = False
            raise

    def _load_room(self) -> None:
        _import_all(self.room)

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


def _import_all(package: str) -> None:
    """Import every file of a package and of its folders, but those that begin with `_`."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            name = f"{package}.{module.name}"
            if module.ispkg:
                _import_all(name)
            else:
                importlib.import_module(name)


# Plugins

_loading: ContextVar[Plugin | None] = ContextVar("_loading", default=None)
_plugins: list[Path] = []


def plugins_loaded() -> list[Path]:
    """The files given to `load_plugin`, for a process that has to load them too."""
    return list(_plugins)


def load_plugins(paths: Iterable[Path]) -> None:
    """`load_plugin` on each."""
    for path in paths:
        load_plugin(path)


def load_plugin(path: Path) -> None:
    """Import one file of the user's, which registers what it defines. UsageError when it is not there or not importable;
    nothing of it is registered then."""
    from ...formats.provenance import digest_of_file

    if not path.is_file():
        raise UsageError(f"--plugin {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"apportion_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    try:
        with _registering(Plugin(path.name, digest_of_file(path), f"--plugin {path}", path)):
            spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[spec.name]
        raise
    _plugins.append(path)


def _load_point(point: EntryPoint) -> None:
    maker = f"{point.dist.name} {point.dist.version}, " if point.dist is not None else ""
    where = f"{maker}entry point {point.name!r} of {point.group}"
    plugin = Plugin(point.module, "", where)
    with _registering(plugin):
        point.load()
        plugin.digest = _digest_of_code(sys.modules[point.module])


def _digest_of_code(module: ModuleType) -> str:
    from ...formats.provenance import digest_of, digest_of_file

    origin = Path(module.__file__ or "")
    if origin.name != "__init__.py":
        return digest_of_file(origin) if origin.is_file() else ""
    folder = origin.parent
    return digest_of([[str(file.relative_to(folder)), digest_of_file(file)] for file in sorted(folder.rglob("*.py"))])


@contextmanager
def _registering(plugin: Plugin) -> Iterator[None]:
    """What is added in the block is the plugin's. UsageError when the block fails, and what was added is taken out again."""
    token = _loading.set(plugin)
    try:
        yield
    except (Exception, SystemExit) as error:
        for registry in _REGISTRIES:
            for name in [name for name, owner in registry._brought_by.items() if owner is plugin]:
                registry.remove(name)
        told = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        advice = "" if plugin.path is not None else "; mend or uninstall it"
        raise UsageError(f"{plugin.where}: {told}{advice}") from error
    finally:
        _loading.reset(token)


def _importing() -> str:
    """The name of the module whose import has led here."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame.f_globals.get("__name__", "") if frame is not None else ""


@cache
def _installed_kinds() -> list[str]:
    """The kinds that an installed package brings entries of, by their plurals."""
    installed = entry_points()
    return [plural for plural in _HOMES if installed.select(group=f"apportion.{plural}")]


def plugins_used(command: str, options: Mapping[str, Any]) -> list[Plugin]:
    """The plugins that a command takes part of its code from: those that registered what one of its options names, and,
    where a file may name a task, those with tasks.

    options: by recipe key or as recorded.
    """
    from .options import texts_in

    for plural in _installed_kinds():
        importlib.import_module(f"{_STAGES}.{_HOMES[plural]}")
        next(registry for registry in _REGISTRIES if registry.plural == plural).load()
    named = {name for text in texts_in(options) for name in (text, text.partition("/")[0])}
    used = [
        owner
        for registry in _REGISTRIES
        for name, owner in registry._brought_by.items()
        if name in named or (registry.plural == "tasks" and command in _READ_TASKS)
    ]
    return sorted(dict.fromkeys(used), key=lambda plugin: plugin.name)


def plugin_digests(command: str, options: Mapping[str, Any]) -> dict[str, str]:
    """`plugins_used` as inputs of a record: {"plugin/NAME": digest}."""
    return {f"{PLUGIN}/{plugin.name}": plugin.digest for plugin in plugins_used(command, options)}


def plugin_files(command: str, options: Mapping[str, Any]) -> list[Path]:
    """Those of `plugins_used` that --plugin names."""
    return [plugin.path for plugin in plugins_used(command, options) if plugin.path is not None]


def options_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters of a function: its options, in order."""
    return {
        name: parameter
        for name, parameter in signature(function).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }
