"""EPTree: trees that fork before their most uncertain tokens."""

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.segments import Segments
from apportion.stages.models.policy import load_tokenizer

from .conftest import Sampled, check_branches, check_logprobs


def test_the_number_of_rollouts_is_the_papers(sampled: Sampled) -> None:
    rollouts = sampled("branch", initial=6, forks=2, rounds=1, continuations=2)
    assert rollouts.groups.sizes.tolist() == [30, 30, 30]
    check_branches(rollouts)
    check_logprobs(rollouts)


def test_it_forks_before_the_most_surprising_tokens_of_each_tree(sampled: Sampled) -> None:
    rollouts = sampled("branch", initial=2, forks=3, rounds=1, continuations=1, not_after=[])
    parents, forks = rollouts.table.column("parent_id").to_pylist(), rollouts.table.column("fork").to_pylist()
    names, logprob = rollouts.strings("rollout_id"), rollouts.ragged("token.logprob")
    for row, name in enumerate(names):
        chosen = {fork for parent, fork in zip(parents, forks, strict=True) if parent == name}
        if parents[row] is None:
            expected = np.argsort(logprob[row], kind="stable")[:3]
            assert chosen == set(expected.tolist())
        else:
            assert not chosen


def test_rounds_go_on_from_branches_and_never_from_their_first_token(sampled: Sampled) -> None:
    rollouts = sampled("branch", initial=1, forks=2, rounds=3, continuations=2, not_after=[])
    assert rollouts.groups.sizes.tolist() == [13, 13, 13]
    check_branches(rollouts)
    parents, forks = rollouts.table.column("parent_id").to_pylist(), rollouts.table.column("fork").to_pylist()
    fork_of = dict(zip(rollouts.strings("rollout_id"), forks, strict=True))
    pairs = [(parent, fork) for parent, fork in zip(parents, forks, strict=True) if parent is not None]
    second = [(parent, fork) for parent, fork in pairs if fork_of[parent] is not None]
    assert second, "some branch was branched from"
    assert all(fork > fork_of[parent] for parent, fork in second)
    assert all(count == 2 for count in np.unique(pairs, axis=0, return_counts=True)[1]), "no token is chosen twice"


def test_no_fork_behind_a_token_that_holds_a_word(sampled: Sampled) -> None:
    anywhere = sampled("branch", initial=3, forks=3, continuations=1, not_after=[])
    before = sampled("branch", initial=3, forks=3, continuations=1, not_after=["="])
    tokenizer = load_tokenizer("builtin:tiny")
    rows = {name: row for row, name in enumerate(before.strings("rollout_id"))}
    branched = [
        (rows[parent], fork)
        for parent, fork in zip(
            before.table.column("parent_id").to_pylist(), before.table.column("fork").to_pylist(), strict=True
        )
        if parent is not None
    ]
    assert branched
    for row, fork in branched:
        assert "=" not in tokenizer.decode(before.token_ids[row][:fork])
    assert max(anywhere.table.column("fork").drop_null().to_pylist()) > max(fork for _, fork in branched)


def test_the_first_responses_are_those_of_independent_sampling(sampled: Sampled) -> None:
    trees = sampled("branch", initial=4, forks=1, rounds=1, continuations=1)
    alone = sampled("independent")
    own = np.flatnonzero(np.array([parent is None for parent in trees.table.column("parent_id").to_pylist()]))
    assert trees.take(own).strings("text") == alone.strings("text")
    assert Segments.of_runs(np.array(trees.strings("group_id"))).sizes.tolist() == [8, 8, 8]


def test_the_same_seed_makes_the_same_trees(sampled: Sampled) -> None:
    first, second = sampled("branch", initial=2), sampled("branch", initial=2)
    assert first.table.equals(second.table)
    assert not first.table.equals(sampled("branch", initial=2, options={"seed": 4}).table)


def test_parts_of_the_file_are_what_the_whole_is(sampled: Sampled) -> None:
    assert sampled("branch", initial=2, rows_at_once=1).strings("text") == sampled("branch", initial=2).strings("text")


@pytest.mark.parametrize("name", ["initial", "forks", "rounds", "continuations"])
def test_less_than_one_is_refused(sampled: Sampled, name: str) -> None:
    with pytest.raises(UsageError, match=f"strategy branch: {name} must be at least 1, got 0"):
        sampled("branch", **{name: 0})


def test_greedy_or_not_trees_keep_the_budget(sampled: Sampled) -> None:
    rollouts = sampled("branch", initial=2, options={"max_tokens": 9})
    assert rollouts.tokens.sizes.max() == 9
    full = zip(rollouts.table["flags"].to_pylist(), rollouts.tokens.sizes, strict=True)
    assert all("truncated" in flags for flags, size in full if size == 9)
