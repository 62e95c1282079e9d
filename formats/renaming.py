"""The last step of every output: on disk for good, then under its name in one move that nothing can interrupt."""

import errno
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)  # by the kernel or by this file system


def rename_new(source: Path, target: Path) -> None:
    """Renames unless `target` exists; FileExistsError if it does, even if it came to be a moment ago."""
    if _renameat2(source, target, _NOREPLACE):
        return
    if source.is_dir():
        try:
            os.rename(source, target)  # the system itself refuses to replace anything but an empty directory
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            raise
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links; nothing there is exclusive
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(source, target)
        return
    os.unlink(source)


def exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one move. False, with nothing done, where the system cannot."""
    return _renameat2(first, second, _EXCHANGE)


def sync(path: Path) -> None:
    """Returns when a file, or everything in a directory, is on the disk. OSError where it cannot be written there."""
    if not path.is_dir():
        _sync(path)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _sync(Path(folder, name))
        sync_names(Path(folder))


def sync_names(folder: Path) -> None:
    """Returns when the names in a directory are on the disk, where the system can promise that."""
    with suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Linux's rename with flags; False where there is none."""
    call = _system_call()
    if call is None:
        return False
    import ctypes

    here = -100  # AT_FDCWD: relative paths count from the working directory
    if call(here, os.fsencode(source), here, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@cache
def _system_call() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library without it
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call
