from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit._method import METHODS, Credit, resolve_options
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.groundedprm import groundedprm

NAN = float("nan")


def by_token(
    rewards: list[float], tokens: list[list[int]], checks: list[list[float]], groups: list[int] | None = None
) -> Credit:
    """A step for each token."""
    starts = [list(range(len(row))) for row in tokens]
    columns = {
        "step.start": Ragged.from_lists(starts, np.int32),
        "step.end": Ragged.from_lists([[start + 1 for start in row] for row in starts], np.int32),
        "step.reward": Ragged.from_lists(checks, np.float64),
    }
    return Credit(rollouts_of(rewards, tokens=tokens, groups=groups).with_columns(columns))


def test_worked_example() -> None:
    # methods A, GroundedPRM: virtual steps +1, -1, +1 and a right last one.
    credit = stepped([1.0], [[1] * 5], reward=[[0, 1, -1, 1, 1]])
    np.testing.assert_allclose(groundedprm(credit), [0.555556, 1, -1, 1, 1], atol=1e-6)


def test_worked_example_with_a_wrong_answer() -> None:
    credit = stepped([0.0], [[1] * 4], reward=[[0, 1, 1, 1]])
    np.testing.assert_allclose(groundedprm(credit), [0.25, 1, 1, -1], atol=1e-6)  # still positive


def test_worked_example_of_parent_and_grandparent() -> None:
    # The sibling's simulation, virtual steps -1 and a right last one, adds U + F = 0 to what they share.
    tokens = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 8, 9, 10]]
    checks = [[0.0, 0, 0, 1, -1, 1, 1], [0.0, 0, 0, -1, 1]]
    found = groundedprm(by_token([1.0, 1.0], tokens, checks))
    np.testing.assert_allclose(found, [0.45, 0.5, 0.555556, 1, -1, 1, 1, 0.45, 0.5, 0, -1, 1], atol=1e-6)
    mean = groundedprm(by_token([1.0, 1.0], tokens, checks), pool="mean")
    np.testing.assert_allclose(mean, [0.225, 0.25, 0.555556, 1, -1, 1, 1, 0.225, 0.25, 0, -1, 1], atol=1e-6)


def test_simulations_add_up_where_they_meet() -> None:
    # Both begin at their second step, of which one is the last: final 1 and -1 - 1/2·…: N = 1, v = -1, F = -1.
    credit = by_token([1.0, 0.0], [[1, 2], [1, 3, 4, 5]], [[0, 0], [0, 0, -1, 0]])
    np.testing.assert_allclose(groundedprm(credit), [0.9 - 1.8, 1.0, 0.9 - 1.8, -2.0, -1.0, -1.0])
    np.testing.assert_allclose(groundedprm(credit, decay=0.5), [0.5 - 1.0, 1.0, 0.5 - 1.0, -2.0, -1.0, -1.0])
    np.testing.assert_allclose(groundedprm(credit, label=True), [-1.0, 1.0, -1.0, -1.0, -1.0, -1.0])


def test_the_weight_of_the_answer() -> None:
    credit = stepped([1.0], [[1] * 5], reward=[[0, 1, -1, 1, 1]])
    np.testing.assert_allclose(groundedprm(credit, outcome_weight=0.5)[0], 0.722222, atol=1e-6)
    short = stepped([0.0], [[1, 1]], reward=[[0, 1]])
    assert groundedprm(short).tolist() == [-1.0, -1.0]  # no virtual step but the last
    assert groundedprm(short, outcome_weight=0.5).tolist() == [-0.5, -1.0]
    assert resolve_options(METHODS["groundedprm"], {"outcome_weight": 2})["outcome_weight"] == 2.0
    assert resolve_options(METHODS["groundedprm"], {"outcome_weight": "1/N"})["outcome_weight"] == "1/N"


def test_what_is_a_right_answer() -> None:
    credit = stepped([0.4], [[1, 1]], reward=[[0, 0]])
    assert groundedprm(credit).tolist() == [1.0, 1.0]
    assert groundedprm(credit, correct_above=0.5).tolist() == [-1.0, -1.0]


def test_a_check_that_could_not_be_made_counts_0_and_only_signs_count() -> None:
    sizes = [[1] * 4]
    expected = groundedprm(stepped([1.0], sizes, reward=[[0, 0, -1, 0]]))
    np.testing.assert_array_equal(groundedprm(stepped([1.0], sizes, reward=[[NAN, NAN, -0.3, NAN]])), expected)
    np.testing.assert_allclose(expected, [0.25, 0, -1, 1])  # (0 · 1 - 1 · 1/2) / 2 + 1/2


def test_labels_are_signs_and_0_where_simulations_cancel() -> None:
    credit = by_token([1.0, 0.0], [[1, 2], [1, 3]], [[0, 0], [0, 0]])
    assert groundedprm(credit, label=True).tolist() == [0.0, 1.0, 0.0, -1.0]


def test_a_response_that_ends_where_others_go_on_and_equal_responses() -> None:
    # The first rollout shares all it has: it began at its last step.
    credit = by_token([1.0, 0.0], [[1, 2], [1, 2, 3]], [[0, 0], [0, 0, 0]])
    np.testing.assert_allclose(groundedprm(credit), [0.9 - 0.81, 1.0 - 0.9, 0.9 - 0.81, 1.0 - 0.9, -1.0])
    # Twice the same response is the same simulation twice.
    twice = by_token([1.0, 1.0], [[1, 2, 3], [1, 2, 3]], [[0, -1, 0], [0, -1, 0]])
    np.testing.assert_allclose(groundedprm(twice), [0.0, -1.0, 1.0] * 2)
    other = by_token([1.0, 1.0], [[1, 2, 3], [1, 2, 3]], [[0, 1, 0], [0, 1, 0]])
    np.testing.assert_allclose(groundedprm(other), [4.0, 1.0, 1.0] * 2)
    np.testing.assert_allclose(groundedprm(other, pool="mean"), [2.0, 1.0, 1.0] * 2)


def test_a_step_of_several_tokens_and_tokens_in_none() -> None:
    rollouts = stepped([1.0], [[2, 2]], reward=[[0, 1]]).rollouts
    found = groundedprm(Credit(rollouts.with_columns({"step.start": [[0, 3]]})))
    np.testing.assert_allclose(found, [1.0, 1.0, 0.0, 1.0])


def test_steps_of_an_environment_change_nothing_and_get_nothing() -> None:
    bare = groundedprm(stepped([1.0], [[1] * 5], reward=[[0, 1, -1, 1, 1]]))
    mask = [[True, False, True, True, False, False, True, True]]
    credit = stepped([1.0], [[1, 1, 1, 1, 2, 1, 1]], mask=mask, reward=[[0, -1, 1, -1, NAN, 1, 1]])
    np.testing.assert_allclose(groundedprm(credit)[credit.mask], bare)
    assert not groundedprm(credit)[~credit.mask].any()


def test_groups_do_not_mix() -> None:
    tokens, checks = [[1, 2], [1, 3], [1, 2], [1, 4]], [[0.0, 1.0]] * 4
    both = groundedprm(by_token([1.0, 1.0, 0.0, 1.0], tokens, checks, groups=[0, 0, 1, 1]))
    np.testing.assert_allclose(both, [1.8, 1.0, 1.8, 1.0, 0.0, -1.0, 0.0, 1.0])


def test_empty_responses_and_what_is_missing() -> None:
    assert len(groundedprm(stepped([1.0, 0.0], [[], []], reward=[[], []]))) == 0
    assert groundedprm(stepped([1.0, 0.0], [[], [1]], reward=[[], [1]])).tolist() == [-1.0]
    with pytest.raises(DataError, match=r"step\.reward.*scorer"):
        groundedprm(stepped([0.0], [[1]]))
    with pytest.raises(DataError, match="reward"):
        groundedprm(stepped([NAN], [[1]], reward=[[1]]))
    with pytest.raises(UsageError, match="decay"):
        groundedprm(stepped([0.0], [[1]], reward=[[1]]), decay=1.5)


def oracle(
    rewards: list[float], responses: list[list[int]], checks: list[list[float]], weight: float | None
) -> list[float]:
    """The definition, a simulation at a time; a step is a token."""
    values: dict[tuple[int, ...], float] = {}
    begun: list[int] = []
    for response, reward, check in zip(responses, rewards, checks, strict=True):
        at = 0
        while at < len(response) - 1 and any(
            other != response and other[: at + 1] == response[: at + 1] for other in responses
        ):
            at += 1
        begun.append(at)
        right = 1 if reward > 0 else -1
        virtual = check[at + 1 : -1]
        count = len(virtual)
        final = sum(v * (count - j + 1) / count for j, v in enumerate(virtual, 1)) / max(count, 1)
        final += right * (1 / max(count, 1) if weight is None else weight)
        for distance in range(at + 1):
            node = tuple(response[: at - distance + 1])
            values[node] = values.get(node, 0.0) + 0.9**distance * final
    out: list[float] = []
    for response, reward, check, at in zip(responses, rewards, checks, begun, strict=True):
        for place in range(len(response)):
            if place <= at:
                out.append(values[tuple(response[: place + 1])])
            elif place == len(response) - 1:
                out.append(1.0 if reward > 0 else -1.0)
            else:
                out.append(check[place])
    return out


@pytest.mark.parametrize("weight", [None, 0.7])
@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_definition_on_random_groups(seed: int, weight: float | None) -> None:
    rng = np.random.default_rng(seed)
    responses: list[list[int]] = [rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in range(12)]
    responses[0], responses[1], responses[2] = [0, 1, 1, 2], [0, 1, 1, 2], [0, 1]
    rewards = rng.integers(0, 2, 12).astype(float).tolist()
    checks: list[list[float]] = [rng.integers(-1, 2, len(row)).astype(float).tolist() for row in responses]
    checks[1] = checks[0]
    options: dict[str, Any] = {} if weight is None else {"outcome_weight": weight}
    found = groundedprm(by_token(rewards, responses, checks), **options)
    np.testing.assert_allclose(found, oracle(rewards, responses, checks, weight), atol=1e-12)
