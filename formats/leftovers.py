"""Temporary names beside an output: who holds them, and what is done with those that a killed command left.

`.NAME.PID.tmp` is being written; `.NAME.PID.old` is an output that is being replaced where the system cannot swap two
names. Whoever uses one holds a lock on it, which ends with the process, however that ends. Its number alone would not do:
another process may have it by now, and one in another container always may.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .renaming import rename_new

try:
    import fcntl
except ImportError:  # no POSIX: nothing is locked, and nothing is taken for a leftover
    fcntl = None


@contextmanager
def temporary_beside(final: Path, *, directory: bool) -> Iterator[Path]:
    """A new, empty file or directory beside `final`, held until the block ends; what lies under its name then is removed."""
    path, held = _new_beside(final, directory)
    try:
        yield path
    finally:
        remove(path)
        os.close(held)


def _new_beside(final: Path, directory: bool) -> tuple[Path, int]:
    number = 0
    while True:
        attempt = f"-{number}" if number else ""
        path = final.with_name(f".{final.name}.{os.getpid()}{attempt}.tmp")
        number += 1
        try:
            path.mkdir() if directory else os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:  # another thread's, or another container's
            continue
        # Without a hold another command took it for a leftover in between.
        if (held := hold(path)) is not None:
            return path, held


def clear_leftovers(final: Path) -> None:
    """Removes what killed commands left beside an output; puts an output back that was being replaced, if nothing has
    replaced it."""
    for path, ending in _beside(final):
        held = hold(path, wait=False)
        if held is None:
            continue
        try:
            if ending == "old" and not os.path.lexists(final):
                with suppress(OSError):
                    rename_new(path, final)
            else:
                remove(path)
        finally:
            os.close(held)


def remove(path: Path) -> None:
    """Removes a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def hold(path: Path, *, wait: bool = True) -> int | None:
    """A descriptor by which this process holds the path until it is closed. None where the path is gone meanwhile; and,
    without `wait`, where a process holds it, or where that cannot be told."""
    number = None
    try:
        number = os.open(path, os.O_RDONLY)
        _lock(number, wait)
        if os.path.samestat(os.fstat(number), os.stat(path)):
            return number
    except OSError as error:
        if wait and not isinstance(error, FileNotFoundError):
            raise
    if number is not None:
        os.close(number)
    return None


def _lock(number: int, wait: bool) -> None:
    """OSError where it is not to be had."""
    if fcntl is None:
        if not wait:
            raise OSError("no locks here")
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if not wait:  # with it, a file system without locks: then nobody takes this for a leftover
            raise


def _beside(final: Path) -> list[tuple[Path, str]]:
    name = re.compile(rf"\.{re.escape(final.name)}\.\d+(?:-\d+)?\.(old|tmp|probe)")
    try:
        found = sorted(os.listdir(final.parent))
    except OSError:  # made later
        return []
    return [(final.parent / each, match[1]) for each in found if (match := name.fullmatch(each))]
