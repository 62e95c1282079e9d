"""What a run has done: one line per finished step, so that an unchanged step is skipped and a killed run goes on."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.errors import ApportionError
from ...formats.gates import Figures
from ...formats.provenance import digest_of, digest_of_file
from ..core.options import texts_in
from ..core.plugins import plugin_digests
from ..eval.gated import FAIL_IF
from .plan import Planned
from .targets import JOURNAL

MOST_FILES = 10_000  # of a folder that are looked at


class Journal:
    """Kept in the run's folder. A step is up to date when a line has its key and its output is as it was then.

    A step's key covers the command, the version, the resolved options (gates are none: they change no output), the code of the plugins it uses, and its inputs: for
    an output of an earlier step that step's key, for any other file the digest of its content, for any other directory
    names, sizes and times.
    """

    def __init__(self, folder: Path, *, tell: bool = True):
        self.folder = folder
        self._path = folder / JOURNAL
        self._done: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        self._read(tell)

    def _read(self, tell: bool) -> None:
        """Lines that are no finished step are told of, and their steps run again; half a last line is what a killed run
        leaves, and needs no word."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise ApportionError(
                f"{self._path}: cannot be read ({error.strerror}); remove it, or choose another --dir"
            ) from error
        odd: list[int] = []
        for number, line in enumerate(lines, 1):
            entry = _entry_of(line)
            if entry is not None:
                self._done[entry["key"]] = entry
            elif line and number < len(lines):
                odd.append(number)
        if odd and tell:
            print(
                f"{self._path}: line {odd[0]} {f'and {len(odd) - 1} more say' if odd[1:] else 'says'} of no step that it "
                "is done; what is not known to be done runs again",
                file=sys.stderr,
            )

    def key(self, step: Planned) -> str:
        """The step's key; remembered as that of its outputs."""
        inputs: dict[str, Any] = dict(plugin_digests(step.command.name, step.options))
        outputs = step.outputs
        for name, value in step.options.items():
            for each in texts_in(value) if name not in outputs and name != FAIL_IF else ():
                if each in self._keys:
                    inputs[f"{name}={each}"] = self._keys[each]
                elif os.path.isfile(each):
                    inputs[f"{name}={each}"] = digest_of_file(Path(each))
                elif os.path.isdir(each):
                    inputs[f"{name}={each}"] = _state(Path(each))
        asked = {name: value for name, value in step.options.items() if name != FAIL_IF}
        key = digest_of([step.command.name, __version__, asked, inputs])
        self._keys |= dict.fromkeys(outputs.values(), key)
        return key

    def is_done(self, key: str, step: Planned) -> bool:
        entry = self._done.get(key)
        return (
            entry is not None
            and (step.out is None or entry["state"] == _state(Path(step.out)))
            and all(Path(each).exists() for key, each in step.outputs.items() if key != "out")
            and ("figures" in entry or not step.options.get(FAIL_IF))
        )

    def has_written(self, out: str) -> bool:
        """Whether an output is one that this run made before."""
        return any(entry.get("out") == out or out in entry.get("outputs", ()) for entry in self._done.values())

    def was_quiet(self, key: str) -> bool:
        """Whether the step found nothing to train on."""
        return bool(self._done.get(key, {}).get("quiet"))

    def was_removed(self, key: str) -> bool:
        """Whether the step was done and its output deleted afterwards, since nothing was to read it any more."""
        return bool(self._done.get(key, {}).get("removed"))

    def remove(self, key: str) -> None:
        """Write down that the output of a finished step is going to be deleted."""
        self._write(key, {**self._done[key], "removed": True})

    def figures(self, key: str) -> dict[str, float | None]:
        """Those of the step's result, as they were when it was done; none of a journal without them."""
        figures = self._done.get(key, {}).get("figures", {})
        return figures if isinstance(figures, dict) else {}

    def add(self, key: str, step: Planned, *, quiet: bool = False, figures: Figures | None = None) -> None:
        state = _state(Path(step.out)) if step.out is not None else None
        entry = {"key": key, "command": step.command.name, "out": step.out, "state": state}
        self._write(
            key, entry | {"outputs": list(step.outputs.values()), "quiet": quiet, "figures": dict(figures or {})}
        )

    def _write(self, key: str, entry: dict[str, Any]) -> None:
        self._done[key] = entry
        with self._path.open("ab+") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(end - 1, 0))
            gap = b"" if stream.read() in (b"", b"\n") else b"\n"
            if gap:  # half a line of a killed run goes, a whole one stays
                stream.seek(0)
                last = stream.read().rpartition(b"\n")[2]
                if _entry_of(last) is None:
                    stream.truncate(end - len(last))
                    gap = b""
            stream.write(gap + json.dumps(entry).encode() + b"\n")


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """What a line says of a finished step; None for a line that says nothing of the kind."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or "state" not in entry:
        return None
    return entry if isinstance(entry.get("outputs", []), list) else None


def _state(path: Path) -> list[Any] | None:
    """Names, sizes and times of an output's files; None when it is not there."""
    if not os.path.exists(path):
        return None
    files = [path] if path.is_file() else sorted(islice(_files_in(path), MOST_FILES))
    found: list[Any] = []
    for file in files:
        with suppress(OSError):  # it has gone since
            known = file.stat()
            found.append([file.name, known.st_size, known.st_mtime_ns])
    return found


def _files_in(folder: Path) -> Iterator[Path]:
    """Those that may be read; the value of an option may happen to name any folder, such as /."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if os.path.isfile(os.path.join(place, name)))
