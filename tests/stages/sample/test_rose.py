"""ROSE's sampling: where it branches, and the metric it branches by."""

from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.stages.models.engine import Alternatives
from apportion.stages.sample.trees._uncertainty import candidate_metric

from .conftest import Sampled, check_branches, check_logprobs

PLANE = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])


def metric(name: Any, ids: list[int], p: list[float]) -> float:
    alternatives = Alternatives(np.array([ids], np.int32), np.log(np.array([p], np.float32)))
    return float(candidate_metric(alternatives, name, PLANE)[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("entropy", 0.897946), ("cosine", 0.12), ("rose", 0.107753), ("rose_paper", -0.305302), ("rao", 0.592644)],
)
def test_the_metrics_worked_example(name: str, expected: float) -> None:
    assert metric(name, [0, 1, 2], [0.6, 0.3, 0.1]) == pytest.approx(expected, abs=1e-5)


def test_similar_candidates_are_below_a_certain_one_in_the_released_code() -> None:
    assert metric("rose", [0, 3, 4], [0.6, 0.3, 0.1]) == pytest.approx(-0.374982, abs=1e-5)
    assert metric("rose", [0, 1], [1.0, 1e-30]) == pytest.approx(0, abs=1e-6)
    assert metric("rao", [0, 3, 4], [0.6, 0.3, 0.1]) > metric("rao", [0, 1], [1.0, 1e-30])


def test_one_candidate_is_never_chosen() -> None:
    alternatives = Alternatives(np.array([[0, -1]], np.int32), np.array([[0.0, -np.inf]], np.float32))
    assert candidate_metric(alternatives, "rose", PLANE).tolist() == [-np.inf]


def test_epsilon_one_is_independent_sampling(sampled: Sampled) -> None:
    restarted = sampled("rose", epsilon=1.0)
    assert restarted.strings("text") == sampled("independent").strings("text")
    assert restarted.table.column("parent_id").null_count == len(restarted)


def test_without_epsilon_all_but_the_first_leave_another(sampled: Sampled) -> None:
    rollouts = sampled("rose", epsilon=0.0, metric="rao")
    assert rollouts.groups.sizes.tolist() == [4, 4, 4]
    parents = rollouts.table.column("parent_id").to_pylist()
    assert [parent is None for parent in parents] == [True, False, False, False] * 3
    check_branches(rollouts)
    check_logprobs(rollouts)


def test_it_leaves_where_the_metric_is_largest(sampled: Sampled) -> None:
    rollouts = sampled("rose", epsilon=0.0, metric="surprisal", options={"n": 2})
    logprob, forks = rollouts.ragged("token.logprob"), rollouts.table.column("fork").to_pylist()
    assert [forks[row] for row in (1, 3, 5)] == [int(np.argmin(logprob[row])) for row in (0, 2, 4)]


def test_a_place_may_be_taken_once_only(sampled: Sampled) -> None:
    def places(**settings: Any) -> list[tuple[str, int]]:
        rollouts = sampled("rose", epsilon=0.0, metric="surprisal", options={"n": 8}, **settings)
        pairs = zip(
            rollouts.table.column("parent_id").to_pylist(), rollouts.table.column("fork").to_pylist(), strict=True
        )
        return [pair for pair in pairs if pair[0] is not None]

    once = places(exclude_used=True)
    assert len(set(once)) == len(once)
    assert len(set(places())) < len(places())


@pytest.mark.parametrize(("settings", "message"), [
    ({"epsilon": 1.5}, "strategy rose: epsilon must be between 0 and 1, got 1.5"),
    ({"top": 0}, "strategy rose: top must be at least 1, got 0"),
    ({"metric": "semantic"}, "strategy rose: metric"),
])  # fmt: skip
def test_bad_options_are_refused(sampled: Sampled, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sampled("rose", **settings)
