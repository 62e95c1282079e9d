"""Plugins that are files: loading one, and what is named in one as FILE.py:NAME."""

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any, NamedTuple

from ...formats.errors import UsageError, unknown

VARIABLE = "APPORTION_PLUGINS"  # files to load for every command, separated as in PATH
_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")


@dataclass(eq=False)
class Plugin:
    """What registers entries from outside of this package: a file given to --plugin, or an installed entry point's module.

    name: the file's, or the module's. digest: of its code: of a file with the modules beside it that it imports, or of all
    Python files of a package. where: for messages. path: the file given to --plugin, None of an entry point. files: those
    that its code is in.
    """

    name: str
    digest: str
    where: str
    path: Path | None = None
    files: frozenset[str] = frozenset()


forgetters: list[Callable[[Plugin], None]] = []
"""Called with a plugin whose code failed, or has changed: whoever keeps what it registered takes that out."""

_plugins: list[Plugin] = []
_loading: ContextVar[Plugin | None] = ContextVar("_loading", default=None)


def plugin_being_loaded() -> Plugin | None:
    """Whose code is being imported; None if that of no plugin."""
    return _loading.get()


def forget_entries(plugin: Plugin) -> None:
    """Take out what a plugin registered."""
    for forget in forgetters:
        forget(plugin)


@contextmanager
def registering(plugin: Plugin) -> Iterator[None]:
    """What is added in the block is the plugin's. UsageError when the block fails, and what was added is taken out again."""
    token = _loading.set(plugin)
    try:
        yield
        _plugins.append(plugin)
    except (Exception, SystemExit) as error:
        forget_entries(plugin)
        told = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        advice = "" if plugin.path is not None else "; mend or uninstall it"
        raise UsageError(f"{plugin.where}: {told}{_line_of(error, plugin)}{advice}") from error
    finally:
        _loading.reset(token)


def _line_of(error: BaseException, plugin: Plugin) -> str:
    """Where in the plugin's code it came from; empty where that cannot be told, or the error says it."""
    walked = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    own = [f" (line {line} of {Path(file).name})" for file, line in walked if file in plugin.files]
    return own[-1] if own else ""


def registered_plugins() -> list[Plugin]:
    """All whose code was imported, the latest last. Imports nothing."""
    return list(_plugins)


class Loaded(NamedTuple):
    """A plugin of a file, and its module."""

    plugin: Plugin
    module: ModuleType


_loaded: dict[Path, Loaded] = {}  # by the file's real path
_helpers: set[str] = set()  # modules that stand beside a plugin's file and that it imports


def plugins_loaded() -> list[Path]:
    """The files given to `load_plugin`, for a process that has to load them too."""
    return list(_loaded)


def load_plugins(paths: Iterable[Path], where: str = "--plugin {}") -> None:
    """`load_plugin` on each."""
    for path in paths:
        load_plugin(path, where)


def load_named_by_environment() -> None:
    """Load the plugins that the variable APPORTION_PLUGINS names. Errors as of `load_plugin`."""
    paths = [Path(path) for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    load_plugins(paths, f"{VARIABLE}: {{}}")


def load_plugin(path: Path, where: str = "--plugin {}") -> Plugin:
    """Import one file of the user's, which registers what it defines; once, unless it has changed since. Modules that stand
    beside it can be imported from it.

    where: what messages begin with; {} stands for the path.

    UsageError when it is not there or not importable; nothing of it is registered then.
    """
    where = where.format(path)
    if path.suffix != ".py" or not path.is_file():
        missing = "is a directory" if path.is_dir() else "no such file"
        raise UsageError(f"{where}: {missing if not path.is_file() else 'not a Python file'}")
    place = path.resolve()
    files = _files_of(place)
    digest = _digest_of(files, place)
    if place in _loaded:
        if _loaded[place].plugin.digest == digest:
            return _loaded[place].plugin
        forget_entries(_loaded.pop(place).plugin)
    plugin = Plugin(path.name, digest, where, path, frozenset(map(str, files)))
    _loaded[place] = Loaded(plugin, _import_file(place, plugin, files))
    return plugin


def _import_file(place: Path, plugin: Plugin, files: Iterable[Path]) -> ModuleType:
    """The module of a plugin's file. As for a script, its folder comes first on the path while it is imported; afterwards it
    comes last, for what is imported within functions."""
    spec = importlib.util.spec_from_file_location(f"apportion_plugin_{place.stem}", place)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    folder = str(place.parent)
    beside = {file.relative_to(folder).parts[0].removesuffix(".py") for file in files if file != place}
    for name in [name for name in sys.modules if name.partition(".")[0] in beside & _helpers]:
        del sys.modules[name]  # of another plugin, or as it was before it changed
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    sys.path.insert(0, folder)
    try:
        with registering(plugin):
            spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[spec.name]
        raise
    finally:
        sys.path.remove(folder)
        _helpers.update(beside)
    if folder not in sys.path:
        sys.path.append(folder)
    return module


def _files_of(path: Path) -> list[Path]:
    """The file, and the modules beside it that it imports, in the order of their paths: what a change of its code may be in."""
    found, new = {path}, [path]
    while new:
        for name in _imported(new.pop()):
            module, package = path.parent / f"{name}.py", path.parent / name
            files = sorted(package.rglob("*.py")) if (package / "__init__.py").is_file() else [module]
            fresh = [file for file in files if file.is_file() and file not in found]
            found.update(fresh)
            new += fresh
    return sorted(found)


def _imported(path: Path) -> set[str]:
    """The first names of the modules that a file imports; none where it is no Python, which its import says better."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _digest_of(files: Sequence[Path], path: Path) -> str:
    """Of the code of a plugin's file and of the modules beside it."""
    from ...formats.provenance import digest_of, digest_of_file  # here, since `--help` needs none of it

    if len(files) == 1:
        return digest_of_file(path)
    return digest_of([[str(file.relative_to(path.parent)), digest_of_file(file)] for file in files])


def is_in_file(text: str) -> bool:
    """Whether a text has the form FILE.py:NAME."""
    return _IN_FILE.fullmatch(text) is not None


def function_in_file(text: str) -> tuple[Plugin, Callable[..., Any]] | None:
    """What FILE.py:NAME names, with the plugin that the file is; None for a text of another form.

    UsageError for a file that is not there or not importable, and for a name that is no function in it.
    """
    named = _IN_FILE.fullmatch(text)
    if named is None:
        if text.endswith(".py"):
            raise UsageError(f"{text}: name a function of it, as {text}:NAME")
        return None
    path = Path(os.path.expanduser(named["file"]))
    plugin = load_plugin(path, "{}")
    module = _loaded[path.resolve()].module
    own = {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
    function = getattr(module, named["name"], None)
    if not callable(function):
        raise unknown(f"function of {path}", named["name"], own)
    return plugin, function


def plugin_at(text: str) -> Plugin | None:
    """The file that FILE.py:NAME names; None for a text of another form, and for a file that is not there. One that is not
    loaded yet is not run: whoever reads a history may ask what a file is without trusting it."""
    named = _IN_FILE.fullmatch(text)
    path = Path(os.path.expanduser(named["file"])) if named is not None else None
    if path is None or not path.is_file():
        return None
    place = path.resolve()
    if place in _loaded:
        return _loaded[place].plugin
    files = _files_of(place)
    return Plugin(path.name, _digest_of(files, place), str(path), path, frozenset(map(str, files)))
