"""Plugins: files given to --plugin, and which plugins a command takes part of its code from."""

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ...formats.errors import UsageError
from ...formats.provenance import digest_of_file
from .kinds import Plugin, kinds, registering
from .options import texts_in

PLUGIN = "plugin"  # the role of one among a record's inputs: plugin/NAME
_READ_TASKS = ("sample", "score", "eval policy")  # commands that open the task that a file names

_loaded: list[Path] = []


def plugins_loaded() -> list[Path]:
    """The files given to `load_plugin`, for a process that has to load them too."""
    return list(_loaded)


def load_plugins(paths: Iterable[Path]) -> None:
    """`load_plugin` on each."""
    for path in paths:
        load_plugin(path)


def load_plugin(path: Path) -> None:
    """Import one file of the user's, which registers what it defines. UsageError when it is not there or not importable;
    nothing of it is registered then."""
    if not path.is_file():
        raise UsageError(f"--plugin {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"apportion_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    try:
        with registering(Plugin(path.name, digest_of_file(path), f"--plugin {path}", path)):
            spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[spec.name]
        raise
    _loaded.append(path)


@cache
def _kinds_with_installed() -> list[str]:
    """The kinds that an installed package brings entries of, by their plurals."""
    installed = entry_points()
    return [plural for plural in kinds() if installed.select(group=f"apportion.{plural}")]


def plugins_used(command: str, options: Mapping[str, Any]) -> list[Plugin]:
    """The plugins that a command takes part of its code from: those that registered what one of its options names, and,
    where a file may name a task, those with tasks.

    options: by recipe key or as recorded.
    """
    for plural in _kinds_with_installed():
        kinds()[plural].load()
    if not any(kind.brought_by for kind in kinds().values()):
        return []
    named = {name for text in texts_in(options) for name in (text, text.partition("/")[0])}
    used = [
        owner
        for kind in kinds().values()
        for name, owner in kind.brought_by.items()
        if name in named or (kind.plural == "tasks" and command in _READ_TASKS)
    ]
    return sorted(dict.fromkeys(used), key=lambda plugin: plugin.name)


def plugin_digests(command: str, options: Mapping[str, Any]) -> dict[str, str]:
    """`plugins_used` as inputs of a record: {"plugin/NAME": digest}."""
    return {f"{PLUGIN}/{plugin.name}": plugin.digest for plugin in plugins_used(command, options)}


def plugin_files(command: str, options: Mapping[str, Any]) -> list[Path]:
    """Those of `plugins_used` that --plugin names."""
    return [plugin.path for plugin in plugins_used(command, options) if plugin.path is not None]
