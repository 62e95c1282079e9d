"""DAPO's dynamic sampling."""

from pathlib import Path

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.stages.sample.fresh.dynamic import _dead
from apportion.stages.score.outcome.verify import verify

from .conftest import Sampled


def test_it_goes_on_until_enough_groups_are_live(sampled: Sampled) -> None:
    rollouts = sampled("dynamic", live=6, options={"prompts": 64, "n": 3})
    dead = rollouts.groups.constant(rollouts.numbers("reward"))
    assert 6 <= np.sum(~dead) <= 9, "the last batch may bring more, not many"
    assert dead.any(), "with three rollouts each some are; nothing is thrown away"
    assert len(rollouts.groups) < 64
    assert rollouts.flagged("dead_group").tolist() == rollouts.groups.spread(dead).tolist()
    assert rollouts.numbers("reward").tolist() == verify(rollouts)["reward"].tolist()


def test_its_rollouts_are_those_of_independent_sampling(sampled: Sampled) -> None:
    found = sampled("dynamic", live=4, options={"prompts": 64})
    alone = sampled("independent", options={"prompts": len(found.groups)})
    assert found.strings("rollout_id") == alone.strings("rollout_id")
    assert found.strings("text") == alone.strings("text")


def test_all_prompts_and_still_not_enough(sampled: Sampled, capsys: pytest.CaptureFixture[str]) -> None:
    rollouts = sampled("dynamic", live=50, options={"prompts": 5})
    assert len(rollouts.groups) == 5
    live = int(np.sum(~rollouts.groups.constant(rollouts.numbers("reward"))))
    assert f"dynamic: {live} of 50 groups are live after all 5 prompts" in capsys.readouterr().err


def test_what_failed_makes_no_group_live(sampled: Sampled) -> None:
    batch = sampled("independent", options={"prompts": 3, "n": 3})
    batch = batch.with_columns({"reward": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]})
    assert _dead(batch).tolist() == [False, False, True]
    assert _dead(batch.with_flag("error", np.arange(9) == 1)).tolist() == [True, False, True]
    assert _dead(batch.with_flag("error", np.arange(9) < 3)).tolist() == [True, False, True]


def test_none_is_refused(sampled: Sampled, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="strategy dynamic: live must be at least 1, got 0"):
        sampled("dynamic", live=0)
    with pytest.raises(UsageError, match="the option 'live' is required"):
        sampled("dynamic")
