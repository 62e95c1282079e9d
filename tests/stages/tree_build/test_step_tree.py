"""Trees of steps, and states."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.invariants import broken_invariants
from apportion.formats.parquet import RolloutFile
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.tree_build.state_groups import add_state_groups
from apportion.stages.tree_build.step_tree import add_step_tree
from typer.testing import Result


def stepped(tokens: list[list[int]], spans: list[list[tuple[int, int]]], groups: list[int] | None = None) -> Rollouts:
    return rollouts_of([0.0] * len(tokens), tokens=tokens, groups=groups).with_columns(
        {
            f"step.{leaf}": Ragged.from_lists([[span[place] for span in row] for row in spans], np.int32)
            for place, leaf in enumerate(("start", "end"))
        }
    )


def paths(*given: object) -> list[dict]:
    tree = add_step_tree(stepped(*given))  # type: ignore[arg-type]
    assert list(broken_invariants(tree)) == []
    return tree.table.column("node").to_pylist()


def test_a_node_is_a_step_and_chains_stay() -> None:
    assert paths([[1, 2, 3, 4], [1, 2, 3, 5], [9]], [[(0, 1), (1, 3), (3, 4)], [(0, 1), (1, 3), (3, 4)], [(0, 1)]]) == [
        {"id": [0, 2, 3], "start": [0, 1, 3], "end": [1, 3, 4], "visits": [2, 2, 1]},
        {"id": [0, 2, 4], "start": [0, 1, 3], "end": [1, 3, 4], "visits": [2, 2, 1]},
        {"id": [1], "start": [0], "end": [1], "visits": [1]},
    ]


def test_the_same_tokens_cut_elsewhere_are_other_steps() -> None:
    """After two tokens both have a node that ends there; the ways to it differ."""
    found = paths([[1, 2, 3], [1, 2, 3]], [[(0, 1), (1, 2), (2, 3)], [(0, 2), (2, 3)]])
    assert [row["visits"] for row in found] == [[1, 1, 1], [1, 1]]


def test_what_an_environment_wrote_belongs_to_the_next_step_and_at_the_end_to_the_last() -> None:
    found = paths([[1, 90, 2, 91], [1, 90, 3], [90, 90]], [[(0, 1), (2, 3)], [(0, 1), (2, 3)], []])
    assert [(row["start"], row["end"]) for row in found] == [([0, 1], [1, 4]), ([0, 1], [1, 3]), ([0], [2])]


def test_empty_responses_have_empty_paths() -> None:
    assert paths([[], [4]], [[], [(0, 1)]])[0] == {"id": [], "start": [], "end": [], "visits": []}


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_a_dictionary_of_step_sequences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 3, 14)).tolist()
    tokens = [rng.integers(1, 3, rng.integers(0, 8)).tolist() for _ in groups]
    spans = []
    for row in tokens:
        cuts = sorted({0, len(row), *rng.integers(0, len(row) + 1, 2).tolist()})
        spans.append(list(itertools.pairwise(cuts)))
    found = paths(tokens, spans, groups)
    seen: dict[tuple, list[int]] = {}
    for row, (group, ids, steps) in enumerate(zip(groups, tokens, spans, strict=True)):
        for depth in range(len(steps)):
            way = tuple(tuple(ids[begin:end]) for begin, end in steps[: depth + 1])
            seen.setdefault((group, way), []).append(row)
    by_node: dict[tuple[int, int], list[int]] = {}
    for row, path in enumerate(found):
        assert path["visits"] == [
            len(seen[groups[row], tuple(tuple(tokens[row][b:e]) for b, e in spans[row][: depth + 1])])
            for depth in range(len(spans[row]))
        ]
        assert path["id"] == sorted(path["id"]), "parents come before children"
        for node in path["id"]:
            by_node.setdefault((groups[row], node), []).append(row)
    assert sorted(by_node.values()) == sorted(seen.values())
    for group in set(groups):
        mine = {node for of, node in by_node if of == group}
        assert mine == set(range(len(mine)))


def test_states_are_numbered_in_their_group_as_they_are_met() -> None:
    batch = stepped([[1, 2], [3, 4], [5, 6]], [[(0, 1), (1, 2)]] * 3, [0, 0, 1]).with_columns(
        {"step.state": [["door", "hall"], ["hall", "door"], ["hall", "hall"]]}
    )
    step = add_state_groups(batch).table.column("step").combine_chunks()
    assert step.field("state_id").to_pylist() == [[0, 1], [1, 0], [0, 0]]
    assert step.field("state_visits").to_pylist() == [[2, 2], [2, 2], [2, 2]]
    with pytest.raises(DataError, match=r"row 1, column 'step.state': a step without a state"):
        add_state_groups(batch.with_columns({"step.state": [["door", "hall"], ["hall", None], ["hall", "hall"]]}))


def test_the_command(chain: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    rollouts = chain / "rollouts.parquet"
    for by, missing in (("step", "step.start"), ("state", "step.start")):
        fault = cli("tree-build", rollouts, "--by", by, "-o", tmp_path / "no")
        assert fault.exit_code == 3
        assert f"no column '{missing}', which --by {by} needs" in fault.stderr
        assert not (tmp_path / "no").exists()
    steps, states, tree, both = (tmp_path / name for name in ("steps", "states", "tree", "both"))
    for line in (
        ["score", rollouts, "--with", "steps", "-o", steps],
        ["score", steps, "--with", "states", "--set", "window=line", "-o", states],
        ["tree-build", states, "--by", "step", "-o", tree],
        ["tree-build", tree, "--by", "state", "-o", both],
        ["validate", both],
    ):
        result = cli(*line)
        assert result.exit_code == 0, result.output
    found = RolloutFile(both).read()
    assert (found.ragged("node.id").segments.sizes == found.ragged("step.start").segments.sizes).all()
    assert found.ragged("node.visits").values.max() > 1
    assert found.ragged("step.state_visits").values.max() > 1
    assert RolloutFile(both).provenance.history[-1].parameters == {"by": "state"}
    by_token = tmp_path / "token"
    assert cli("tree-build", states, "-o", by_token).exit_code == 0
    assert len(np.unique(RolloutFile(by_token).read().ragged("node.id").values)) > 1
