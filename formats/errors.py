"""Faults a user can cause or meet, and the exit code each one ends with.

    ApportionError          1  it failed at run time
    ├── UsageError          2  the command line or the recipe is wrong
    ├── DataError           3  a file's content is wrong
    │   └── ForeignFileError   3  it is no rollout file at all
    ├── PluginError         1  code of a plugin raised, or gave what it must not
    ├── PartialError        4  it finished, with some rows failed
    ├── GateError           5  it finished, and a gate the user set was not met
    └── Stopped           130  Ctrl-C, or 143 SIGTERM: what was whole is kept

A message reads *where: what is wrong (what was seen), what is needed; what to do*. Stages raise bare facts,
each layer above adds its place. Anything that is not an ApportionError is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class ApportionError(Exception):
    """It failed at run time, e.g. the output directory is read-only.

    result: what was done by then, which the command prints before the fault; None where there is nothing to print.
    """

    exit_code = 1
    result: object = None


class UsageError(ApportionError):
    """The command line or the recipe is wrong, e.g. an unknown method."""

    exit_code = 2


class DataError(ApportionError):
    """A file's content is wrong, e.g. a reward that is NaN."""

    exit_code = 3


class ForeignFileError(DataError):
    """It is no rollout file at all, e.g. a trainer's JSON lines. path: the file."""

    def __init__(self, message: str, path: Path):
        super().__init__(message)
        self.path = path


class PluginError(ApportionError):
    """Code of a plugin raised something, or gave what its kind of entry must not. frames: its own part of the traceback."""

    def __init__(self, message: str, frames: str = ""):
        super().__init__(message, frames)
        self.frames = frames

    def __str__(self) -> str:
        return str(self.args[0])


class PartialError(ApportionError):
    """The stage finished and wrote its output, and some rows failed; they are flagged `error`."""

    exit_code = 4


class GateError(ApportionError):
    """The stage finished, and a gate the user set (`--fail-if`) was not met."""

    exit_code = 5


class Stopped(ApportionError):
    """A signal told the stage to stop; what was whole by then is kept for --resume."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class DeprecatedUse(UserWarning):
    """What apportion says of a use of its own that will go. The command line shows it, and a test fails by it; those of
    other projects (DeprecationWarning, FutureWarning) do neither."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The one wording for a name nobody registered: with the nearest match, else with all there are."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = (
        f"; did you mean {near[0]!r}?"
        if near
        else f"; choose from: {', '.join(f'{each:.80}' for each in known) or '(none)'}"
    )
    return UsageError(f"unknown {kind} {name!r:.200}{hint}")
