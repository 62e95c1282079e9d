"""Keep the complete part of a stopped run, and continue from it."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from ...formats.errors import ApportionError, DataError, Stopped, UsageError
from ...formats.parquet import STREAM, RolloutFile, partial_name
from ...formats.provenance import Record
from ...formats.rollouts import Rollouts

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """Inside the block, the first SIGTERM or Ctrl-C is only recorded; a second one takes its usual effect."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self.lost: Exception | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.by = signal.Signals(number)
        self.__exit__()
        print(f"{self.by.name}: stopping after this batch; send it again to stop at once", file=sys.stderr, flush=True)

    def until(self, batches: Iterable[Rollouts], out: Path, *, kept: bool = False) -> Iterator[Rollouts]:
        """The batches up to and including the one during which the signal comes, or until something fails.

        kept: whether an earlier run kept a part. If there is nothing to keep, raises Stopped or the failure itself; the
        same on standard output, which is all or nothing.
        """
        try:
            for batch in batches:
                kept = out != STREAM
                yield batch
                if self.by is not None:
                    break
        except Exception as lost:  # even a bug must not lose what is complete
            if not kept:
                raise
            self.lost = lost
        if self.by is not None and not kept:
            raise self.stopped(out, 0)

    @property
    def early(self) -> bool:
        """Whether the run ended before it was done."""
        return self.by is not None or self.lost is not None

    def stopped(self, out: Path, groups: int) -> Exception:
        """The exception that tells the user."""
        what = f"{groups:,} groups are in {partial_name(out)}; --resume goes on with them" if groups else "nothing kept"
        if isinstance(self.lost, UsageError | DataError):
            what += " once the cause is fixed"
        if isinstance(self.lost, ApportionError):
            self.lost.args = (f"{self.lost}; {what}",)
            return self.lost
        if self.lost is not None:
            self.lost.add_note(f"{out}: {what}")
            return self.lost
        assert self.by is not None
        return Stopped(f"{out}: stopped by {self.by.name}, {what}", 128 + self.by)


def open_begun(out: Path, record: Record, *, resume: bool, force: bool) -> RolloutFile | None:
    """What a stopped run left of `out`; None if it left nothing, or if force says to start over.

    UsageError if it left something and neither was asked for, or if another command made it.
    """
    part = partial_name(out)
    if not part.exists() or (force and not resume):
        return None
    if not resume:
        raise UsageError(f"{part}: left by a stopped run; --resume goes on with it, --force starts over")
    file = RolloutFile(part)
    before = replace(file.provenance.history[-1], counts={}) if file.provenance.history else None
    if before == replace(record, counts={}):
        return file
    if force:
        return None
    changed = [
        f"{name} was {before.parameters.get(name)!r}, now {value!r}"
        for name, value in record.parameters.items()
        if before is not None and before.parameters.get(name) != value
    ]
    raise UsageError(
        f"{part}: made by another command ({'; '.join(changed) or 'another policy, input or version'}); "
        "--resume needs the same command, --force starts over"
    )
