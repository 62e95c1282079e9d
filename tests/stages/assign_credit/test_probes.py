"""Probes are sampled to estimate values: they get no credit and are in no group's mean."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._apply import assign_to
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit.kind import Credit
from typer.testing import Result


def with_probes(*, parent: str = "r0", fork: float = 2) -> Rollouts:
    """Two rollouts with rewards 1 and 0, and a probe between them with reward 0 that continues one of them."""
    batch = rollouts_of([1.0, 0.0, 0.0], tokens=[[5, 7, 9], [5, 7, 8, 4], [5, 6]])
    return batch.with_columns(
        {
            "purpose": ["train", "probe", "train"],
            "parent_id": [None, parent, None],
            "fork": pa.array([None, fork, None], pa.int32()),
        }
    )


def test_a_probe_is_in_no_mean_and_has_no_credit() -> None:
    result = assign_to(with_probes(), "grpo", "advantage", {"scale": "none"})
    assert result.arrow("token.advantage").to_pylist() == [[0.5] * 3, None, [-0.5] * 2]


def test_probes_find_their_parents() -> None:
    batch = with_probes()
    own, probe = batch.take(np.array([0, 2])), batch.take(np.array([1]))
    probes = Credit(own, probe).probes
    assert (probes.parent.tolist(), probes.fork.tolist(), probes.reward.tolist()) == ([0], [2], [0.0])
    assert len(Credit(own, with_probes(parent="elsewhere").take(np.array([1]))).probes.parent) == 0


def test_a_fork_beyond_its_parent_is_bad_data() -> None:
    batch = with_probes(fork=4)
    with pytest.raises(DataError, match="fork 4 must be between 0 and 3"):
        _ = Credit(batch.take(np.array([0, 2])), batch.take(np.array([1]))).probes


def test_probes_keep_their_row_and_are_not_flagged(cli: Callable[..., Result], tmp_path: Path) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    equal = with_probes().with_columns({"reward": np.array([0.5, 1.0, 0.5])})
    write_rollouts(source, [equal], Provenance())
    result = cli("assign-credit", source, "--method", "grpo", "-o", out)
    assert result.exit_code == 0, result.output
    written = RolloutFile(out).read()
    assert written.flagged("dead_group").tolist() == [True, False, True]
    assert written.strings("rollout_id") == equal.strings("rollout_id")


def test_a_file_of_probes_alone_gets_no_credit() -> None:
    batch = rollouts_of([1.0, 0.0]).with_columns({"purpose": ["probe", "probe"]})
    assert assign_to(batch, "grpo", "advantage", {}).arrow("token.advantage").to_pylist() == [None, None]


def test_evals_alone_are_credited_as_asked() -> None:
    batch = rollouts_of([1.0, 0.0]).with_columns({"purpose": ["eval", "eval"]})
    assert assign_to(batch, "grpo", "advantage", {"scale": "none"}).arrow("token.advantage").to_pylist() == [
        [0.5],
        [-0.5],
    ]


def test_a_rollout_that_failed_is_compared_with_none() -> None:
    """Its reward of 0 says nothing of the policy: the others' credit is what it is without it."""
    whole = rollouts_of([1.0, 0.0, 0.0], tokens=[[5], [6], [7]]).with_columns({"flags": [[], ["error"], []]})
    found = assign_to(whole, "rloo", "advantage", {"singleton": "zero"})
    assert found.arrow("token.advantage").to_pylist() == [[1.0], None, [-1.0]]
