"""rLLM's hook on recorded calls: objects of the shape that its trainer passes. rLLM itself is not run here."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.interop.rllm import credit_hook

from .conftest import CreditOfFile


@dataclass
class Step:
    """The fields of rllm.types.Step that a hook meets."""

    prompt_ids: list[Any]
    response_ids: list[int]
    reward: float = 0.0
    logprobs: list[float] = field(default_factory=list)
    metadata: dict[str, Any] | None = None
    advantage: list[float] | float | None = None


@dataclass
class Trajectory:
    steps: list[Step]
    reward: float | None


@dataclass
class Group:
    trajectories: list[Trajectory]
    group_id: str


def call(method: str, groups: list[Group], **options: Any) -> list[list[list[float]]]:
    """The hook as UnifiedTrainer calls it; → the credit of each step of each trajectory, groups one after the other."""
    hook = credit_hook(
        method, grouping=lambda episodes, transform_config, compact_filtering_config: episodes, **options
    )
    assert hook(groups, object(), None) is groups
    return [[step.advantage for step in each.steps] for group in groups for each in group.trajectories]  # type: ignore[misc]


def uneven() -> list[Group]:
    """Groups of three and of two. The first trajectory has two turns in one context, with two tokens of a tool between."""
    return [
        Group(
            [
                Trajectory([Step([1, 2], [5, 7], 0.5), Step([1, 2, 5, 7, 90, 91], [9, 3], -0.5)], 1.0),
                Trajectory([Step([1, 2], [5, 8], 0.25)], 0.0),
                Trajectory([Step([1, 2], [5, 7, 4], 1.0)], 0.5),
            ],
            "t1:solver",
        ),
        Group([Trajectory([Step([3], [6])], 0.0), Trajectory([Step([3], [6, 2])], 1.0)], "t2:solver"),
    ]


UNEVEN = [
    {"ids": [5, 7, 90, 91, 9, 3], "own": [True, True, False, False, True, True], "reward": 1.0, "group": 0,
     "spans": [(0, 2), (4, 6)], "step.reward": [0.5, -0.5]},
    {"ids": [5, 8], "own": [True] * 2, "reward": 0.0, "group": 0, "spans": [(0, 2)], "step.reward": [0.25]},
    {"ids": [5, 7, 4], "own": [True] * 3, "reward": 0.5, "group": 0, "spans": [(0, 3)], "step.reward": [1.0]},
    {"ids": [6], "own": [True], "reward": 0.0, "group": 1, "spans": [(0, 1)], "step.reward": [0.0]},
    {"ids": [6, 2], "own": [True] * 2, "reward": 1.0, "group": 1, "spans": [(0, 2)], "step.reward": [0.0]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "options"), [("rloo", {}), ("tempo", {}), ("turn_return", {"scale": "std"}), ("mapo", {})]
)
def test_a_recorded_call_gives_steps_what_assign_credit_gives(
    method: str, options: dict[str, Any], credit_of_file: CreditOfFile
) -> None:
    found = call(method, uneven(), **options)
    expected = credit_of_file(method, UNEVEN, **options)
    assert np.any(np.concatenate(expected))
    for steps, values, row in zip(found, expected, UNEVEN, strict=True):
        for step, (start, end) in zip(steps, row["spans"], strict=True):
            assert len(step) == end - start
            np.testing.assert_allclose(step, values[start:end], atol=1e-6)


def test_a_rewritten_context_and_a_sub_agent_are_parts_of_one_trajectory(credit_of_file: CreditOfFile) -> None:
    """A recorded shape: the second step's prompt does not go on from the first, and the third is another lineage's."""
    steps = [
        Step([1], [5]),
        Step([2, 2], [6, 7]),
        Step([9], [8], metadata={"lineage_id": "sub"}),
        Step([2, 2, 6, 7, 4], [3]),
    ]
    found = call("rloo", [Group([Trajectory(steps, 1.0), Trajectory([Step([1], [5, 5])], 0.0)], "t:a")])
    # As rows, 1, 1, 1 and 0: +1/3 each. As two episodes, 1 and 0: +1 and -1.
    assert found == [[[1.0], [1.0, 1.0], [1.0], [1.0]], [[-1.0, -1.0]]]
    lines = [[5], [6, 7, 4, 3], [8]]
    rows = [
        *({"ids": ids, "own": [token != 4 for token in ids], "reward": 1.0, "group": 0, "episode": "a", "part": part}
          for part, ids in enumerate(lines)),
        {"ids": [5, 5], "own": [True] * 2, "reward": 0.0, "group": 0, "episode": "b", "part": 0},
    ]  # fmt: skip
    assert credit_of_file("rloo", rows) == [[1.0], [1.0, 1.0, 0.0, 1.0], [1.0], [-1.0, -1.0]]


def test_a_tree_method_says_why_it_cannot_take_parts() -> None:
    group = Group([Trajectory([Step([1], [5]), Step([2], [6])], 1.0), Trajectory([Step([1], [5])], 0.0)], "t:a")
    with pytest.raises(DataError, match="tempo compares rollouts token by token"):
        call("tempo", [group])


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_a_trajectory_without_a_reward_takes_no_part(unknown: float | None) -> None:
    rewards = [1.0, unknown, 0.0]
    found = call("rloo", [Group([Trajectory([Step([1], [5, 6])], reward) for reward in rewards], "t:a")])
    assert found == [[[1.0, 1.0]], [[0.0, 0.0]], [[-1.0, -1.0]]]


def test_steps_without_tokens_get_an_empty_list() -> None:
    group = Group([Trajectory([Step([1], []), Step([1], [5])], 1.0), Trajectory([Step([1], [])], 0.0)], "t:a")
    assert call("rloo", [group]) == [[[], [1.0]], [[]]]
    assert call("turn_return", [group]) == [[[], [0.0]], [[]]]  # a turn that no other has
    assert call("rloo", []) == []


def test_prompts_may_hold_tinkers_chunks_and_no_images() -> None:
    @dataclass
    class Chunk:
        tokens: list[int]

    def group(prompt: list[Any]) -> Group:
        return Group([Trajectory([Step([1], [5]), Step(prompt, [6])], 1.0), Trajectory([Step([1], [5])], 0.0)], "t:a")

    assert call("tempo", [group([Chunk([1, 5]), np.int64(4)])]) == call("tempo", [group([1, 5, 4])])
    with pytest.raises(DataError, match="a prompt has a dict among its token ids"):
        call("tempo", [group([1, {"image": 1}])])


def test_log_probabilities_must_fit_their_steps() -> None:
    steps = [Step([1], [5, 6], logprobs=[-0.5])]
    with pytest.raises(DataError, match="trajectory 0/0: a step has 1 log-probabilities for 2 tokens"):
        call("spo_tree", [Group([Trajectory(steps, 1.0)], "t:a")])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("gigpo", {}, "gigpo needs 'step.state', which rLLM does not have"),
    ],
)
def test_what_cannot_work_fails_when_the_hook_is_made(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        credit_hook(method, **options)
