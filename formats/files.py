"""Output that is whole or absent: written under a temporary name, renamed at the end."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ApportionError, UsageError


def check_output(path: Path, *, force: bool) -> None:
    """Before any work: UsageError when the output exists (without force), ApportionError when it cannot be written."""
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; choose another name or add --force")
    folder = path.absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ApportionError(f"{folder}: cannot be made ({error.strerror}); choose another output") from error
    probe = folder / f".{path.name}.{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ApportionError(f"{folder}: not writable ({error.strerror}); choose another output") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renamed to it when the block ends well, removed when it does not."""
    temporary = path.absolute().with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ApportionError(f"{path}: not written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """The same for a directory: an older one of that name is replaced only when the new one is complete."""
    final = path.absolute()
    temporary = final.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
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
