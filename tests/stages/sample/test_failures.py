"""What is said of answers and rollouts that did not come."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import ApportionError
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.engine import Completion
from apportion.stages.models.kind import ENGINES, engine
from apportion.stages.models.policy import ModelSource
from apportion.stages.models.transformers._engine import TransformersEngine
from apportion.stages.sample import sample
from apportion.stages.sample._failures import Failures
from apportion.stages.sample.kind import STRATEGIES
from apportion.stages.score import score
from typer.testing import Result

LOST = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "error", error="the server is busy")
MADE = Completion(np.ones(1, np.int32), np.zeros(1, np.float32), "stop")


def test_answers_are_counted_apart_from_rollouts() -> None:
    failures = Failures()
    failures.count([MADE, MADE])
    failures.count_answers([LOST, MADE, LOST])
    written = failures.written("out", {"rollouts": 2, "groups": 1, "tokens": 2})
    assert written.line() == (
        "out: 2 rollouts, 1 groups, 2 tokens; 2 of 3 questions to the policy got no answer (the first: the server is busy)"
    )
    assert (failures.asked, failures.failed) == (2, 0)


def test_a_refiner_that_does_not_answer_is_told_of(cli: Callable[..., Result], tmp_path: Path, flaky: None) -> None:
    common: dict[str, Any] = {"prompts": 2, "n": 4, "max_tokens": 24, "device": "cpu"}
    sample(**common, out=tmp_path / "a")
    score(tmp_path / "a", scorer="steps", out=tmp_path / "b")
    options = ("--strategy", "refine", "--from", tmp_path / "b", "--engine", "flaky", "--max-tokens", 24)
    result = cli("sample", *options, "--device", "cpu", "-o", tmp_path / "c")
    assert "of 8 questions to the policy got no answer (the first: the server is busy)" in result.stderr


@dataclass(frozen=True)
class OneSeed:
    """The built-in policy, as an engine that has no seeds of rows."""

    engine: TransformersEngine
    name: str = "one-seed"
    version: str = "1"
    row_seeds: bool = False
    tokens_exact: bool = True

    @property
    def identity(self) -> str:
        return self.engine.identity

    def generate(self, *given: Any) -> Any:
        return self.engine.generate(*given)


@pytest.fixture
def one_seed() -> Iterator[None]:
    def start(source: ModelSource, seed: int) -> Any:
        return OneSeed(TransformersEngine(source.load()))

    engine("one-seed")(start)
    yield
    ENGINES.remove("one-seed")


@pytest.mark.usefixtures("one_seed")
def test_going_on_without_seeds_of_rows_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = STRATEGIES["independent"]
    options: dict[str, Any] = {"prompts": 2, "n": 1, "max_tokens": 4, "device": "cpu", "engine": "one-seed"}
    options |= {"settings": {"rows_at_once": 1}, "out": tmp_path / "x"}

    @functools.wraps(entry.function)
    def stopping(*args: Any, **given: Any) -> Iterator[Rollouts]:
        yield next(iter(entry.function(*args, **given)))
        raise ApportionError("no more")

    monkeypatch.setitem(STRATEGIES._entries, "independent", replace(entry, function=stopping))
    with pytest.raises(ApportionError, match=r"groups are in .*partial"):
        sample(**options)
    monkeypatch.setitem(STRATEGIES._entries, "independent", entry)
    assert "one-seed" not in capfd.readouterr().err
    sample(**options, resume=True)
    said = capfd.readouterr().err
    assert "engine 'one-seed' takes no seed per row: the rest differs from that of an uninterrupted run" in said


class Failing(OneSeed):
    """The same with seeds of rows; its third call raises what `FAULT` is."""

    def generate(self, *given: Any) -> Any:
        CALLS.append(1)
        if len(CALLS) == 3:
            raise FAULT[0]
        return self.engine.generate(*given)


CALLS: list[int] = []
FAULT: list[Exception] = []


@pytest.mark.parametrize(
    "fault", [OverflowError("int too large"), RecursionError("too deep"), RuntimeError("CUDA error"), KeyError("choices")],
    ids=lambda fault: type(fault).__name__,
)  # fmt: skip
def test_whatever_an_engine_raises_late_keeps_what_was_sampled_before(
    fault: Exception, cli: Callable[..., Result], tmp_path: Path
) -> None:
    def start(source: ModelSource, seed: int) -> Any:
        return Failing(TransformersEngine(source.load()), row_seeds=True)

    CALLS.clear()
    FAULT[:] = [fault]
    out = tmp_path / "x"
    command = ("sample", "--prompts", 4, "-n", 1, "--max-tokens", 4, "--device", "cpu", "--engine", "failing")
    command += ("--set", "rows_at_once=1", "-o", out)
    engine("failing")(start)
    try:
        result = cli(*command)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1] == (
            f"error: engine 'one-seed' failed while sampling ({type(fault).__name__}: {fault}); "
            f"2 groups are in {out}.partial; --resume goes on with them"
        )
        assert cli(*command, "--resume").exit_code == 0
    finally:
        ENGINES.remove("failing")
    assert len(RolloutFile(out).read()) == 4


def test_a_bug_keeps_its_traceback_and_what_was_sampled_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = STRATEGIES["independent"]

    @functools.wraps(entry.function)
    def broken(*args: Any, **given: Any) -> Iterator[Rollouts]:
        yield next(iter(entry.function(*args, **given)))
        raise ZeroDivisionError("ours")

    monkeypatch.setitem(STRATEGIES._entries, "independent", replace(entry, function=broken))
    options: dict[str, Any] = {"prompts": 2, "n": 1, "max_tokens": 4, "device": "cpu", "settings": {"rows_at_once": 1}}
    with pytest.raises(ZeroDivisionError) as fault:
        sample(**options, out=tmp_path / "x")
    assert fault.value.__notes__ == [f"{tmp_path}/x: 1 groups are in {tmp_path}/x.partial; --resume goes on with them"]
    assert len(RolloutFile(tmp_path / "x.partial").read()) == 1


def test_an_engine_that_cannot_be_opened_is_one_line(cli: Callable[..., Result], tmp_path: Path) -> None:
    def start(source: ModelSource, seed: int) -> Any:
        raise LookupError("no such\ndriver")

    engine("unopened")(start)
    try:
        result = cli("sample", "--engine", "unopened", "-o", tmp_path / "x")
    finally:
        ENGINES.remove("unopened")
    assert (result.exit_code, result.stderr) == (
        1, "error: engine 'unopened' could not be opened (LookupError: no such driver)\n"
    )  # fmt: skip
