"""One run at a time in one folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...formats.errors import ApportionError
from .targets import LOCK

try:
    import fcntl
except ImportError:  # no POSIX, no lock
    fcntl = None


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Holds the folder's lock while the block runs. It ends with the process, however that ends; the file stays.

    ApportionError while another run has it.
    """
    path = folder / LOCK
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ApportionError(f"{path}: not writable ({error.strerror}); choose another --dir") from error
    try:
        try:
            if fcntl is not None:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = os.read(number, 32).decode(errors="replace").strip()
            who = f"process {other}" if other.isdigit() else "another process"
            raise ApportionError(
                f"{folder}: {who} is running a recipe there; wait for it, or choose another --dir"
            ) from error
        except OSError:  # a file system without locks
            pass
        with suppress(OSError):
            os.ftruncate(number, 0)
            os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(number)
