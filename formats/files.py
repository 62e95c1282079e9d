"""Output that is whole or absent: written under a temporary name, and moved to its own in one step at the end.

A kill at any moment leaves the old output whole, the new one whole, or none where there was none. The next command on the
same output removes what lies beside it. A link is followed: what it names is written, and the link stays.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ApportionError, UsageError
from .leftovers import clear_leftovers, hold, temporary_beside
from .own import why_kept
from .renaming import exchange, rename_new, sync, sync_names

STREAM = Path("-")  # standard input, or output


def check_output(path: Path, *, force: bool, directory: bool = False) -> None:
    """Before any work: UsageError when the output exists (without force) or is what force does not replace,
    ApportionError when it cannot be written.

    Nothing is made yet, not even a missing folder; leftovers of killed commands are cleared. directory: what is going to
    be written is one.
    """
    final = _place(path)
    clear_leftovers(final)
    if os.path.exists(path):
        if not force:
            raise UsageError(f"{path}: exists already; choose another name or add --force")
        _check_replaceable(path, final, directory)
    folder = final.parent
    place = next(each for each in (folder, *folder.parents) if os.path.exists(each))
    if not place.is_dir():
        raise ApportionError(f"{folder}: cannot be made ({place} is a file); choose another output")
    probe = place / f".{final.name}.{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ApportionError(f"{place}: not writable ({error.strerror}); choose another output") from error


def _check_replaceable(path: Path, final: Path, directory: bool) -> None:
    if final.is_dir():
        if not directory:
            raise UsageError(f"{path}: a directory, which --force does not replace by a file; choose another name")
        if (reason := why_kept(final)) is not None:
            raise UsageError(f"{path}: --force does not replace this directory, since {reason}; choose another name")
    elif not path.is_file():
        raise UsageError(f"{path}: a device, which cannot be replaced by a file; choose another name, or - for a pipe")


@contextmanager
def whole_file(path: Path, *, force: bool, final: Callable[[], tuple[Path, bool]] | None = None) -> Iterator[Path]:
    """Yields a temporary name beside `path`; moved to it when the block ends well, removed when it does not.

    final: what it is moved to instead, and whether that may exist; asked when the block has ended. A command calls
    `check_output` before it works. What has come to be since is kept, and so is the new file, under a name that the
    ApportionError tells.
    """
    with _writing(path, directory=False) as temporary:
        yield temporary
        where, replace = final() if final is not None else (path, force)
        _publish(temporary, where, replace, directory=False)


@contextmanager
def whole_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """The same for a directory: an older one of that name is replaced only when the new one is complete."""
    with _writing(path, directory=True) as temporary:
        yield temporary
        _publish(temporary, path, force, directory=True)


def _place(path: Path) -> Path:
    """Where the output lies in truth, links followed."""
    return Path(os.path.realpath(path))


@contextmanager
def _writing(path: Path, *, directory: bool) -> Iterator[Path]:
    final = _place(path)
    with _folder_of(final):
        try:
            with temporary_beside(final, directory=directory) as temporary:
                yield temporary
        except OSError as error:
            raise ApportionError(f"{path}: not written ({error.strerror or error})") from error


@contextmanager
def _folder_of(final: Path) -> Iterator[None]:
    """Makes the folder `final` goes into, and takes away what it made when the block fails."""
    folder = final.parent
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


def _publish(temporary: Path, path: Path, replace: bool, *, directory: bool) -> None:
    """Moves what is finished to its name. ApportionError where that was taken meanwhile; then it gets another one."""
    final = _place(path)
    sync(temporary)
    try:
        if not replace or not os.path.lexists(final):
            rename_new(temporary, final)
        elif final.is_dir():
            _check_replaceable(path, final, directory)
            _swap(temporary, final)
        elif directory:
            _swap(temporary, final)
        else:
            os.replace(temporary, final)
    except (FileExistsError, IsADirectoryError, UsageError) as taken:
        if replace and isinstance(taken, FileExistsError):  # it came to be a moment ago
            return _publish(temporary, path, replace, directory=directory)
        kept = final.with_name(f"{final.name}.{os.getpid()}.done")
        rename_new(temporary, kept)
        why = taken if isinstance(taken, UsageError) else f"{path}: exists already, another command wrote it meanwhile"
        raise ApportionError(f"{why}; what this one made is whole in {kept}") from taken
    sync_names(final.parent)
    return None


def _swap(temporary: Path, final: Path) -> None:
    """Puts the new output in the place of the old one, which then lies under the temporary name."""
    if exchange(temporary, final):
        return
    old = temporary.with_suffix(".old")
    held = hold(final)
    try:
        os.rename(final, old)
        try:
            rename_new(temporary, final)
        except BaseException:
            with suppress(OSError):
                rename_new(old, final)
            raise
        os.rename(old, temporary)
    finally:
        if held is not None:
            os.close(held)
