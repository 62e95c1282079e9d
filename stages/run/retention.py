"""What a run keeps on disk: how much its checkpoints need, and which of them nothing will read again."""

import json
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

from ...formats.leftovers import remove
from ..core.options import texts_in
from .journal import Journal
from .plan import Planned

Keep = Literal["all", "last"]
TRAINED_BYTES = 12  # of a parameter in a checkpoint: the weight and AdamW's two moments, float32 each


class Retention:
    """Which steps of a plan are to run, and which checkpoints can go.

    A checkpoint is superseded when a later training begins with it. With keep="last" it is deleted as soon as all steps
    that read it are done; the journal knows that it was. Its step stays up to date until a step that is to run reads it.
    """

    def __init__(self, plan: Sequence[Planned], journal: Journal, keep: Keep):
        self._plan, self._journal, self._keep = plan, journal, keep
        self.keys = [journal.key(step) for step in plan]
        self._last_reader: dict[str, int] = {}
        superseded: set[str] = set()
        for number, step in enumerate(plan):
            for text in _read_by(step):
                self._last_reader[text] = number
                if step.command.name == "train" and step.options.get("model") == text:
                    superseded.add(text)
        self._superseded = [
            number for number, step in enumerate(plan) if step.command.name == "train" and step.out in superseded
        ]
        self.to_run, self.again = self._needed()

    def _needed(self) -> tuple[frozenset[int], int]:
        """The steps to run, and how many of them only make a deleted checkpoint anew."""
        found: set[int] = set()
        read: set[str] = set()
        again = 0
        for number in reversed(range(len(self._plan))):
            step = self._plan[number]
            if self._journal.is_done(self.keys[number], step):
                continue
            if self._journal.was_removed(self.keys[number]):
                if step.out not in read:
                    continue
                again += 1
            found.add(number)
            read |= _read_by(step)
        return frozenset(found), again

    def prune(self, done: int) -> None:
        """Delete the superseded checkpoints that no step behind number `done` (from 0) reads."""
        if self._keep == "all":
            return
        for number in self._superseded:
            out = self._plan[number].out
            if out is not None and number <= self._last_reader[out] <= done and Path(out).is_dir():
                self._journal.remove(self.keys[number])
                _delete(Path(out))

    def disk(self, folder: Path) -> str | None:
        """A line about the disk that the checkpoints to come need; None where there are none, or their size is not known."""
        sizes = self._sizes()
        if not sizes:
            return None
        at_once = 3 * max(sizes) if self._keep == "last" else sum(sizes)  # the last, the next, and what becomes it
        needed = min(at_once, sum(sizes))
        free = shutil.disk_usage(_existing(folder)).free
        kept = "" if self._keep == "all" else ", of which the last is kept"
        line = f"{len(sizes)} checkpoints of {_bytes(max(sizes))}{kept}: {_bytes(needed)} beside the rollouts, {_bytes(free)} are free"
        if needed <= free:
            return line
        remedy = "free some, or choose another --dir"
        return f"warning: {line}; {remedy if self._keep == 'last' else f'add --keep last, {remedy}'}"

    def _sizes(self) -> list[int]:
        """Bytes of every checkpoint that is to be made, as far as its model is known."""
        parameters: dict[str, int | None] = {}
        found: list[int] = []
        for number, step in enumerate(self._plan):
            if step.command.name != "train" or step.out is None:
                continue
            model = str(step.options["model"])
            if model not in parameters:
                parameters[model] = parameters_of(model)
            parameters[step.out] = count = parameters[model]
            if count is not None and number in self.to_run:
                found.append(TRAINED_BYTES * count)
        return found


def parameters_of(model: str) -> int | None:
    """How many parameters a model on this disk has, by the headers of its files; None where they do not say."""
    from ..models.policy import TINY

    folder = TINY if model.startswith("builtin:") else Path(model)
    try:
        files = [path for path in folder.glob("*.safetensors") if path.stem != "optimizer"]
        return sum(map(_count, files)) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def _count(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: Mapping[str, Any] = json.loads(file.read(min(length, 100_000_000)))
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _read_by(step: Planned) -> set[str]:
    outputs = step.outputs
    return {text for name, value in step.options.items() if name not in outputs for text in texts_in(value)}


def _delete(folder: Path) -> None:
    """Whole or not at all to whoever looks; what a kill leaves has the name of a leftover."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    folder.rename(aside)
    remove(aside)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def _bytes(count: float) -> str:
    """
    >>> [_bytes(each) for each in (900, 11_400_000, 16_200_000_000)]
    ['900 B', '11.4 MB', '16.2 GB']
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
