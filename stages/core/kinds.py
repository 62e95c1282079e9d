"""Kinds of things that are found by name, and their entries: methods, scorers, strategies, memories, objectives, engines, tasks.

A room with a kind has a file `kind.py`, which declares the `Kind`, what its `Entry` has beyond the common facts, and the
decorator that makes one of a function. An entry is one file of the room that uses the decorator; the folder it lies in is
its family. `list`, recipe checks, the JSON Schema, `log --shell` and the documents loop over `kinds()`: nothing else has to be
told of a new entry, or of a new kind.

Others add entries through an entry point of the group `apportion.<plural>`, which names a module, or with `--plugin
file.py`: both are imported, and register what they define in the same way (see plugins.py).
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin

from ...formats.errors import UsageError, unknown
from .options import as_setting, defaults_of, options_of, typed_options, values_to_try
from .plugin_files import Plugin, forgetters, function_in_file, plugin_being_loaded, registering
from .systems import SYSTEMS

if TYPE_CHECKING:
    from ...formats.schema import Field

Evidence = Literal["code", "paper", "second-hand", "guess"]
"""How well a source is known: read in the authors' code, in the paper, in what others say of it; or in part our own guess."""

STAGES = (__package__ or "").rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What every kind says of its entries.

    name: by which it is chosen. function: what does the work; its keyword-only parameters are its options. needs: what it
    reads, columns by path. needs_with: called with the options, gives what it reads beside that with them. makes: the columns it writes, by path, or as a `Field` where they are its own. source: paper,
    equation, or "ours". evidence: how well the source is known. presets: options by the name of the library
    or paper whose conventions they are. system: the published systems that it is a part of, by their
    names in docs/systems.md.
    """

    shown: ClassVar[tuple[str, ...]] = ()  # what `list` says of an entry beyond the common facts

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    needs_with: Callable[..., Iterable[str]] | None = None
    makes: "tuple[str | Field, ...]" = ()
    source: str = ""
    evidence: Evidence | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    system: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    @property
    def family(self) -> str:
        """The folder of the room that it lies in; "" for one beside them, and for a plugin's."""
        inside = self.function.__module__.removeprefix(f"{STAGES}.").split(".")[1:-1]
        return inside[0] if self.function.__module__.startswith(f"{STAGES}.") and inside else ""

    def usage_of(self, kind: "Kind[Any]") -> str:
        """The command that uses it, with {name} in it and the options that must be given."""
        required = (name for name, option in self.options.items() if option.default is Parameter.empty)
        settings = "".join(f" {kind.setting} {name}={name.upper()}" for name in required)
        return kind.usage.replace(" -o OUT", f"{settings} -o OUT")

    @property
    def options(self) -> dict[str, Parameter]:
        """The options by name, in order."""
        return options_of(self.function)

    def needs_for(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """What it reads with these options; one that is not given has its default."""
        if self.needs_with is None:
            return self.needs
        return tuple(dict.fromkeys((*self.needs, *self.needs_with(**{**defaults_of(self.function), **options}))))

    def ways_around(self, options: Mapping[str, Any]) -> dict[str, str]:
        """The same, and to each the setting that would do without it, name=value, or ""."""
        return {path: self._way_around(path, options) for path in self.needs_for(options)}

    def needs_by_setting(self) -> dict[str, tuple[str, ...]]:
        """{name=value: what it reads with this setting beside what it reads with its defaults}."""
        if self.needs_with is None:
            return {}
        usual = self.needs_for({})
        found = {
            f"{name}={as_setting(value)}": tuple(path for path in self.needs_for({name: value}) if path not in usual)
            for name, value in values_to_try(self.function)
        }
        return {setting: paths for setting, paths in found.items() if paths}

    def _way_around(self, path: str, options: Mapping[str, Any]) -> str:
        if path in self.needs:
            return ""
        needed = set(self.needs_for(options))
        for name, value in values_to_try(self.function):
            less = set(self.needs_for({**options, name: value}))
            if path not in less and less < needed:
                return f"{name}={as_setting(value)}"
        return ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The paths of what it makes."""
        return tuple(each if isinstance(each, str) else each.path for each in self.makes)

    def facts(self) -> dict[str, Any]:
        """What `list` says of it, JSON-able; facts that the kind does not have are left out."""
        by_setting = {setting: list(paths) for setting, paths in self.needs_by_setting().items()}
        optional = {
            "makes": list(self.columns),
            "source": self.source,
            "evidence": self.evidence,
            "system": list(self.system),
        }
        return {
            "name": self.name,
            **({"family": self.family} if self.family else {}),
            **{name: getattr(self, name) for name in self.shown},
            "needs": list(self.needs_for({})),
            **({"needs_with": by_setting} if by_setting else {}),
            **{name: value for name, value in optional.items() if value},
            "options": defaults_of(self.function),
            **({"presets": sorted(self.presets)} if self.presets else {}),
            "summary": self.summary,
        }


E = TypeVar("E", bound=Entry)
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(eq=False)
class Kind(Generic[E]):
    """Entries of one kind by name.

    plural: as in `apportion list methods`. noun: as in messages, "credit method". room: the package whose files register
    entries. usage: the command that uses one, with {name} in it. named_by: the entry that the value of an option means, where
    that is not just the entry's name; None where it cannot be told before the work. setting: the flag of its options.
    of_function: makes an entry, under this name, of a function that no decorator registered, for a kind that takes those
    (FILE.py:NAME). brought_by: the plugins that entries came from, by the entries' names.
    """

    plural: str
    noun: str
    room: str
    usage: str
    named_by: Callable[[str], str | None] = str
    setting: str = "--set"
    of_function: "Callable[[str, Callable[..., Any]], E] | None" = None
    brought_by: dict[str, Plugin] = field(default_factory=dict, init=False)
    _entries: dict[str, E] = field(default_factory=dict, init=False)
    _is_loaded: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _KINDS[self.plural] = self

    def add(self, entry: E) -> E:
        """UsageError for a plugin's entry whose name is taken, and for a system that there is not."""
        for system in entry.system:
            if system not in SYSTEMS:
                raise unknown(f"system of {self.noun} {entry.name}", system, SYSTEMS)
        plugin = None if _importing().startswith(f"{STAGES}.") else plugin_being_loaded()
        if plugin is not None:
            self._load_room()  # or the plugin would take a built-in's name, and the built-in be the one that fails
        if entry.name in self._entries:
            owner = self.brought_by.get(entry.name)
            told = f"{self.noun} {entry.name!r} is there already ({owner.where if owner else 'built in'})"
            raise UsageError(f"{told}; choose another name")
        if plugin is not None:
            _check_entry(entry, self.noun)
        self._entries[entry.name] = entry
        if plugin is not None:
            self.brought_by[entry.name] = plugin
        return entry

    def adder(self, entry: type[E], *, name: str | None = None, **facts: Any) -> Callable[[F], F]:
        """A decorator that adds a function under a name, its own if none is given, as an entry with these facts. Errors as of
        `add`."""

        def register(function: F) -> F:
            self.add(entry(name=name or function.__name__, function=function, **facts))
            return function

        return register

    def remove(self, name: str) -> None:
        """Forget an entry, as a plugin's test has to."""
        del self._entries[name]
        self.brought_by.pop(name, None)

    def load(self) -> None:
        """Import every file of the room and every installed entry point, once. UsageError for an entry point that fails; its
        entries are not kept."""
        if self._is_loaded:
            return
        self._is_loaded = True
        try:
            self._load_room()
            for point in entry_points(group=f"apportion.{self.plural}"):
                _load_point(point)
        except BaseException:
            self._is_loaded = False
            raise

    def _load_room(self) -> None:
        _import_all(self.room)

    def families(self) -> dict[str, list[E]]:
        """The entries by family, both in the order of their names."""
        found: dict[str, list[E]] = {}
        for entry in self:
            found.setdefault(entry.family, []).append(entry)
        return dict(sorted(found.items()))

    def settle(self, name: str, given: Mapping[str, Any] | None, preset: str | None = None) -> dict[str, Any]:
        """Every option of the entry, typed and in its range: as given, else the preset's, else its default. UsageError for an
        unknown entry, preset or option, and for a value of another type or out of range."""
        entry = self[name]
        if preset is not None and preset not in entry.presets:
            if not entry.presets:
                raise UsageError(f"--preset {preset}: {name} has no presets")
            raise unknown(f"preset of {name}", preset, entry.presets)
        chosen = entry.presets[preset] if preset is not None else {}
        return typed_options(entry.function, {**chosen, **(given or {})}, f"{self.noun} {name}")

    def __getitem__(self, name: str) -> E:
        self.load()
        if name not in self._entries:
            self._add_from_file(name)
        return self._entries[name]

    def _add_from_file(self, name: str) -> None:
        """Add what FILE.py:NAME names, under the whole of it. UsageError where that is no entry, or the name of another form."""
        found = function_in_file(name)
        if found is None:
            raise unknown(self.noun, name, self._entries)
        plugin, function = found
        registered = (self._entries[each] for each, owner in self.brought_by.items() if owner is plugin)
        entry = next((each for each in registered if each.function is function), None)
        if entry is not None:
            made = replace(entry, name=name)
        elif self.of_function is not None:
            made = self.of_function(name, function)
        else:
            raise UsageError(
                f"{name}: not registered as a {self.noun}; put the decorator of its kind above it (docs/plugins.md)"
            )
        self._entries[name], self.brought_by[name] = made, plugin

    def __contains__(self, name: str) -> bool:
        self.load()
        return name in self._entries

    def __iter__(self) -> Iterator[E]:
        self.load()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))


def _check_entry(entry: Entry, noun: str) -> None:
    """UsageError for a fact that is none of those there are, an option that is not keyword-only, and one without a type."""
    for each in fields(entry):
        value, choices = getattr(entry, each.name), get_args(each.type)
        if get_origin(each.type) is Literal and value not in choices:
            raise unknown(f"{each.name} of {noun} {entry.name}", str(value), choices)
    for name, parameter in signature(entry.function).parameters.items():
        # None is no option's default, but what a method's parameter is where the file lacks its column.
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD and parameter.default not in (Parameter.empty, None):
            raise UsageError(f"{noun} {entry.name}: the option {name!r} must be keyword-only; put `*,` before it")
        if parameter.kind is Parameter.KEYWORD_ONLY and parameter.annotation is Parameter.empty:
            raise UsageError(f"{noun} {entry.name}: the option {name!r} needs a type, such as `{name}: float`")


_KINDS: dict[str, Kind[Any]] = {}


def _forget(plugin: Plugin) -> None:
    for kind in _KINDS.values():
        for name in [name for name, owner in kind.brought_by.items() if owner is plugin]:
            kind.remove(name)


forgetters.append(_forget)


@cache
def _declare() -> None:
    for room in pkgutil.iter_modules(importlib.import_module(STAGES).__path__):
        folder = Path(importlib.import_module(STAGES).__path__[0]) / room.name
        if (folder / "kind.py").is_file():
            importlib.import_module(f"{STAGES}.{room.name}.kind")
    for kind in sorted(_KINDS.values(), key=lambda kind: kind.room):  # whichever was imported first
        _KINDS[kind.plural] = _KINDS.pop(kind.plural)


def kinds() -> dict[str, Kind[Any]]:
    """Every kind by its plural, in the order of their rooms. Imports the rooms' declarations, and no entries."""
    _declare()
    return _KINDS


def _import_all(package: str) -> None:
    """Import every file of a package and of its folders, but those that begin with `_`."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            name = f"{package}.{module.name}"
            if module.ispkg:
                _import_all(name)
            else:
                importlib.import_module(name)


# Entries from outside


def _load_point(point: EntryPoint) -> None:
    maker = f"{point.dist.name} {point.dist.version}, " if point.dist is not None else ""
    where = f"{maker}entry point {point.name!r} of {point.group}"
    plugin = Plugin(point.module, "", where)
    with registering(plugin):
        point.load()
        plugin.digest, plugin.files = _code_of(sys.modules[point.module])


def _code_of(module: ModuleType) -> tuple[str, frozenset[str]]:
    """(digest, files) of the module's code; of a package, of all its files."""
    from ...formats.provenance import digest_of, digest_of_file

    origin = Path(module.__file__ or "")
    if origin.name != "__init__.py":
        return (digest_of_file(origin), frozenset([str(origin)])) if origin.is_file() else ("", frozenset())
    files = sorted(origin.parent.rglob("*.py"))
    digest = digest_of([[str(file.relative_to(origin.parent)), digest_of_file(file)] for file in files])
    return digest, frozenset(map(str, files))


def _importing() -> str:
    """The name of the module whose import has led here."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame.f_globals.get("__name__", "") if frame is not None else ""
