"""`run --log`: a tracker that hears of every step as it is done."""

import json
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...formats.files import whole_file
from .plan import Planned
from .trackers import Tracker, TrackerName, tracker_of

UPDATES_DONE = "logged.json"  # in the run's folder: how many updates a tracker has heard of, where a run goes on
Say = Callable[[int, Planned, Any], None]


@contextmanager
def logged(
    name: TrackerName | None, recipe: str, folder: Path, settings: Mapping[str, Any], *, redact: bool
) -> Generator[Say]:
    """What to call with each step's number, the step and its result; it does nothing where no tracker is named.

    A tracker that fails later ends no run: one line says so, and nothing more is sent.
    """
    if name is None:
        yield lambda number, step, result: None
        return
    tracker = tracker_of(name, recipe, folder, settings)
    texts = "no texts" if redact else "texts"
    print(
        f"--log {name}: figures of every step, and of the first rollouts of each that assigns credit ({texts}): {tracker.place}",
        file=sys.stderr,
    )
    works = True

    def guarded(call: Callable[[], None]) -> None:
        nonlocal works
        if not works:
            return
        try:
            call()
        except Exception as error:  # the client's own
            works = False
            print(f"--log {name}: nothing more is sent ({type(error).__name__}: {error!s:.200})", file=sys.stderr)

    try:
        yield lambda number, step, result: guarded(lambda: _say(tracker, folder, number, step, result, redact=redact))
    finally:
        guarded(tracker.close)


def _say(tracker: Tracker, folder: Path, number: int, step: Planned, result: Any, *, redact: bool) -> None:
    from .figures import figures_of, rollouts_of, updates_of

    if found := figures_of(step, result):
        tracker.figures(found, number)
    done = _updates_done(folder)
    updates = list(updates_of(step))
    for place, values in enumerate(updates, start=done + 1):
        tracker.updates(values, place)
    if updates:
        with whole_file(folder / UPDATES_DONE, force=True) as temporary:
            temporary.write_text(json.dumps({"updates": done + len(updates)}))
    if rows := rollouts_of(step, redact=redact):
        tracker.rollouts(rows, number)


def _updates_done(folder: Path) -> int:
    try:
        return int(json.loads((folder / UPDATES_DONE).read_text())["updates"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
