"""A task of another family with a tool."""

from typing import Any

import pytest
from apportion.formats.errors import UsageError
from apportion.stages.tasks import open_task
from apportion.stages.tasks.played import Action, Call


def opened(**options: Any) -> Any:
    return open_task("tool/calculator", {"of": "arithmetic", **options})


def test_problems_and_verifier_are_the_other_tasks() -> None:
    task, of = opened(terms=2), open_task("arithmetic", {"terms": 2})
    assert list(task.problems("test", 3, 1)) == list(of.problems("test", 3, 1))
    assert task.verify("2+3=5", 5) == 1.0
    again = open_task(task.spec, task.options)
    assert list(again.problems("train", 3, 1)) == list(task.problems("train", 3, 1))


def test_a_call_is_answered_and_a_turn_without_one_is_verified() -> None:
    task = opened()
    problem = next(iter(task.problems("train", 1, 0)))
    world = task.environment(problem)
    begun = world.reset(0)
    step = world.step(Action("", [Call("calculate", {"expression": problem.prompt[0]["content"]})]))
    assert (step.observation, step.done, step.reward, step.kind) == (str(problem.reference), False, 0.0, "tool")
    last = world.step(Action(f"={step.observation}"))
    assert (last.done, last.reward, last.kind, last.state) == (True, 1.0, "answer", step.state)
    assert begun != step.state
    world.reset(0)
    assert world.step(Action("=-1")).reward == 0.0


def test_rollouts_that_asked_the_same_are_in_the_same_state() -> None:
    def asked(*expressions: str) -> str:
        world = opened().environment(next(iter(opened().problems("train", 1, 0))))
        world.reset(0)
        return [world.step(Action("", [Call("calculate", {"expression": text})])).state for text in expressions][-1]

    assert asked("1+1", "2+2") == asked("1+1", "2+2")
    assert len({asked("1+1"), asked("2+2"), asked("1+1", "2+2"), asked("2+2", "1+1")}) == 4


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (Action("", [Call("calculate", {"expression": "1/0"})]), "error: division by zero"),
        (Action("", [Call("search", {})]), "error: no tool 'search'; there is calculate"),
        (Action("", (), "the tool call is not JSON"), "error: the tool call is not JSON"),
        (Action("", [Call("calculate", {"expression": "2"})], "broken"), "2\nerror: broken"),
    ],
)
def test_a_call_that_fails_is_told_to_the_policy_and_not_valid(action: Action, said: str) -> None:
    world = opened().environment(next(iter(opened().problems("train", 1, 0))))
    world.reset(0)
    step = world.step(action)
    assert (step.observation, step.valid, step.done) == (said, False, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the option 'of' is missing"),
        ({"of": "arithmetic", "max_turns": 0}, "max_turns must be at least 1, got 0"),
        ({"of": "arithmetic", "max_turns": "many"}, "max_turns must be a whole number, got 'many'"),
        ({"of": "arithmetic", "turn_tokens": 0}, "turn_tokens must be at least 1, got 0"),
        ({"of": "arithmetic", "term": 2}, "did you mean 'terms'"),
        (
            {"of": "arithmetic", "max_turn": 3},
            "unknown option of task 'tool/calculator': 'max_turn'; did you mean 'max_turns'",
        ),
        ({"of": "env/key_door"}, "which is itself played"),
        ({"of": "aritmetic"}, "did you mean 'arithmetic'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task("tool/calculator", options)
