"""Which plugins a command takes part of its code from."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .kinds import kinds
from .options import texts_in
from .plugin_files import Plugin, is_in_file, plugin_at

PLUGIN = "plugin"  # the role of one among a record's inputs: plugin/NAME
_READ_TASKS = ("sample", "score", "eval policy")  # commands that open the task that a file names


@cache
def _kinds_with_installed() -> list[str]:
    """The kinds that an installed package brings entries of, by their plurals."""
    installed = entry_points()
    return [plural for plural in kinds() if installed.select(group=f"apportion.{plural}")]


def plugins_used(command: str, options: Mapping[str, Any]) -> list[Plugin]:
    """The plugins that a command takes part of its code from: those that registered what one of its options names, the files
    of what is named as FILE.py:NAME, and, where a file may name a task, those with tasks.

    options: by recipe key or as recorded.
    """
    named = (plugin_at(text) for text in texts_in(options))
    used = [*_by_entry(command, options), *(plugin for plugin in named if plugin is not None)]
    return sorted(dict.fromkeys(used), key=lambda plugin: plugin.name)


def _by_entry(command: str, options: Mapping[str, Any]) -> list[Plugin]:
    for plural in _kinds_with_installed():
        kinds()[plural].load()
    if not any(kind.brought_by for kind in kinds().values()):
        return []
    named = {name for text in texts_in(options) for name in (text, text.partition("/")[0])}
    return [
        owner
        for kind in kinds().values()
        for name, owner in kind.brought_by.items()
        if not is_in_file(name) and (name in named or (kind.plural == "tasks" and command in _READ_TASKS))
    ]


def plugin_digests(command: str, options: Mapping[str, Any]) -> dict[str, str]:
    """`plugins_used` as inputs of a record: {"plugin/NAME": digest}."""
    return {f"{PLUGIN}/{plugin.name}": plugin.digest for plugin in plugins_used(command, options)}


def plugin_files(command: str, options: Mapping[str, Any]) -> list[Path]:
    """Those of `plugins_used` that --plugin has to name: FILE.py:NAME does so itself."""
    used = dict.fromkeys(_by_entry(command, options))
    return sorted((plugin.path for plugin in used if plugin.path is not None), key=lambda path: path.name)
