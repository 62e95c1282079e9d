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

# The whole process shares standard output, warning filters, logging and the global generators.
_LOCK = threading.RLock()
AGAIN = 0.25  # seconds between attempts to end a block that takes too long


@contextmanager
def contain(seed: int | None = None) -> Iterator[None]:
    """Drop whatever is printed, warned or logged inside the block; with a seed, start the global generators from it.

    Some of reasoning-gym's generators print, and some draw from the global generators. Its verifiers parse a model's
    text, which makes Python warn. The state of Python's and numpy's global generators is restored afterwards.
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
    """Not an Exception, since libraries catch those and carry on."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer. Has no effect off the main thread, or on a system without SIGALRM.

    The signal repeats until the block has ended. A single exception might fall into a library's bare `except:`, or into
    a finalizer, where Python drops it.
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

    sys.unraisablehook = tell_others  # otherwise Python prints what a finalizer drops
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
