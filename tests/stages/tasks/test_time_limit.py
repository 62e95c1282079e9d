"""What takes too long ends, whatever it catches on the way."""

import signal
import time

import pytest
from apportion.stages.tasks._third_party import time_limit


def test_what_a_library_catches_is_raised_again() -> None:
    caught = 0
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"longer than 0\.1 s"), time_limit(0.1):
        while True:
            try:
                time.sleep(5)
            except Exception:
                raise AssertionError("no Exception") from None
            except BaseException:
                caught += 1
                if caught == 3:
                    raise
    assert caught == 3
    assert time.perf_counter() - start < 4


def test_what_a_finalizer_drops_is_raised_again_and_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    class Slow:
        def __del__(self) -> None:
            end = time.perf_counter() + 0.2
            while time.perf_counter() < end:
                pass

    with pytest.raises(TimeoutError), time_limit(0.1):
        Slow()
        time.sleep(5)
    assert capfd.readouterr() == ("", "")


def test_afterwards_nothing_is_left() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(5):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before
