"""Run a library's generators and verifiers without their side effects."""

import io
import logging
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

# Standard output, warning filters, logging and the global generators belong to the whole process.
_LOCK = threading.RLock()
AGAIN = 0.25  # seconds between one try to end what takes too long and the next


@contextmanager
def contain(seed: int | None = None) -> Iterator[None]:
    """Within it, what is printed, warned or logged is dropped; with a seed, the global generators start there.

    Some of reasoning-gym's generators print, some draw from the global generators, and its verifiers parse a
    model's text, which makes Python warn. The state of the global generators, Python's and numpy's, is restored.
    """
    import numpy as np

    with _LOCK, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        before, numpy_before = random.getstate(), np.random.get_state()
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
            logging.disable(level)


class _TookTooLong(BaseException):
    """No Exception, since libraries catch those and go on."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TimeoutError in what takes longer. Without effect off the main thread and where there is no SIGALRM.

    The signal comes again and again until the block has ended: what is raised once may fall into a library's bare `except:`,
    or into a finalizer, where Python drops it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    running = True

    def stop(*_: Any) -> None:
        if running:
            raise _TookTooLong

    tell = sys.unraisablehook

    def tell_others(fault: Any) -> None:
        if fault.exc_type is not _TookTooLong:
            tell(fault)

    sys.unraisablehook = tell_others  # else what a finalizer drops is printed
    before = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    except _TookTooLong:
        raise TimeoutError(f"took longer than {seconds} s") from None
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = tell
