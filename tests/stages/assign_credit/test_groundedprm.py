from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile
from apportion.formats.ragged import Ragged
from apportion.formats.segments import Array
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.sample import sample

groundedprm = METHODS["groundedprm"].assign

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
    assert METHODS.settle("groundedprm", {"outcome_weight": 2})["outcome_weight"] == 2.0
    assert METHODS.settle("groundedprm", {"outcome_weight": "1/N"})["outcome_weight"] == "1/N"


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
    with pytest.raises(DataError, match=r"step\.reward.*reward given for the step"):
        groundedprm(stepped([0.0], [[1]]))
    with pytest.raises(DataError, match="reward"):
        groundedprm(stepped([NAN], [[1]], reward=[[1]]))
    with pytest.raises(UsageError, match=r"decay must be between 0 and 1, got 1\.5"):
        METHODS.settle("groundedprm", {"decay": 1.5})


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


# ------------------------------------------------------------------------------------------------- a real search


def searched(out: Path, **settings: Any) -> Credit:
    """Of strategy `mcts` with the built-in policy; every round is a row."""
    sample(
        strategy="mcts", settings={"enough": 0} | settings, prompts=16, seed=3, max_tokens=40, device="cpu", out=out
    )  # fmt: skip
    return Credit(RolloutFile(out).read())


def on_steps(credit: Credit, values: Array) -> Array:
    """[S] the value on the first token of each step."""
    starts = credit.rollouts.ragged("step.start")
    return values[credit.tokens.starts[starts.segments.ids] + starts.values]


def value_of_search(credit: Credit) -> Array:
    return credit.rollouts.ragged("step.search_value").values


def final_of(checks: list[float], reward: float) -> float:
    """checks: of the virtual steps but the last."""
    count = len(checks)
    size = max(count, 1)
    return sum(v * (count - j + 1) / size for j, v in enumerate(checks, 1)) / size + (1 if reward > 0 else -1) / size


def test_the_credit_of_a_search_is_what_it_ended_with(tmp_path: Path) -> None:
    credit = searched(tmp_path / "rows", rounds=8)
    found = groundedprm(credit)
    np.testing.assert_array_equal(on_steps(credit, found), value_of_search(credit))
    np.testing.assert_array_equal(groundedprm(credit, tree="search"), found)
    labels = groundedprm(credit, label=True)
    assert set(labels) <= {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(on_steps(credit, labels), np.sign(value_of_search(credit).round(9)))


def test_a_search_leaves_sums_that_grow_with_its_rounds_or_means(tmp_path: Path) -> None:
    total, mean = (searched(tmp_path / pool, rounds=8, pool=pool) for pool in ("sum", "mean"))
    assert total.rollouts.strings("text") == mean.rollouts.strings("text")  # the search itself is the same
    sums, means = value_of_search(total), value_of_search(mean)
    assert np.abs(sums).max() > 3
    assert np.abs(means).max() <= 2
    np.testing.assert_array_equal(on_steps(mean, groundedprm(mean)), means)
    # Of a group's rows that begin with the same step, each is a simulation below it, unless the step was sampled twice.
    ids, ends = total.rollouts.token_ids, total.rollouts.ragged("step.end")
    begun = [
        (group, tuple(ids[row][: ends[row][0]])) if len(ends[row]) else None
        for row, group in enumerate(total.groups.ids.tolist())
    ]
    first = ends.segments.starts
    counted: list[bool] = []
    for row, step in enumerate(begun):
        if step is not None and means[first[row]]:
            number = float(sums[first[row]] / means[first[row]])
            assert number == pytest.approx(round(number))
            assert 1 <= round(number) <= begun.count(step)
            counted.append(round(number) == begun.count(step) > 1)
    assert any(counted)  # this policy often draws the same step again


def test_a_sum_grows_with_the_number_of_rollouts_and_a_mean_does_not() -> None:
    tokens = [[1, at, 3, 4] for at in range(10, 26)]
    few, many = (by_token([1.0] * count, tokens[:count], [[0.0, 1, 1, 1]] * count) for count in (2, 16))
    assert groundedprm(many)[0] == pytest.approx(8 * groundedprm(few)[0])
    assert groundedprm(many, pool="mean")[0] == pytest.approx(groundedprm(few, pool="mean")[0])


def test_a_search_of_one_round_can_be_read_from_its_rollouts(tmp_path: Path) -> None:
    credit = searched(tmp_path / "rows", rounds=1)
    np.testing.assert_allclose(
        on_steps(credit, groundedprm(credit, tree="rollouts")), value_of_search(credit), atol=1e-12
    )


def test_a_search_of_more_rounds_cannot_since_what_it_went_on_from_is_shared(tmp_path: Path) -> None:
    """Two rounds of one next step each: the first simulation began at step 0, the second at a step below it.

    Read from the rollouts the first began at step 1, the first that it does not share: its step 1 is not virtual.
    """
    credit = searched(tmp_path / "rows", rounds=2, children=1, select="random_child")
    read, values = (
        [each.tolist() for each in np.split(of_steps, credit.rollouts.ragged("step.start").offsets[1:-1])]
        for of_steps in (on_steps(credit, groundedprm(credit, tree="rollouts")), value_of_search(credit))
    )
    rows = credit.rollouts.table.to_pylist()
    looked_at = 0
    for place in range(0, len(rows), 2):
        first, second = rows[place : place + 2]
        assert second["fork"] == first["step"]["end"][0]
        checks, others = first["step"]["reward"], second["step"]["reward"]
        first_steps, second_steps = (
            each["token"]["id"][: each["step"]["end"][1]] if len(each["step"]["end"]) > 1 else []
            for each in (first, second)
        )
        if len(checks) < 3 or first_steps == second_steps:
            continue  # nothing is virtual but the last step, or the next step is the same by chance
        looked_at += 1
        below = final_of(others[2:-1], second["reward"])
        assert values[place][0] == pytest.approx(final_of(checks[1:-1], first["reward"]) + 0.9 * below)
        assert values[place][1] == checks[1]
        late = final_of(checks[2:-1], first["reward"])
        assert read[place][0] == pytest.approx(0.9 * late + 0.9 * below)
        assert read[place][1] == pytest.approx(late)
        assert read[place + 1][1] == values[place + 1][1] == pytest.approx(below)
    assert looked_at > 2


def test_what_the_search_decided_is_not_decided_again(tmp_path: Path) -> None:
    credit = searched(tmp_path / "rows", rounds=2)
    options: list[dict[str, Any]] = [{"decay": 0.5}, {"outcome_weight": 1.0}, {"correct_above": 0.5}, {"pool": "mean"}]
    for option in options:
        (name,) = option
        with pytest.raises(
            UsageError, match=rf"credit method groundedprm: {name} .* leave it out, or --set tree=rollouts"
        ):
            groundedprm(credit, **option)
        groundedprm(credit, tree="rollouts", **option)
    with pytest.raises(
        DataError,
        match=r"no column 'step\.search_value', which groundedprm needs; run `apportion sample --strategy mcts",
    ):
        groundedprm(stepped([1.0], [[1]], reward=[[1]]), tree="search")
    values = credit.rollouts.ragged("step.search_value")
    lists = [values[row].tolist() for row in range(len(credit.rollouts))]
    lists[1] = lists[1][:-1]
    other = Credit(credit.rollouts.with_columns({"step.search_value": Ragged.from_lists(lists, np.float64)}))
    with pytest.raises(DataError, match=r"row 1, column 'step\.search_value': 4 values for 5 steps; run .*mcts"):
        groundedprm(other)
