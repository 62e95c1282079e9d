"""Which fork decided the reward, against numbers worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.inspect.branches import ROOT, branches_of, forks_of
from apportion.stages.structure.prefix_tree import add_prefix_tree
from typer.testing import Result


@pytest.fixture
def group() -> Rollouts:
    """Rewards 1, 0, 1, 0. All begin with 5; then 7 or 6; after 7, 9 or 8; after 9, 2 or 3."""
    tokens = [[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 4], [5, 7, 9, 3, 2]]
    return add_prefix_tree(rollouts_of([1.0, 0.0, 1.0, 0.0], tokens=tokens))


def test_forks_share_out_the_variance_of_the_reward(group: Rollouts) -> None:
    forks = forks_of(group)
    # Around the mean 1/2 the squares sum to 1. After 9: 2·(1/2)². After 5: 3·(1/3 - 1/2)² + (1 - 1/2)². After 7:
    # 2·(1/2 - 1/3)² + (0 - 1/3)².
    assert [fork.decided for fork in forks] == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert [sorted(len(branch.rows) for branch in fork.branches) for fork in forks] == [[1, 1], [1, 3], [1, 2]]


def test_a_rollout_that_ends_where_others_go_on_is_a_branch() -> None:
    group = add_prefix_tree(rollouts_of([1.0, 0.0], tokens=[[5, 7], [5, 7, 8]]))
    (fork,) = forks_of(group)
    assert fork.decided == 1
    assert [list(branch.rows) for branch in fork.branches] == [[1]]


def test_equal_rewards_decide_nothing(group: Rollouts) -> None:
    same = group.with_columns({"reward": np.full(4, 0.7)})
    assert [fork.decided for fork in forks_of(same)] == [0, 0, 0]


def test_parents_come_before_their_children(group: Rollouts) -> None:
    seen = {ROOT}
    for branch in branches_of(group).values():
        assert branch.parent in seen
        seen.add(branch.node)


def test_inspect_names_the_fork_that_decided(cli: Callable[..., Result], scored_file: Path, tmp_path: Path) -> None:
    tree, credit = tmp_path / "tree.parquet", tmp_path / "credit.parquet"
    cli("tree-build", scored_file, "-o", tree)
    cli("assign-credit", tree, "--method", "tempo", "-o", credit)
    result = cli("inspect", credit, "--no-stats")
    assert result.exit_code == 0, result.output
    table = result.stdout[result.stdout.index("decided") :].splitlines()
    assert table[1].split()[0] == "50%"
    assert table[3].split()[0] == "33%"


def test_inspect_marks_where_steps_begin(cli: Callable[..., Result], tmp_path: Path, group: Rollouts) -> None:
    from apportion.formats.parquet import write_rollouts
    from apportion.formats.provenance import Provenance

    steps = {
        "step.start": Ragged.from_lists([[0, 2], [0], [0], [0]], np.int32),
        "step.end": Ragged.from_lists([[2, 4], [4], [3], [5]], np.int32),
    }
    write_rollouts(tmp_path / "steps.parquet", [group.with_columns(steps)], Provenance())
    shown = cli("inspect", tmp_path / "steps.parquet", "--no-stats", "--no-tree").stdout
    assert shown.count("┊") == 1
