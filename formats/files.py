"""Output that is whole or absent: written under a temporary name, renamed at the end."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ApportionError, UsageError


def check_output(path: Path, *, force: bool) -> None:
    """Before any work: UsageError when the output exists (without force) or is a device, ApportionError when it
    cannot be written.

    Nothing is made yet, not even a missing folder.
    """
    if os.path.exists(path) and not force:
        raise UsageError(f"{path}: exists already; choose another name or add --force")
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path}: a device, which cannot be replaced by a file; choose another name, or - for a pipe")
    folder = path.absolute().parent
    place = next(each for each in (folder, *folder.parents) if os.path.exists(each))
    if not place.is_dir():
        raise ApportionError(f"{folder}: cannot be made ({place} is a file); choose another output")
    probe = place / f".{path.name}.{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ApportionError(f"{place}: not writable ({error.strerror}); choose another output") from error


@contextmanager
def whole_file(path: Path, final: Callable[[], Path] | None = None) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renamed to it when the block ends well, removed when it does not.

    final: what it is renamed to instead, asked when the block has ended.
    """
    temporary = path.absolute().with_name(f".{path.name}.{os.getpid()}.tmp")
    with _folder_of(path):
        try:
            yield temporary
            os.replace(temporary, final() if final is not None else path)
        except OSError as error:
            raise ApportionError(f"{path}: not written ({error.strerror or error})") from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _folder_of(path: Path) -> Iterator[None]:
    """Makes the folder `path` goes into, and takes away what it made when the block fails."""
    folder = path.absolute().parent
    made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ApportionError(f"{folder}: cannot be made ({error.strerror}); choose another output") from error
    try:
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):
                each.rmdir()
        raise


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """The same for a directory: an older one of that name is replaced only when the new one is complete."""
    final = path.absolute()
    temporary = final.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with _folder_of(path):
        try:
            temporary.mkdir()
            yield temporary
            old = final.with_name(f".{path.name}.{os.getpid()}.old")
            if final.exists():
                os.replace(final, old)
            os.replace(temporary, final)
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise ApportionError(f"{path}: not written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
