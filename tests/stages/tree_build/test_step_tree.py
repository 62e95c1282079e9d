"""Trees of steps, and states."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.invariants import broken_invariants
from apportion.formats.parquet import RolloutFile
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.structure.state_groups import add_state_groups
from apportion.stages.structure.step_tree import add_step_tree
from typer.testing import Result

gigpo = METHODS["gigpo"].assign


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


@pytest.mark.parametrize("seed", range(8))
def test_gaps_and_empty_steps(seed: int) -> None:
    """A node is what ends with its step; steps may leave tokens out, or have none."""
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 3, 10)).tolist()
    tokens = [rng.integers(1, 3, rng.integers(0, 7)).tolist() for _ in groups]
    spans = []
    for row in tokens:
        cuts = np.sort(rng.integers(0, len(row) + 1, 2 * rng.integers(0, 4))).tolist()
        spans.append(list(zip(cuts[::2], cuts[1::2], strict=True)))
    seen: dict[tuple, set[int]] = {}
    expected: list[list[tuple]] = []
    for row, (group, ids, steps) in enumerate(zip(groups, tokens, spans, strict=True)):
        ends = [*(end for _, end in steps[:-1]), len(ids)] if ids else []
        expected.append([(group, tuple(ends[: at + 1]), tuple(ids[:end])) for at, end in enumerate(ends)])
        for node in expected[-1]:
            seen.setdefault(node, set()).add(row)
    found = paths(tokens, spans, groups)
    assert [row["visits"] for row in found] == [[len(seen[node]) for node in path] for path in expected]
    pairs = {
        (node, number)
        for path, row in zip(expected, found, strict=True)
        for node, number in zip(path, row["id"], strict=True)
    }
    assert len(pairs) == len({node for node, _ in pairs}) == len({(node[0], number) for node, number in pairs})


@pytest.mark.parametrize("seed", range(8))
def test_states_agree_with_a_dictionary_and_with_what_gigpo_compares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 3, 8)).tolist()
    states = [[f"s{each}" for each in rng.integers(0, 3, rng.integers(0, 4))] for _ in groups]
    batch = stepped(
        [[1] * len(row) for row in states], [[(at, at + 1) for at in range(len(row))] for row in states], groups
    )
    batch = batch.with_columns(
        {"step.state": pa.array(states, pa.list_(pa.string())), "reward": rng.random(len(groups))}
    )
    numbers: dict[int, dict[str, int]] = {}
    met = [(group, state) for group, row in zip(groups, states, strict=True) for state in row]
    for group, state in met:
        of_group = numbers.setdefault(group, {})
        of_group.setdefault(state, len(of_group))
    step = add_state_groups(batch).table.column("step").combine_chunks()
    expected = [[numbers[group][state] for state in row] for group, row in zip(groups, states, strict=True)]
    assert step.field("state_id").to_pylist() == expected
    assert step.field("state_visits").to_pylist() == [
        [met.count((group, state)) for state in row] for group, row in zip(groups, states, strict=True)
    ]
    by_number = batch.with_columns({"step.state": [[str(number) for number in row] for row in expected]})
    np.testing.assert_array_equal(gigpo(Credit(batch)), gigpo(Credit(by_number)))


def test_a_rollout_without_states_has_no_state_ids() -> None:
    spans = pa.array([None, [0]], pa.list_(pa.int32()))
    batch = rollouts_of([0.0, 0.0], tokens=[[1], [2]]).with_columns(
        {"step.start": spans, "step.end": spans, "step.state": pa.array([None, ["a"]], pa.list_(pa.string()))}
    )
    step = add_state_groups(batch).table.column("step").combine_chunks()
    assert step.field("state_id").to_pylist() == [None, [0]]
    with pytest.raises(DataError, match=r"row 0, column 'step\.end': missing, expected its steps"):
        add_step_tree(batch)


def test_the_command_in_a_pipe(chain: Path, tmp_path: Path) -> None:
    apportion = f"{sys.executable} -m apportion"
    line = (
        f"{apportion} score {chain}/rollouts.parquet --with steps -o - | {apportion} tree-build - --by step -o -"
        f" > {tmp_path}/piped"
    )
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    found = RolloutFile(tmp_path / "piped").read()
    assert list(broken_invariants(found)) == []
    assert (found.ragged("node.id").segments.sizes == found.ragged("step.start").segments.sizes).all()


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
