"""Rollouts that read what a library of experience knows of every observation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError
from apportion.formats.invariants import check_batch
from apportion.formats.memories import write_memory
from apportion.formats.parquet import RolloutFile
from apportion.formats.provenance import Provenance, Record
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Sampling
from apportion.stages.models.policy import ModelSource, load_policy, render_prompt
from apportion.stages.remember.kind import MEMORIES
from apportion.stages.remember.library import STRATEGY, WARNING, Advice, Library
from apportion.stages.sample.kind import SamplingContext
from apportion.stages.sample.play.experience import experience, open_library
from typer.testing import Result

from .test_interact import END, TOKENIZER, CountingTask, Scripted, ids_of, row_of

Cli = Callable[..., Result]
SHORT = {"template": "{advice};", "strategy": "+{text}", "warning": "-{text}", "warmup": 0, "min_entries": 1}
LAKE = ("--task", "env/frozen_lake", "--device", "cpu", "--prompts", 4, "-n", 4, "--max-tokens", 300)
LAKE_SET = [
    word
    for each in ("size=3", "render=compact", "actions=modulo", "turn_tokens=1", "max_turns=5")
    for word in ("--task-set", each)
]


def written(path: Path, library: Library, similarity: float = 1.0) -> Path:
    settings = {"similarity": similarity, "compared": 500, "same_head": 0}
    record = Record(stage="remember", version="1", parameters={"settings": settings})
    write_memory(path, "experience", library.table(), Provenance(history=(record,)), {"rows": 1})
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """Of state 0 it says 1 and 2, of state 1 it says 4; 9 is the best of all, 8 the warning."""
    library = Library()
    for text, score, states in (("1", 0.2, "0"), ("2", 0.3, "0"), ("4", 0.4, "1"), ("9", 0.9, "")):
        entry = Advice(STRATEGY, "example", text, score)
        library.offer(entry)
        for state in states:
            library.show(library.meet(state, 0), [entry.id])
    library.offer(Advice(WARNING, "mistake", "8", 0.5))
    return written(tmp_path / "library", library)


def run(engine: Any, *, max_tokens: int = 100, round_: int = 0, n: int = 1, task: Any = None, **options: Any) -> Any:
    task = task or CountingTask()
    context = SamplingContext(
        task=task, problems=list(task.problems("train", 1, 0)), tokenizer=TOKENIZER, source=ModelSource("builtin:tiny", "cpu"),
        opened=engine, sampling=Sampling(max_tokens=max_tokens), n=n, seed=5, round=round_, purpose="train", policy="none",
    )  # fmt: skip
    (rollouts,) = experience(context, **{**SHORT, **options})
    check_batch(rollouts, "test")
    return rollouts


def always_one(*_: int) -> str:
    return "1"


def texts_of(row: dict[str, Any], library: Path) -> list[list[str] | None]:
    """What was shown before each step."""
    texts = {each["id"]: each["text"] for each in MEMORIES["experience"].read(library).to_pylist()}
    return [names and [texts[name] for name in names.split()] for names in row["step.advice"]]


def test_every_turn_is_told_what_is_known_of_its_observation(known: Path) -> None:
    row = row_of(run(Scripted(always_one), library=known))
    assert texts_of(row, known) == [["2", "1", "8"], ["4", "8"], ["9", "4", "8"]]
    assert row["step.state"] == ["0", "1", "2"]
    assert row["prompt"] == [
        {"role": "system", "content": "+2\n+1\n-8;"}, {"role": "user", "content": "0+0"}
    ]  # fmt: skip
    assert row["prompt_ids"] == render_prompt(TOKENIZER, row["prompt"])
    said = [*ids_of("1"), END]
    seen = [ids_of(text) + ids_of("<answer>") for text in ("+4\n-8;at 1", "+9\n+4\n-8;at 2")]
    assert row["token.id"] == [*said, *seen[0], *said, *seen[1], *said]
    own = [True] * 2
    assert row["token.mask"] == [*own, *[False] * len(seen[0]), *own, *[False] * len(seen[1]), *own]
    assert row["token.logprob"] == [-0.5 if mine else 0.0 for mine in row["token.mask"]]


def test_what_the_engine_reads_is_prompt_and_response_with_the_advice(known: Path) -> None:
    engine = Scripted(lambda row, turn: "1" if (row + turn) % 2 else "2")
    rollouts = run(engine, library=known, n=3, max_tokens=200)
    prompts, starts = rollouts.ragged("prompt_ids"), rollouts.ragged("step.start")
    for turn, calls in enumerate(engine.seen):
        expected = {
            (*prompts[row].tolist(), *rollouts.token_ids[row][: starts[row][turn]].tolist())
            for row in range(3)
            if len(starts[row]) > turn
        }
        assert {tuple(prefix) for prefix, _, _ in calls} == expected


@pytest.mark.parametrize(
    "options",
    [{"library": None}, {"warmup": 5}, {"min_entries": 6}, {"strategies": 0, "warnings": 0}, {"characters": 1}],
    ids=str,
)
def test_without_advice_the_rows_are_those_of_independent(options: dict[str, Any], known: Path) -> None:
    row = row_of(run(Scripted(always_one), **{"library": known, **options}))
    said, seen = [*ids_of("1"), END], [ids_of(f"at {at}") + ids_of("<answer>") for at in (1, 2)]
    assert row["token.id"] == [*said, *seen[0], *said, *seen[1], *said]
    assert row["prompt"] == [{"role": "user", "content": "0+0"}]
    assert row["step.advice"] == [None] * 3


def test_after_the_warm_up_it_is_shown(known: Path) -> None:
    assert row_of(run(Scripted(always_one), library=known, warmup=5, round_=5))["step.advice"][0] is not None


def test_lengths(known: Path) -> None:
    row = row_of(run(Scripted(always_one), library=known, characters=5, strategies=1))
    assert texts_of(row, known) == [["2", "8"], ["4", "8"], ["9", "8"]]
    assert row["prompt"][0]["content"] == "+2\n-8;"
    row = row_of(run(Scripted(always_one), library=known, characters=4, strategies=1))
    assert texts_of(row, known) == [["2"], ["4"], ["9"]]
    row = row_of(run(Scripted(always_one), library=known, strategy_characters=0, warnings=0, strategies=1))
    assert row["prompt"][0]["content"] == "+;"


def test_where_there_is_no_room_the_observation_stands_alone(known: Path) -> None:
    # 2 tokens of a turn, 5 of an observation, 7 of the first advice behind it
    row = row_of(run(Scripted(always_one), library=known, max_tokens=12))
    assert texts_of(row, known) == [["2", "1", "8"], None]
    assert row["token.id"][:7] == [*ids_of("1"), END, *ids_of("at 1"), *ids_of("<answer>")]
    long = row_of(run(Scripted(always_one), library=known, template="{advice}" + "?" * 600))
    assert long["step.advice"] == [None] * 3
    assert long["prompt"] == [{"role": "user", "content": "0+0"}]


def test_log_probabilities_are_those_of_one_pass_over_the_whole_rollout(known: Path) -> None:
    engine = open_engine("transformers", ModelSource("builtin:tiny", "cpu"))
    rollouts = run(engine, library=known, task=CountingTask(turn_tokens=2), n=4, max_tokens=120)
    model = load_policy("builtin:tiny", device="cpu").model
    prompts, found = rollouts.ragged("prompt_ids"), rollouts.ragged("token.logprob")
    for row in range(len(rollouts)):
        ids = np.concatenate((prompts[row], rollouts.token_ids[row])).astype(np.int64)
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids)[None]).logits[0].float()
        forced = torch.log_softmax(logits[:-1], -1).gather(1, torch.from_numpy(ids)[1:, None])[:, 0].numpy()
        mask = np.array(row_of(rollouts, row)["token.mask"])
        np.testing.assert_allclose(found[row], np.where(mask, forced[len(prompts[row]) - 1 :], 0.0), atol=1e-4)


def test_from_round_to_round(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path.joinpath
    sets = [word for each in ("warmup=0", "min_entries=1", "template='{advice};'") for word in ("--set", each)]
    links = [
        word
        for each in ("links=steps", "similarity=1", "templates={mistake: '{state} {action}'}")
        for word in ("--set", each)
    ]
    lines: list[list[Any]] = [
        ["sample", *LAKE, *LAKE_SET, "--strategy", "experience", "-o", path("0")],
        ["sample", *LAKE, *LAKE_SET, "-o", path("plain")],
        ["remember", path("0"), "--what", "experience", *links, "-o", path("m0")],
        ["sample", *LAKE, *LAKE_SET, "--strategy", "experience", *sets, "--set", f"library={path('m0')}", "-o", path("1")],
        ["remember", path("1"), "--what", "experience", *links, "--earlier", path("m0"), "-o", path("m1")],
        ["assign-credit", path("1"), "--method", "gigpo", "--preset", "slea", "-o", path("2")],
        ["sample", "--from", path("1"), "--strategy", "vine", "--set", "k=1", "--max-tokens", 300, "--device", "cpu", "-o", path("3")],
        *(["validate", path(name)] for name in "023"),
    ]  # fmt: skip
    for line in lines:
        result = cli(*line)
        assert result.exit_code == 0, f"{line}: {result.output}"
    first, plain, second = (RolloutFile(path(name)).read() for name in ("0", "plain", "1"))
    names = plain.table.column_names
    assert first.table.drop_columns("step").equals(plain.table.select(names).drop_columns("step"))
    advice = [each for row in second.arrow("step.advice").to_pylist() for each in row]
    assert all(advice)
    known = MEMORIES["experience"].read(path("m1")).to_pylist()
    shown = sum(len(each.split()) for each in advice)
    assert sum(row["retrieved"] for row in known if row["kind"] != "cluster") == shown
    assert sum(row["retrieved"] for row in known if row["kind"] == "cluster") == len(advice)
    states = [state for row in second.arrow("step.state").to_pylist() for state in row]
    assert {len(state) for state in states} == {11}  # three rows of three cells: no advice in them
    log = cli("log", path("1")).output
    assert "library/0" in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["library=none"], "none: no such file"),
        (["template=text"], "template must have {advice} in it"),
        (["warning=text"], "must have {text} in it"),
        (["strategies=-1"], "strategy experience: strategies must be at least 0, got -1"),
        (["characters=-1"], "strategy experience: characters must be at least 0, got -1"),
    ],
)
def test_faults(options: list[str], message: str, cli: Cli, tmp_path: Path) -> None:
    words = [word for option in options for word in ("--set", option)]
    result = cli("sample", *LAKE, *LAKE_SET, "--strategy", "experience", *words, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert message in result.stderr


def test_it_plays_environments_only(cli: Cli, tmp_path: Path) -> None:
    result = cli("sample", "--task", "arithmetic", "--strategy", "experience", "-o", tmp_path / "out")
    assert (result.exit_code, "plays environment tasks only; 'arithmetic' is not one" in result.stderr) == (2, True)


@pytest.mark.parametrize("settings", [None, [], {}, {"similarity": "high", "compared": 500, "same_head": 0}])
def test_a_library_whose_history_has_no_settings_is_refused(settings: object, tmp_path: Path) -> None:
    path = tmp_path / "library.parquet"
    record = Record(stage="remember", version="1", parameters={} if settings is None else {"settings": settings})
    write_memory(path, "experience", Library().table(), Provenance(history=(record,)), {"rows": 0})
    with pytest.raises(DataError, match="must be similarity, compared and same_head, got"):
        open_library(path)
