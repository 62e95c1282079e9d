"""Trees that fork at fixed depths."""

import numpy as np
import pytest
from apportion.formats.errors import UsageError

from .conftest import Sampled, check_branches, check_logprobs


def test_every_response_that_goes_on_splits_at_every_depth(sampled: Sampled) -> None:
    rollouts = sampled("branch_schedule", factors=[2, 3, 2], length=4)
    assert rollouts.groups.sizes.tolist() == [12, 12, 12]
    assert set(rollouts.table.column("fork").drop_null().to_pylist()) == {4, 8}
    check_branches(rollouts)
    check_logprobs(rollouts)


def test_a_response_that_ends_early_is_a_leaf(sampled: Sampled) -> None:
    rollouts = sampled("branch_schedule", factors=[3, 2], length=20)
    assert (rollouts.groups.sizes < 6).any()
    ended = np.flatnonzero(rollouts.tokens.sizes <= 20)
    assert len(ended)
    forks = rollouts.table.column("fork").to_pylist()
    parents = rollouts.table.column("parent_id").to_pylist()
    names = rollouts.strings("rollout_id")
    for row in ended.tolist():
        assert rollouts.strings("finish_reason")[row] == "stop"
        assert forks[row] is None
        assert names[row] not in parents
    check_branches(rollouts)


def test_one_factor_is_independent_sampling(sampled: Sampled) -> None:
    trees, alone = sampled("branch_schedule", factors=[4]), sampled("independent")
    assert trees.strings("text") == alone.strings("text")
    assert trees.strings("rollout_id") == alone.strings("rollout_id")


def test_the_budget_is_that_of_the_whole_response(sampled: Sampled) -> None:
    rollouts = sampled("branch_schedule", factors=[2, 2, 2], length=5, options={"max_tokens": 10})
    assert rollouts.tokens.sizes.max() == 10
    assert rollouts.groups.sizes.max() == 4, "nothing is left to split at 10"


@pytest.mark.parametrize("settings", [{"length": 0}, {"factors": [2, 0]}, {"factors": []}], ids=str)
def test_less_than_one_is_refused(sampled: Sampled, settings: dict[str, object]) -> None:
    with pytest.raises(
        UsageError,
        match=r"strategy branch_schedule: (length|factors) must (be at least 1, got 0|name at least one number)",
    ):
        sampled("branch_schedule", **settings)
