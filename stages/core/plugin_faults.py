"""A fault in a plugin's code as one line that names the entry, with the plugin's own frames before it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap
from types import FrameType

from ...formats.errors import ApportionError, PluginError
from .extras import missing_extra
from .kinds import kinds
from .plugin_files import Plugin, registered_plugins

LONGEST = 300  # characters of what the exception says


@contextmanager
def blame_plugins() -> Iterator[None]:
    """What a plugin's code raises in the block becomes a PluginError; faults of the user, and of apportion, stay as they are."""
    try:
        yield
    except ApportionError:
        raise
    except (Exception, SystemExit) as error:
        fault = None if missing_extra(error) is not None else _fault_of(error)
        if fault is None:
            raise
        raise fault from error


def _fault_of(error: BaseException) -> PluginError | None:
    owners = {file: plugin for plugin in registered_plugins() for file in plugin.files}
    walked = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(frame, line) for frame, line in walked if frame.f_code.co_filename in owners]
    if not own or (isinstance(error, SystemExit) and own[-1] != walked[-1]):  # a signal's, in whatever code it found
        return None
    frame, line = own[-1]
    plugin = owners[frame.f_code.co_filename]
    said = " ".join(f"{type(error).__name__}: {error}".removesuffix(": ").split())
    where = f"line {line} of {_short(frame)}, in {frame.f_code.co_name}"
    return PluginError(
        f"{_named(plugin, [each for each, _ in own])}: {said:.{LONGEST}} ({where})",
        "".join(traceback.StackSummary.extract(iter(own)).format()),
    )


def _named(plugin: Plugin, frames: list[FrameType]) -> str:
    """The entry whose function runs in one of the frames, as "scorer NAME"; the plugin where there is none."""
    codes = [frame.f_code for frame in frames]
    for kind in kinds().values():
        for name, owner in kind.brought_by.items():
            if owner is plugin and getattr(unwrap(kind[name].function), "__code__", None) in codes:
                return f"{kind.noun} {name}"
    return f"plugin {plugin.name}"


def _short(frame: FrameType) -> str:
    return frame.f_code.co_filename.rpartition("/")[2]
