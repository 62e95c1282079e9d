"""Every strategy, stopped after each of its batches and gone on with, makes the file of a run that nobody stopped."""

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import Stopped
from apportion.formats.parquet import RolloutFile, RolloutWriter, write_rollouts
from apportion.formats.rollouts import Rollouts
from apportion.stages.core.driver import Written
from apportion.stages.rows.digest import digest
from apportion.stages.sample import sample
from apportion.stages.sample._failures import Partly
from apportion.stages.sample.kind import CONTINUES, STRATEGIES
from apportion.stages.score import score

COMMON: dict[str, Any] = {"prompts": 4, "n": 2, "seed": 3, "max_tokens": 40, "device": "cpu"}
# Files in the folder of `sources`.
STEPS, SPLIT, PLAYED, HARD = "steps.parquet", "split.parquet", "played.parquet", "hard.parquet"
REFLECTION = (
    '{"trajectory_summary": "", "root_cause_analysis": "", "trajectory_outcome": "failure", '
    '"improvement_suggestion": "", "retry_from_step": 1}'
)

# Settings with which a strategy has a batch for each problem, or nearly so. --from is `rollouts`, where it needs one.
CASES: dict[str, dict[str, Any]] = {
    "independent": {"settings": {"rows_at_once": 2}},
    "independent, played": {"task": "env/frozen_lake", "settings": {"rows_at_once": 2}},
    "experience": {"task": "env/frozen_lake", "settings": {"rows_at_once": 2}},
    "branch": {"settings": {"initial": 2, "rows_at_once": 1}},
    "branch_schedule": {"settings": {"factors": [2, 2], "length": 6, "rows_at_once": 1}},
    "rose": {"settings": {"rows_at_once": 2}},
    "truncate": {"settings": {"k": 2, "budget": 2, "rows_at_once": 1}},
    "mcts": {"settings": {"rounds": 2, "rows_at_once": 2}},
    "team": {"settings": {"roles": ["solver", "judge"], "rows_at_once": 2}},
    "demonstrate": {"settings": {"mistakes": 0.5, "rows_at_once": 2}},
    "budget": {"settings": {"history": [STEPS], "rows_at_once": 1}, "n": 6},
    "budget, one left out": {"settings": {"history": [HARD], "negative_n": 0, "rows_at_once": 1}, "n": 3},
    "dynamic": {"settings": {"live": 4, "rows_at_once": 8}, "n": 4, "prompts": 12},
    "vine": {"rollouts": STEPS, "settings": {"k": 2, "rows_at_once": 1}},
    "vine, played": {"rollouts": PLAYED, "settings": {"k": 2, "rows_at_once": 1}},
    "hint": {"rollouts": SPLIT, "settings": {"hint_from": "demonstration:1", "failed": 0.5}},
    "critique": {"rollouts": STEPS, "settings": {"of": "verdict", "rows_at_once": 1}},
    "refine": {"rollouts": SPLIT, "engine": "scripted"},
    "retry": {"rollouts": STEPS, "engine": "scripted", "settings": {"reflection_tokens": 64, "rows_at_once": 1}},
    "intervene": {
        "rollouts": STEPS,
        "engine": "scripted",
        "settings": {"solution_from": "demonstration", "separator": "\n", "proposals": 1, "k": 2, "critic_tokens": 64}
        | {"solver": "SOLVE {solution}<answer>", "critic": "CHECK {attempt}", "rows_at_once": 1},
    },
    "inject_errors": {
        "rollouts": STEPS,
        "engine": "scripted",
        "settings": {"need_wrong": False, "max_edit_ratio": 1, "editor_tokens": 64, "rows_at_once": 1},
    },
}  # fmt: skip


def reply(text: str) -> str | None:
    """Says what makes new rows, where the policy is asked about old ones."""
    if "first faulty step" in text:
        return "CUT 2"
    if "trajectory_outcome" in text and "review of an earlier attempt" not in text:
        return REFLECTION
    if "two lines of ```" in text:
        return "1+1=3\n```"
    if "CHECK" in text:
        first = text.partition("SOLVE ")[2].partition("<answer>")[0].splitlines()[0]
        return f'<intervention>{{"content": {first!r}, "location": 1}}</intervention>'
    return "solved" if "SOLVE" in text else None


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rollouts that have rewards and steps, in one row group and with one for each group; some played."""
    folder = tmp_path_factory.mktemp("sources")
    sample(**CASES["independent, played"] | COMMON, out=folder / PLAYED)
    options: dict[str, Any] = COMMON | {"n": 8}
    sample(**options, out=folder / "sampled")
    score(folder / "sampled", out=folder / "scored")
    score(folder / "scored", scorer="steps", out=folder / STEPS)
    whole = RolloutFile(folder / STEPS)
    writer = RolloutWriter(folder / SPLIT, SPLIT, tokens_per_row_group=1)
    for batch in whole.batches():
        writer.write(batch)
    writer.close(whole.provenance)
    scored = whole.read()
    reward = np.where(scored.groups.ids == 0, 0.0, scored.groups.positions % 4 == 0)  # never, or in a quarter
    write_rollouts(folder / HARD, [scored.with_columns({"reward": reward})], whole.provenance)
    return folder


@contextmanager
def stopped_after_a_batch(name: str) -> Iterator[None]:
    """The strategy sends SIGTERM to this process at the end of its first batch."""
    entry = STRATEGIES[name]

    @functools.wraps(entry.function)
    def stopping(*args: Any, **options: Any) -> Iterator[Rollouts]:
        for batch in entry.function(*args, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    STRATEGIES.remove(name)
    STRATEGIES.add(replace(entry, function=stopping))
    try:
        yield
    finally:
        STRATEGIES.remove(name)
        STRATEGIES.add(entry)


def resolved(case: str, sources: Path) -> dict[str, Any]:
    """The options of `sample`, with names of files in `sources` made paths."""
    options: dict[str, Any] = COMMON | {"strategy": case.partition(",")[0]} | CASES[case]
    if "rollouts" in options:
        options["rollouts"] = sources / options["rollouts"]
    settings = options.get("settings", {})
    if "history" in settings:
        options["settings"] = settings | {"history": [str(sources / name) for name in settings["history"]]}
    return options


def in_parts(**options: Any) -> tuple[Written, int]:
    """Run with --resume until nothing is left, stopped after every batch. Returns the result and how often it was."""
    for count in range(100):
        try:
            with stopped_after_a_batch(options["strategy"]):
                return sample(**options, resume=True), count
        except Stopped:
            continue
    raise AssertionError("no end to it")


def test_every_strategy_has_a_case() -> None:
    assert {case.partition(",")[0] for case in CASES} == {each.name for each in STRATEGIES}
    for case, options in CASES.items():
        assert ("rollouts" in options) == (CONTINUES in STRATEGIES[case.partition(",")[0]].needs), case


@pytest.mark.parametrize("case", CASES)
def test_a_run_in_parts_makes_the_same_file(
    case: str, sources: Path, tmp_path: Path, scripted: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(reply)
    options = resolved(case, sources)

    def told() -> list[str]:
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{options['strategy']}: ")]

    sample(**options, out=tmp_path / "whole")
    summary = told()
    assert in_parts(**options, out=tmp_path / "parts")[1] >= 3
    assert told()[-1:] == summary, "the last part tells of all of it"
    assert len(summary) == (options["strategy"] in ("retry", "intervene", "inject_errors", "critique", "hint"))
    whole, parts = RolloutFile(tmp_path / "whole"), RolloutFile(tmp_path / "parts")
    assert parts.read().table.equals(whole.read().table)
    assert parts.provenance == whole.provenance
    one, other = digest([whole.path, parts.path]).to_json()
    assert one["columns"] == other["columns"]
    assert not (tmp_path / "parts.partial").exists()
    if "rollouts" in options:
        assert whole.num_rows > RolloutFile(options["rollouts"]).num_rows, "it makes rows in this case"


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
@pytest.mark.parametrize("case", ["independent, played", "branch"])
def test_with_vllm_whose_prefix_cache_is_warm_or_not(case: str, sources: Path, tmp_path: Path) -> None:
    options = resolved(case, sources) | {"engine": "vllm", "engine_settings": {"kv_cache_gib": 0.25}}
    sample(**options, out=tmp_path / "whole")
    assert in_parts(**options, out=tmp_path / "parts")[1] >= 3
    assert RolloutFile(tmp_path / "parts").read().table.equals(RolloutFile(tmp_path / "whole").read().table)


@pytest.mark.parametrize("case", ["independent", "independent, played", "mcts", "team", "vine"])
def test_what_failed_before_it_was_stopped_is_told_in_the_end(
    case: str, sources: Path, tmp_path: Path, flaky: None
) -> None:
    options: dict[str, Any] = resolved(case, sources) | {"engine": "flaky"}
    if "rollouts" in options:  # some of whose rows failed, too, which is not this run's fault
        before: dict[str, Any] = COMMON | {"n": 8, "engine": "flaky"}
        sample(**before, out=tmp_path / "sampled")
        score(tmp_path / "sampled", scorer="steps", out=tmp_path / "steps")
        options["rollouts"] = tmp_path / "steps"
    whole = sample(**options, out=tmp_path / "whole")
    parts, _ = in_parts(**options, out=tmp_path / "parts")
    assert isinstance(whole, Partly)
    assert 0 < whole.failed < whole.rollouts
    assert "the server is busy" in str(whole.fault())
    assert isinstance(parts, Partly)
    assert parts.failed == whole.failed
    assert str(parts.fault()).partition(": ")[2] == str(whole.fault()).partition(": ")[2]
