"""Rollouts played on from one of their turns."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.invariants import check_batch
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Sampling
from apportion.stages.models.policy import ModelSource, load_tokenizer
from apportion.stages.sample import sample
from apportion.stages.sample._source import problems_of
from apportion.stages.sample.kind import SamplingContext
from apportion.stages.sample.play._interact import Rollout
from apportion.stages.sample.play._replay import Replay, columns_after
from apportion.stages.tasks import TASKS, Problem, task_family
from apportion.stages.tasks.played import Action, Outcome
from typer.testing import Result

TOKENIZER = load_tokenizer("builtin:tiny")
LAKE = {"size": 3, "render": "compact", "actions": "modulo", "turn_tokens": 1}
TASKS_PLAYED: dict[str, dict[str, Any]] = {
    "env/frozen_lake": LAKE | {"slippery": True},
    "env/key_door": {"turn_tokens": 2, "width": 4, "height": 3, "render": "compact"},
    "luck": {"turn_tokens": 1},
    "luck, turns ended by the policy": {"turn_tokens": None},
}


@dataclass
class Dice:
    """Every turn throws a die that the policy does not hold; it says what fell."""

    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def reset(self, seed: int) -> str:
        self.rng = np.random.default_rng(seed)
        return "begin"

    def step(self, action: Action) -> Outcome:
        fell = int(self.rng.integers(1, 7))
        return Outcome(observation=f"{fell}", reward=fell + len(action.text) / 8, state=f"{action.text}/{fell}")


@dataclass(frozen=True)
class Luck:
    spec: str = "luck"
    options: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int = 5
    turn_tokens: int | None = 1
    role: Any = "user"
    tools: Sequence[Any] = ()

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        for index in range(count):
            yield Problem(f"p{index}", [{"role": "user", "content": f"{index}+2*3-1*2"}], index)

    def verify(self, text: str, reference: Any) -> float:
        raise AssertionError("nothing to verify")

    def environment(self, problem: Problem) -> Dice:
        return Dice()


@pytest.fixture(scope="module", autouse=True)
def luck() -> Iterator[None]:
    TASKS.load()
    task_family("luck")(lambda spec, options: Luck(options=options, **options))
    yield
    TASKS.remove("luck")


@pytest.fixture(scope="module", params=list(TASKS_PLAYED), ids=lambda name: name.replace(" ", "_"))
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of played rollouts."""
    path = tmp_path_factory.mktemp("played") / "played.parquet"
    options = dict(TASKS_PLAYED[request.param])
    options = {name: value for name, value in options.items() if not (request.param.startswith("luck,") and value == 1)}
    sample(
        task=request.param.partition(",")[0], task_settings=options, prompts=3, n=3, seed=4, max_tokens=90,
        temperature=1.5, device="cpu", out=path,
    )  # fmt: skip
    return path


def opened(path: Path) -> tuple[SamplingContext, Rollouts, list[Problem]]:
    """What a strategy works with, the rows, and the problem of each."""
    file = RolloutFile(path)
    task, problems = problems_of(file, "", None)
    source = ModelSource("builtin:tiny", "cpu")
    context = SamplingContext(
        task=task, problems=problems, tokenizer=source.tokenizer, source=source,
        opened=open_engine("transformers", source), sampling=Sampling(max_tokens=90, temperature=1.5), n=3, seed=4,
        round=0, purpose="train", policy=source.identity, rollouts=file,
    )  # fmt: skip
    batch = file.read()
    return context, batch, [problems[group] for group in batch.groups.ids.tolist()]


def again(path: Path, turn: Callable[[int], int]) -> tuple[Rollouts, list[int], list[int], list[Rollout]]:
    """The rows played on from turn(number of turns), with the seeds they had."""
    context, batch, problems = opened(path)
    starts = batch.ragged("step.start")
    rows = [row for row in range(len(batch)) if len(starts[row]) > 1]
    assert len(rows) > 2
    forks = [int(starts[row][turn(len(starts[row]))]) for row in rows]
    seeds = [int(batch.numbers("seed")[row]) for row in rows]
    prompts = [batch.ragged("prompt_ids")[row].tolist() for row in rows]
    task: Any = context.task
    found = Replay(context, task, batch).play_on(rows, forks, seeds, [problems[row] for row in rows], prompts)
    return batch, rows, forks, found


@pytest.mark.parametrize("turn", [lambda turns: 0, lambda turns: turns // 2, lambda turns: turns - 1])
def test_with_the_same_seeds_it_is_the_same_rollout(played: Path, turn: Callable[[int], int]) -> None:
    batch, rows, _, found = again(played, turn)
    rewards, states = batch.ragged("step.reward"), batch.arrow("step.state").to_pylist()
    for row, rollout in zip(rows, found, strict=True):
        assert rollout.ids == batch.token_ids[row].tolist()
        assert rollout.mask == batch.ragged("token.mask")[row].tolist()
        assert rollout.logprobs is not None
        np.testing.assert_allclose(rollout.logprobs, batch.ragged("token.logprob")[row], atol=1e-4)
        assert rollout.starts == batch.ragged("step.start")[row].tolist()
        assert rollout.ends == batch.ragged("step.end")[row].tolist()
        assert rollout.states == states[row]
        assert [outcome.reward for outcome in rollout.outcomes] == rewards[row].tolist()
        assert rollout.finish == batch.strings("finish_reason")[row]


def test_what_was_there_before_the_fork_is_not_what_was_sampled(played: Path) -> None:
    batch, rows, forks, found = again(played, lambda turns: turns - 1)
    context, _, _ = opened(played)
    columns = columns_after(context, found, forks, purpose="probe", flags=("x",))
    for place, (row, fork) in enumerate(zip(rows, forks, strict=True)):
        mask = batch.ragged("token.mask")[row].tolist()
        assert columns["token.mask"][place].as_py() == [False] * fork + mask[fork:]
        logprob = batch.ragged("token.logprob")[row].tolist()
        np.testing.assert_allclose(columns["token.logprob"][place].as_py(), [0.0] * fork + logprob[fork:], atol=1e-4)
    assert columns["purpose"].to_pylist() == ["probe"] * len(rows)
    assert columns["reward"].to_pylist() == batch.numbers("reward")[rows].tolist()


@pytest.fixture
def lucky(tmp_path: Path) -> Path:
    path = tmp_path / "lucky.parquet"
    sample(task="luck", task_settings={"turn_tokens": 1}, prompts=2, n=2, max_tokens=60, device="cpu", out=path)
    return path


@pytest.mark.parametrize(
    ("columns", "fork", "message"),
    [
        ({"environment_seed": [1, 2, 3, 4]}, 2, "rollout 'p0@.*/0': its environment cannot be restored to turn 1"),
        ({"environment_seed": [None, 2, 3, 4]}, 2, "rollout 'p0@.*/0', column 'environment_seed': missing"),
        ({}, None, "rollout 'p0@.*/0': no turn begins at token 1"),
    ],
)
def test_what_cannot_be_brought_back_is_refused(
    columns: dict[str, Any], fork: int | None, message: str, lucky: Path, tmp_path: Path
) -> None:
    context, batch, problems = opened(lucky)
    batch = batch.with_columns(columns)
    forks = [1 if fork is None else int(batch.ragged("step.start")[0][fork])]
    task: Any = context.task
    with pytest.raises(DataError, match=message):
        Replay(context, task, batch).play_on([0], forks, [1], problems[:1], [batch.ragged("prompt_ids")[0].tolist()])


def test_a_file_without_the_seeds_of_its_worlds_says_so(lucky: Path) -> None:
    context, batch, _ = opened(lucky)
    table = batch.table.drop_columns(["environment_seed"])
    task: Any = context.task
    with pytest.raises(DataError, match="no column 'environment_seed', which is needed to restore an environment"):
        Replay(context, task, Rollouts(table))


def test_vine_measures_the_states_of_an_environment(cli: Callable[..., Result], lucky: Path, tmp_path: Path) -> None:
    path = tmp_path.joinpath
    for line in (
        f"sample --from {lucky} --strategy vine --set k=2 --max-tokens 60 --device cpu -o {path('b')}",
        f"score {path('b')} --with verify -o {path('c')}",
        f"score {path('c')} --with values -o {path('d')}",
        f"assign-credit {path('d')} --method vineppo -o {path('e')}",
    ):
        result = cli(*line.split())
        assert result.exit_code == 0, f"{line}: {result.output}"
    before, after = RolloutFile(lucky).read(), RolloutFile(path("e")).read()
    own = np.flatnonzero(after.for_training)
    assert after.take(own).strings("rollout_id") == before.strings("rollout_id")
    names = {name: row for row, name in enumerate(after.strings("rollout_id"))}
    forks, parents = after.table.column("fork").to_pylist(), after.strings("parent_id")
    probes = [row for row in range(len(after)) if row not in own]
    starts = after.ragged("step.start")
    assert sum(len(starts[row]) for row in own.tolist()) > len(probes) // 2 > 4  # equal prefixes are one state
    for row in probes:
        parent, fork = names[parents[row]], forks[row]
        assert fork in starts[parent].tolist()
        assert after.token_ids[row][:fork].tolist() == after.token_ids[parent][:fork].tolist()
        assert not after.ragged("token.mask")[row][:fork].any()
        assert len(starts[row]) == 5
        turns = starts[parent].tolist().index(fork)
        told = after.ragged("step.reward")
        assert told[row][:turns].tolist() == told[parent][:turns].tolist()
        # The dice are the world's own: they fall as they did, whatever is said.
        thrown = [state.rpartition("/")[2] for state in after.arrow("step.state")[row].as_py()[1:]]
        assert thrown == [state.rpartition("/")[2] for state in after.arrow("step.state")[parent].as_py()[1:]]
    result = cli("sample", "--from", lucky, "--strategy", "vine", "--set", "at=unlikely", "-o", path("x"))
    assert (result.exit_code, "in an environment, which can be left only between turns" in result.stderr) == (2, True)


@pytest.mark.parametrize("replaced", ["probe", "keep"])
def test_refine_plays_a_cut_rollout_anew(
    replaced: str, lucky: Path, tmp_path: Path, scripted: Callable[..., Any]
) -> None:
    asked: list[str] = []

    def reply(text: str) -> str | None:
        if "first faulty step" not in text:
            return None
        asked.append(text)
        return "CUT 3" if len(asked) % 2 else "ACCEPT"

    scripted(reply)
    out = tmp_path / "refined"
    sample(rollouts=lucky, strategy="refine", settings={"replaced": replaced}, max_tokens=60, device="cpu",
           engine="scripted", seed=9, out=out)  # fmt: skip
    before, after = RolloutFile(lucky).read(), RolloutFile(out).read()
    rows = {name: row for row, name in enumerate(after.strings("rollout_id"))}
    refined = np.flatnonzero(after.flagged("refined")).tolist()
    assert len(refined) == 2 == len(after) - len(before)
    states, rewards = after.arrow("step.state").to_pylist(), after.ragged("step.reward")
    for row in refined:
        parent = rows[after.strings("parent_id")[row]]
        fork = after.table.column("fork").to_pylist()[row]
        assert fork == after.ragged("step.start")[parent][2]
        assert after.token_ids[row][:fork].tolist() == after.token_ids[parent][:fork].tolist()
        assert states[row][:3] == states[parent][:3]
        assert after.numbers("reward")[row] == pytest.approx(rewards[row].sum())
        mask = after.ragged("token.mask")[row]
        assert (
            mask[:fork].tolist() == after.ragged("token.mask")[parent][:fork].tolist()
        )  # what is kept is trained, too
        logprob = after.ragged("token.logprob")
        assert logprob[row][:fork].tolist() == logprob[parent][:fork].tolist()
        assert not mask.all()
        assert after.strings("purpose")[parent] == ("probe" if replaced == "probe" else "train")
    said = [state.rpartition("/")[2] for state in states[0][1:]]
    assert all(f"{die}" in asked[0] for die in said)  # the refiner reads what was answered


def reflection(outcome: str, step: int) -> str:
    return json.dumps(
        {"trajectory_summary": "s", "root_cause_analysis": "r", "trajectory_outcome": outcome,
         "improvement_suggestion": "i", "retry_from_step": step}
    )  # fmt: skip


def test_retry_plays_on_from_the_pivot_behind_the_reflection(
    lucky: Path, tmp_path: Path, scripted: Callable[..., Any]
) -> None:
    asked: list[str] = []

    def reply(text: str) -> str | None:
        if not text.startswith("LOOK"):
            return None
        asked.append(text)
        return reflection("failure", 2) if len(asked) % 2 else reflection("success", 0)

    scripted(reply)
    out = tmp_path / "retried"
    settings = {"reflector": "LOOK {steps}", "guidance": "{question}R{reflection}", "correct": 5.0}
    sample(rollouts=lucky, strategy="retry", settings=settings | {"reflection_tokens": 200}, max_tokens=60, device="cpu",
           engine="scripted", seed=9, out=out)  # fmt: skip
    before, after = RolloutFile(lucky).read(), RolloutFile(out).read()
    check_batch(after, "test")
    rows = {name: row for row, name in enumerate(after.strings("rollout_id"))}
    retried, guided, lessons = (
        np.flatnonzero(after.flagged(flag)).tolist() for flag in ("retried", "guided", "reflection")
    )
    assert len(before) == 4
    assert len(retried) == 2
    # Every rollout earns more than 5 and has 5 turns: a retry helped if it earned more.
    names, reward = after.strings("rollout_id"), after.numbers("reward")
    parents = {row: rows[after.strings("parent_id")[row]] for row in retried}
    helped = {names[parent] for row, parent in parents.items() if reward[row] > reward[parent]}
    assert {names[row].partition("/guided@")[0] for row in guided} == helped
    assert len(lessons) == 2 + len(guided) > 2
    starts, masks = after.ragged("step.start"), after.ragged("token.mask")
    for row in retried:
        parent, fork = rows[after.strings("parent_id")[row]], after.table.column("fork").to_pylist()[row]
        assert fork == starts[parent][2]
        assert after.token_ids[row][:fork].tolist() == after.token_ids[parent][:fork].tolist()
        assert not masks[row][:fork].any()
        assert masks[row][fork:].tolist() == [
            any(start <= place < end for start, end in zip(starts[row], after.ragged("step.end")[row], strict=True))
            for place in range(fork, len(masks[row]))
        ]
        read = after.arrow("behaviour_prompt_ids")[row].as_py()
        assert "retry_from_step" in TOKENIZER.decode(read)
        assert after.numbers("reward")[row] == pytest.approx(after.ragged("step.reward")[row].sum())
    for row in guided:
        (again,) = (each for each, parent in parents.items() if names[parent] == names[row].partition("/guided@")[0])
        assert after.token_ids[row].tolist() == after.token_ids[again].tolist()
        assert masks[row].tolist() == masks[again].tolist()
        assert after.arrow("prompt_ids")[row].as_py() == after.arrow("behaviour_prompt_ids")[again].as_py()
        assert (reward[row], starts[row].tolist()) == (1.0, starts[again].tolist())
    for row in lessons:
        assert len(starts[row]) == 0
        assert masks[row].all()


def test_a_world_that_changed_is_one_line_and_writes_nothing(
    cli: Callable[..., Result], lucky: Path, tmp_path: Path
) -> None:
    batch = RolloutFile(lucky).read()
    changed = tmp_path / "changed.parquet"
    write_rollouts(changed, [batch.with_columns({"environment_seed": [7] * len(batch)})], Provenance())
    result = cli("sample", "--from", changed, "--strategy", "vine", "--set", "k=1", "-o", tmp_path / "x")
    assert (result.exit_code, result.stderr.count("error:")) == (3, 1)
    assert "cannot be restored to turn 1 (it answers differently than in the file)" in result.stderr
    assert not (tmp_path / "x").exists()
