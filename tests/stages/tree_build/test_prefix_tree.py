import numpy as np
import pytest
from apportion.formats.invariants import broken_invariants
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.structure.prefix_tree import add_prefix_tree


def paths(tokens: list[list[int]], groups: list[int] | None = None) -> list[dict]:
    tree = add_prefix_tree(rollouts_of([0.0] * len(tokens), tokens=tokens, groups=groups))
    assert list(broken_invariants(tree)) == []
    return tree.table.column("node").to_pylist()


def test_a_node_is_a_run_of_tokens_that_the_same_rollouts_pass_through() -> None:
    assert paths([[5, 7, 9], [5, 7, 8], [5, 7, 9, 1]]) == [
        {"id": [0, 2], "start": [0, 2], "end": [2, 3], "visits": [3, 2]},
        {"id": [0, 1], "start": [0, 2], "end": [2, 3], "visits": [3, 1]},
        {"id": [0, 2, 3], "start": [0, 2, 3], "end": [2, 3, 4], "visits": [3, 2, 1]},
    ]


def test_groups_have_trees_of_their_own() -> None:
    assert paths([[1], [1], [1]], groups=[0, 0, 1]) == [
        {"id": [0], "start": [0], "end": [1], "visits": [2]},
        {"id": [0], "start": [0], "end": [1], "visits": [2]},
        {"id": [0], "start": [0], "end": [1], "visits": [1]},
    ]


def test_an_empty_response_has_an_empty_path() -> None:
    assert paths([[], [4]])[0] == {"id": [], "start": [], "end": [], "visits": []}
    assert paths([[], []])[1] == {"id": [], "start": [], "end": [], "visits": []}


def test_token_ids_sort_by_value_not_by_their_little_endian_bytes() -> None:
    assert [row["visits"] for row in paths([[256, 1], [1, 1], [256, 2]])] == [[2, 1], [1], [2, 1]]


@pytest.mark.parametrize("at", [31, 32, 95, 96, 127, 128, 129, 500])
def test_responses_that_agree_for_long_part_where_they_part(at: int) -> None:
    """Around where one stretch of the comparison ends, and the beginnings that decide the order."""
    tokens = [[1] * at + [3, 9], [1] * at + [2], [1] * at + [3, 8], [1] * at]
    assert [row["visits"] for row in paths(tokens)] == [[4, 2, 1], [4, 1], [4, 2, 1], [4]]
    assert [row["end"] for row in paths(tokens)] == [[at, at + 1, at + 2], [at, at + 1], [at, at + 1, at + 2], [at]]


@pytest.mark.parametrize("seed", range(30))
def test_agrees_with_counting_every_prefix_in_a_dictionary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 4, 24))
    tokens = [rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in groups]
    visits: dict[tuple, int] = {}
    for group, response in zip(groups.tolist(), tokens, strict=True):
        for length in range(1, len(response) + 1):
            key = (group, *response[:length])
            visits[key] = visits.get(key, 0) + 1
    for group, response, path in zip(groups.tolist(), tokens, paths(tokens, groups.tolist()), strict=True):
        per_token = [v for v, a, b in zip(path["visits"], path["start"], path["end"], strict=True) for _ in range(a, b)]
        assert per_token == [visits[(group, *response[: t + 1])] for t in range(len(response))]
