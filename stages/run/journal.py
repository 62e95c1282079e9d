"""What a run has done: one line per finished step, so that an unchanged step is skipped and a killed run goes on."""

import json
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.provenance import digest_of, digest_of_file
from ..options import texts_in
from ..registry import plugin_digests
from .plan import Planned
from .targets import JOURNAL


class Journal:
    """Kept in the run's folder. A step is up to date when a line has its key and its output is as it was then.

    A step's key covers the command, the version, the resolved options, the code of the plugins it uses, and its inputs: for
    an output of an earlier step that step's key, for any other file the digest of its content, for any other directory
    names, sizes and times.
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
        """The step's key; remembered as that of its outputs."""
        inputs: dict[str, Any] = dict(plugin_digests(step.command.name, step.options))
        outputs = step.outputs
        for name, value in step.options.items():
            for each in texts_in(value) if name not in outputs else ():
                if each in self._keys:
                    inputs[f"{name}={each}"] = self._keys[each]
                elif Path(each).is_file():
                    inputs[f"{name}={each}"] = digest_of_file(Path(each))
                elif Path(each).is_dir():
                    inputs[f"{name}={each}"] = _state(Path(each))
        key = digest_of([step.command.name, __version__, step.options, inputs])
        self._keys |= dict.fromkeys(outputs.values(), key)
        return key

    def is_done(self, key: str, step: Planned) -> bool:
        entry = self._done.get(key)
        return (
            entry is not None
            and (step.out is None or entry["state"] == _state(Path(step.out)))
            and all(Path(each).exists() for key, each in step.outputs.items() if key != "out")
        )

    def has_written(self, out: str) -> bool:
        """Whether an output is one that this run made before."""
        return any(entry.get("out") == out or out in entry.get("outputs", ()) for entry in self._done.values())

    def was_quiet(self, key: str) -> bool:
        """Whether the step found nothing to train on."""
        return bool(self._done.get(key, {}).get("quiet"))

    def add(self, key: str, step: Planned, *, quiet: bool = False) -> None:
        state = _state(Path(step.out)) if step.out is not None else None
        entry = {"key": key, "command": step.command.name, "out": step.out, "state": state}
        entry |= {"outputs": list(step.outputs.values()), "quiet": quiet}
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
