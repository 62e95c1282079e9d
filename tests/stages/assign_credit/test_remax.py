from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._apply import assign_to
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit

remax = METHODS["remax"].assign


def probes(
    rewards: Sequence[float | None],
    groups: Sequence[int],
    temperature: Sequence[float],
    parent: Sequence[str | None] | None = None,
    fork: Sequence[int | None] | None = None,
) -> Rollouts:
    rows = len(rewards)
    batch = rollouts_of([0.0] * rows, groups=groups).with_columns(
        {
            "rollout_id": [f"p{row}" for row in range(rows)],
            "reward": pa.array(rewards, pa.float64()),
            "purpose": ["probe"] * rows,
            "temperature": pa.array(temperature, pa.float32()),
        }
    )
    if parent is not None:
        batch = batch.with_columns(
            {"parent_id": pa.array(parent, pa.string()), "fork": pa.array(fork or [None] * rows, pa.int32())}
        )
    return batch


OWN = rollouts_of([1.0, 0.0, 0.25], groups=[0, 0, 1])


def test_the_greedy_rollouts_reward_is_the_baseline() -> None:
    found = remax(Credit(OWN, probes([0.5, 1.0], [0, 1], [0.0, 0.0])))
    assert found.tolist() == [0.5, -0.5, -0.75]


def test_several_greedy_rollouts_count_with_their_mean_and_sampled_probes_not_at_all() -> None:
    found = remax(Credit(OWN, probes([0.0, 1.0, 9.0, 1.0], [0, 0, 0, 1], [0.0, 0.0, 1.0, 0.0])))
    assert found.tolist() == [0.5, -0.5, -0.75]


def test_a_greedy_continuation_is_a_baseline_only_from_the_prompt() -> None:
    found = remax(
        Credit(
            OWN,
            probes([0.5, 9.0, 1.0], [0, 0, 1], [0.0] * 3, parent=["r0", "r1", None], fork=[0, 1, None]),
        )
    )
    assert found.tolist() == [0.5, -0.5, -0.75]


def test_a_column_instead() -> None:
    batch = OWN.with_columns({"reward_baseline": np.array([0.5, 0.5, 1.0]), "other": np.array([1.0, 1.0, 1.0])})
    assert remax(Credit(batch), baseline="column").tolist() == [0.5, -0.5, -0.75]
    assert remax(Credit(batch), baseline="column", column="other").tolist() == [0.0, -1.0, -0.75]


def test_credited_as_a_file_is_greedy_rows_get_none() -> None:
    both = Rollouts.concat(
        [OWN.slice(0, 2), probes([0.5], [0], [0.0]), OWN.slice(2, 3), probes([1.0], [1], [0.0]).slice(0, 1)]
    )
    both = both.with_columns({"rollout_id": [f"x{row}" for row in range(5)]})
    found = assign_to(both, "remax", "advantage", {}).arrow("token.advantage").to_pylist()
    assert found == [[0.5], [-0.5], None, [-0.75], None]


def test_equal_rewards_give_0_only_where_the_greedy_one_is_the_same() -> None:
    own = rollouts_of([0.7] * 12)
    assert not remax(Credit(own, probes([0.7], [0], [0.0]))).any()
    np.testing.assert_allclose(remax(Credit(own, probes([0.2], [0], [0.0]))), 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "row 0: its group has no greedy rollout .* --strategy vine"),
        (probes([0.5], [0], [0.0]), "row 2: its group has no greedy rollout"),
        (probes([0.5, 0.5], [0, 1], [0.0, 0.6]), "row 2: its group has no greedy rollout"),
        (probes([0.5, None], [0, 1], [0.0, 0.0]), "greedy rollout 'p1': no finite reward"),
    ],
)
def test_a_missing_greedy_rollout_is_an_error(given: Rollouts | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        remax(Credit(OWN, given))


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(DataError, match="no column 'reward_baseline'"):
        remax(credit_of([1.0]), baseline="column")
    batch = rollouts_of([1.0]).with_columns({"reward_baseline": np.array([np.nan])})
    with pytest.raises(DataError, match="row 0, column 'reward_baseline': expected a finite number, got nan"):
        remax(Credit(batch), baseline="column")
