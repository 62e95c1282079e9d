"""FrozenLake and the key and door, played in text."""

import sys
from random import Random
from typing import Any

import pytest
from apportion.formats.errors import UsageError
from apportion.stages.tasks import Problem, open_task
from apportion.stages.tasks.played import Action, EnvironmentTask, is_played
from apportion.stages.tasks.played._key_door import KeyDoor
from apportion.stages.tasks.played.frozen_lake import _draw
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from gymnasium.utils.env_checker import check_env

LAKE = ["SFF", "FHF", "FFG"]
ROOMS = ["P.#..", "K.D.G"]


def played(spec: str, rows: list[str], **options: Any) -> Any:
    task = open_task(spec, options)
    assert is_played(task)
    return task.environment(Problem("p", [], {"map": rows}))


def test_a_lake_is_crossed() -> None:
    world = played("env/frozen_lake", LAKE)
    assert world.reset(1) == "PFF/FHF/FFG"
    steps = [world.step(Action(text)) for text in ("Down.", "I go down", "2", "right")]
    assert [(step.state, step.reward, step.done, step.valid) for step in steps] == [
        ("FFF/PHF/FFG", 0.0, False, True),
        ("FFF/FHF/PFG", 0.0, False, True),
        ("FFF/FHF/FPG", 0.0, False, True),
        ("FFF/FHF/FFP", 1.0, True, True),
    ]
    assert steps[0].observation == "F F F\nP H F\nF F G"


@pytest.mark.parametrize(("size", "ice"), [(2, 0.8), (4, 0.8), (5, 0.5), (8, 1.0)])
def test_maps_are_those_of_gymnasiums_generator(size: int, ice: float) -> None:
    for seed in range(20):
        expected = generate_random_map(size=size, p=ice, seed=Random(seed).getrandbits(31))
        assert _draw(Random(seed), {"size": size, "ice": ice}) == expected


def test_a_lake_without_a_way_is_not_waited_for() -> None:
    with pytest.raises(UsageError, match=r"none of .* size=16 and ice=0\.2 has a way to the goal; raise ice"):
        next(iter(open_task("env/frozen_lake", {"size": 16, "ice": 0.2}).problems("train", 1, 0)))


def test_a_hole_ends_the_game_without_a_reward() -> None:
    world = played("env/frozen_lake", LAKE, render="compact")
    world.reset(1)
    world.step(Action("right"))
    step = world.step(Action("down"))
    assert (step.observation, step.reward, step.done) == ("FFF\nFPF\nFFG", 0.0, True)


def test_a_turn_without_a_move_changes_nothing_and_is_told_so() -> None:
    world = played("env/frozen_lake", LAKE)
    world.reset(1)
    step = world.step(Action("jump 7"))
    assert (step.valid, step.reward, step.done, step.state) == (False, 0.0, False, "PFF/FHF/FFG")
    assert step.observation.endswith("P F F\nF H F\nF F G") and "names no move" in step.observation


def test_a_slippery_lake_depends_on_the_seed_alone() -> None:
    def walk(seed: int) -> list[str]:
        world = played("env/frozen_lake", ["SFFF"] * 3 + ["FFFG"], slippery=True)
        world.reset(seed)
        return [world.step(Action("right")).state for _ in range(8)]

    assert walk(1) == walk(1)
    assert len({tuple(walk(seed)) for seed in range(8)}) > 1


def test_any_number_is_a_move_by_its_remainder() -> None:
    world = played("env/frozen_lake", ["SFF", "FFF", "FFG"], actions="modulo", render="compact")
    world.reset(1)
    steps = [world.step(Action(text)) for text in ("42", "4 41?", "", "11")]
    assert [step.state for step in steps] == ["FPF/FFF/FFG", "FFF/FPF/FFG", "FFF/FPF/FFG", "FPF/FFF/FFG"]
    assert [step.valid for step in steps] == [True, True, False, True]


def test_key_and_door() -> None:
    world = played("env/key_door", ROOMS, render="compact")
    assert world.reset(0) == "P.#../K.D.G"
    states = [
        world.step(Action(text)) for text in ("right", "down", "right", "left", "right", "right", "3", "down", "right")
    ]
    assert [step.observation for step in states] == [
        ".P#..\nK.D.G", "..#..\nKPD.G", "..#..\nKPD.G", "..#..\nP.D.G", "..#..\n.PD.G",
        "..#..\n..P.G", "..#..\n..P.G", "..#..\n..P.G", "..#..\n...PG",
    ]  # fmt: skip
    last = world.step(Action("right"))
    assert (last.reward, last.done) == (1.0, True)


def test_key_and_door_is_a_gymnasium_environment(recwarn: pytest.WarningsRecorder) -> None:
    check_env(KeyDoor(ROOMS), skip_render_check=True)


@pytest.mark.parametrize("spec", ["env/frozen_lake", "env/key_door"])
def test_problems_are_distinct_stable_and_never_in_both_splits(spec: str) -> None:
    task = open_task(spec)
    train, test = (list(task.problems(split, 40, 3)) for split in ("train", "test"))
    again = open_task(task.spec, task.options)
    assert list(again.problems("train", 50, 3))[:40] == train
    assert list(again.problems("train", 40, 4)) != train
    names = [problem.problem_id for problem in (*train, *test)]
    assert len(set(names)) == 80
    assert all(problem.prompt[0]["content"].count("P") >= 1 for problem in train)


@pytest.mark.parametrize("spec", ["env/frozen_lake", "env/key_door"])
def test_every_map_can_be_won(spec: str) -> None:
    """Breadth first over the states, by replaying."""
    task: Any = open_task(spec, {"render": "compact"})
    for problem in task.problems("train", 8, 0):
        seen, paths, won = set(), [()], False
        while paths and not won:
            path = paths.pop(0)
            world = task.environment(problem)
            state, done = world.reset(0), False
            for move in path:
                step = world.step(Action(move))
                state, done, won = step.state, step.done, won or step.reward == 1
            if state not in seen and not done:
                seen.add(state)
                paths += [(*path, move) for move in "0123"]
        assert won, problem


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("env/frozen_lake", {"size": 1}, "task 'env/frozen_lake': size must be between 2 and 16, got 1"),
        ("env/frozen_lake", {"ice": 0.0}, "ice must be between 0.2 and 1"),
        ("env/frozen_lake", {"slipery": True}, "did you mean 'slippery'"),
        ("env/frozen_lake", {"turn_tokens": 0}, "turn_tokens must be between"),
        ("env/key_door", {"width": 3}, "width must be between 4 and 32"),
        ("env/key_door", {"render": "picture"}, "render must be 'text' or 'compact'"),
        ("env", {}, "unknown task 'env'; choose from: arithmetic, env/frozen_lake, env/key_door"),
        ("env/frozen", {}, "unknown task 'env/frozen'; did you mean 'env/frozen_lake'"),
        ("tool/calc", {}, "did you mean 'tool/calculator'"),
    ],
)
def test_what_is_no_such_task(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task(spec, options)


def test_few_maps_are_not_enough() -> None:
    with pytest.raises(UsageError, match="no more train maps after"):
        list(open_task("env/frozen_lake", {"size": 2}).problems("train", 5, 0))


@pytest.mark.parametrize(
    ("spec", "options", "module"),
    [
        ("env/frozen_lake", {}, "gymnasium"),
        ("env/key_door", {}, "gymnasium"),
        ("tool/search", {"of": "arithmetic", "corpus": "x.jsonl"}, "bm25s"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    spec: str, options: dict[str, Any], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UsageError, match=rf"needs the package '{module}'; run: pip install 'apportion\[environments\]'"
    ):
        open_task(spec, options)


def test_there_is_nothing_to_verify() -> None:
    with pytest.raises(UsageError, match="rewards were given while sampling"):
        open_task("env/key_door").verify("left", {})


def test_only_environment_tasks_are_played() -> None:
    assert [is_played(open_task(spec)) for spec in ("arithmetic", "env/key_door")] == [False, True]
    task: EnvironmentTask = open_task("env/key_door")  # type: ignore[assignment]
    assert (task.role, list(task.tools), task.max_turns) == ("user", [], 20)
