from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._probe_examples import probed, probed_rollouts
from apportion.stages.assign_credit.kind import METHODS, Credit
from typer.testing import Result

vineppo = METHODS["vineppo"].assign

# methods A, VinePPO: K = 4 outcomes before each of 3 steps, R = 1, so V = 0.5, 0.75, 0.25.
OUTCOMES = {(0, 0): [1, 0, 0, 1], (0, 2): [1, 1, 0, 1], (0, 3): [0, 0, 0, 1]}
TOKENS, STEPS = [[5, 6, 7, 8, 9]], [[0, 2, 3]]


def test_worked_example() -> None:
    found = vineppo(probed([1.0], TOKENS, OUTCOMES, steps=STEPS))
    np.testing.assert_allclose(found, [0.25, 0.25, -0.5, 0.75, 0.75])


def test_steps_after_the_last_that_was_measured_get_nothing() -> None:
    found = vineppo(probed([1.0], TOKENS, {(0, 0): [1, 0]}, steps=STEPS))
    np.testing.assert_allclose(found, [0.5, 0.5, 0, 0, 0])


def test_a_state_that_was_not_measured_has_the_value_of_the_next() -> None:
    found = vineppo(probed([1.0], TOKENS, {(0, 0): [0], (0, 3): [0, 1]}, steps=STEPS))
    np.testing.assert_allclose(found, [0.5, 0.5, 0, 0.5, 0.5])


def test_equal_prefixes_are_one_state() -> None:
    # Both begin with 5; the state after it was measured once through each parent: V = (1 + 0 + 0 + 0) / 4 for both.
    tokens, outcomes = [[5, 6], [5, 7]], {(0, 0): [0], (0, 1): [1, 0], (1, 1): [0, 0]}
    np.testing.assert_allclose(vineppo(probed([1.0, 0.0], tokens, outcomes)), [0.25, 0.75, 0.25, -0.25])


def test_equal_prefixes_of_other_groups_are_other_states() -> None:
    outcomes = {(0, 0): [1], (0, 1): [1], (1, 0): [0], (1, 1): [0]}
    found = vineppo(probed([1.0, 1.0], [[5, 6], [5, 6]], outcomes, groups=[0, 1]))
    np.testing.assert_allclose(found, [0, 0, 0, 1])


def test_a_probe_cut_by_the_limit_counts_as_asked() -> None:
    own, probes = probed_rollouts([1.0], [[5]], {(0, 0): [1.0, 1.0]})
    probes = probes.with_columns({"flags": [["truncated"], []]})
    credit = Credit(own, probes)
    assert vineppo(credit).tolist() == [0.5]
    assert vineppo(credit, truncated=-1.0).tolist() == [1.0]
    assert vineppo(credit, truncated=None).tolist() == [0.0]


def test_whitened_over_policy_tokens() -> None:
    credit = probed([1.0], [[5, 6, 7]], {(0, 0): [0], (0, 1): [1], (0, 2): [0]}, mask=[[True, False, True]])
    np.testing.assert_allclose(vineppo(credit, whiten="none"), [1, 0, 1])
    assert not vineppo(credit, whiten="batch").any()
    credit = probed([1.0], TOKENS, OUTCOMES, steps=STEPS)
    found = vineppo(credit, whiten="batch")
    np.testing.assert_allclose([found.mean(), found.std(ddof=1)], [0, 1], atol=1e-6)


def test_environment_tokens_change_no_other_credit() -> None:
    holed = probed(
        [1.0], [[5, 6, 1, 1, 7, 8, 9]], {(0, 0): [1, 0, 0, 1], (0, 2): [1, 1, 0, 1], (0, 5): [0, 0, 0, 1]},
        steps=[[0, 2, 5]], mask=[[True, True, False, False, True, True, True]],
    )  # fmt: skip
    np.testing.assert_allclose(vineppo(holed), [0.25, 0.25, 0, 0, -0.5, 0.75, 0.75])


def test_an_empty_response_takes_no_part() -> None:
    credit = probed([1.0, 0.0], [[5], []], {(0, 0): [0]}, steps=[[0], []])
    assert vineppo(credit).tolist() == [1.0]


def test_equal_rewards_everywhere_give_zero() -> None:
    assert not vineppo(probed([1.0] * 2, [[5, 6], [7]], {(0, 0): [1], (0, 1): [1], (1, 0): [1]})).any()


def test_without_probes_it_says_what_makes_them() -> None:
    with pytest.raises(DataError, match="sample --from IN --strategy vine"):
        vineppo(probed([1.0], [[5]], {}))


def test_the_rollouts_of_a_file_get_credit_and_its_probes_none(cli: Callable[..., Result], tmp_path: Path) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    write_rollouts(source, [Rollouts.concat(list(probed_rollouts([1.0], TOKENS, OUTCOMES, steps=STEPS)))], Provenance())
    result = cli("assign-credit", source, "--method", "vineppo", "-o", out)
    assert result.exit_code == 0, result.output
    assert (
        RolloutFile(out).read().arrow("token.advantage").to_pylist() == [[0.25, 0.25, -0.5, 0.75, 0.75]] + [None] * 12
    )


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_definition_on_random_rollouts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in range(8)]
    steps = [sorted({0, *rng.integers(0, len(row), 3).tolist()}) if row else [] for row in tokens]
    rewards = rng.integers(0, 2, 8).astype(float).tolist()
    outcomes = {
        (row, start): rng.integers(0, 2, 3).astype(float).tolist()
        for row, starts in enumerate(steps)
        for start in starts
        if rng.random() < 0.7
    }
    outcomes |= {(0, 0): [1.0]}
    pooled: dict[tuple[int, ...], list[float]] = {}
    for (row, start), each in outcomes.items():
        pooled.setdefault(tuple(tokens[row][:start]), []).extend(each)
    expected: list[float] = []
    for row, starts in enumerate(steps):
        following, credits = rewards[row], [0.0] * len(tokens[row])
        for start, end in reversed(list(pairwise([*starts, len(tokens[row])]))):
            value = np.mean(pooled[tuple(tokens[row][:start])]) if tuple(tokens[row][:start]) in pooled else following
            credits[start:end] = [float(following - value)] * (end - start)
            following = float(value)
        expected += credits
    found = vineppo(probed(rewards, tokens, outcomes, steps=steps))
    np.testing.assert_allclose(found, expected, atol=1e-12)
