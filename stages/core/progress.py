"""Progress on standard error: only on a terminal, and only for what takes longer than two seconds."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar is shown


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`. Nothing is imported or drawn before PATIENCE has passed on a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    started, done = time.monotonic(), 0
    bar = None

    def advance(count: int) -> None:
        nonlocal bar, done
        done += count
        if bar is None:
            if time.monotonic() - started < PATIENCE:
                return
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            from .console import WordsConsole

            shown = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=WordsConsole(stderr=True), transient=True,
            )  # fmt: skip
            shown.start()
            bar = (shown, shown.add_task(what, total=total))
        bar[0].update(bar[1], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar[0].stop()


def track(items: Iterable[T], *, total: int | None, what: str) -> Iterator[T]:
    """Iterate with a progress bar."""
    with progress(total, what) as advance:
        for item in items:
            yield item
            advance(1)
