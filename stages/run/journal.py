"""What a run has done: one line per finished step, so that an unchanged step is skipped and a killed run goes on."""

import json
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.provenance import digest_of, digest_of_file
from .plan import OUTPUTS, Planned, texts_in

JOURNAL = "journal.jsonl"


class Journal:
    """Kept in the run's folder. A step is up to date when a line has its key and its output is as it was then.

    A step's key covers the command, the version, the resolved options, and its inputs: for an output of an earlier step
    that step's key, for any other file the digest of its content, for any other directory names, sizes and times.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._path = folder / JOURNAL
        self._done: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # the line being written when the run was killed
                    continue
                self._done[entry["key"]] = entry

    def key(self, step: Planned) -> str:
        """The step's key; remembered as that of its output."""
        inputs: dict[str, Any] = {}
        for name, value in step.options.items():
            for each in texts_in(value) if name not in OUTPUTS else ():
                if each in self._keys:
                    inputs[f"{name}={each}"] = self._keys[each]
                elif Path(each).is_file():
                    inputs[f"{name}={each}"] = digest_of_file(Path(each))
                elif Path(each).is_dir():
                    inputs[f"{name}={each}"] = _state(Path(each))
        key = digest_of([step.command.name, __version__, step.options, inputs])
        if step.out is not None:
            self._keys[step.out] = key
        return key

    def is_done(self, key: str, out: str | None) -> bool:
        entry = self._done.get(key)
        return entry is not None and (out is None or entry["state"] == _state(Path(out)))

    def was_removed(self, key: str) -> bool:
        """Whether the step was done and its output deleted afterwards, since nothing was to read it any more."""
        return bool(self._done.get(key, {}).get("removed"))

    def remove(self, key: str) -> None:
        """Write down that the output of a finished step is going to be deleted."""
        self._write(key, {**self._done[key], "removed": True})

    def add(self, key: str, step: Planned) -> None:
        state = _state(Path(step.out)) if step.out is not None else None
        entry = {"key": key, "command": step.command.name, "out": step.out, "state": state}
        self._write(key, entry)

    def _write(self, key: str, entry: dict[str, Any]) -> None:
        self._done[key] = entry
        with self._path.open("a+") as stream:
            # A run killed while it wrote leaves half a line behind.
            stream.seek(max(stream.tell() - 1, 0))
            stream.write(("" if stream.read() in ("", "\n") else "\n") + json.dumps(entry) + "\n")


def _state(path: Path) -> list[Any] | None:
    """Names, sizes and times of an output's files; None when it is not there."""
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(child for child in path.rglob("*") if child.is_file())
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
