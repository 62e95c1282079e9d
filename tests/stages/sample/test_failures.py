"""What is said of answers and rollouts that did not come."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import ApportionError
from apportion.formats.rollouts import Rollouts
from apportion.stages.models import ENGINES, EngineEntry
from apportion.stages.models.engine import Completion
from apportion.stages.models.policy import ModelSource
from apportion.stages.models.transformers_engine import TransformersEngine
from apportion.stages.sample import sample
from apportion.stages.sample._failures import Failures
from apportion.stages.sample._strategy import STRATEGIES
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
        "out: 2 rollouts, 1 groups, 2 tokens; no answer to 2 of 3 questions to the policy (the first: the server is busy)"
    )
    assert (failures.asked, failures.failed) == (2, 0)


def test_a_refiner_that_does_not_answer_is_told_of(cli: Callable[..., Result], tmp_path: Path, flaky: None) -> None:
    common: dict[str, Any] = {"prompts": 2, "n": 4, "max_tokens": 24, "device": "cpu"}
    sample(**common, out=tmp_path / "a")
    score(tmp_path / "a", scorer="steps", out=tmp_path / "b")
    options = ("--strategy", "refine", "--from", tmp_path / "b", "--engine", "flaky", "--max-tokens", 24)
    result = cli("sample", *options, "--device", "cpu", "-o", tmp_path / "c")
    assert "of 8 questions to the policy (the first: the server is busy)" in result.stderr


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

    ENGINES.add(EngineEntry("one-seed", "for tests", (), start))
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
    assert "engine 'one-seed' has no seeds of rows: what is sampled now is not what would have been" in said
