"""What to run for a column that is missing follows from what entries say that they make."""

import numpy as np
import pytest
from apportion.formats.flags import ALONE, FLAGS, NOT_OWN, NOT_REVISED, UNTRAINED, UNVERIFIED
from apportion.formats.schema import Field
from apportion.stages.core.kinds import kinds
from apportion.stages.core.remedies import makers_of, remedy
from apportion.stages.score.kind import SCORERS, scorer


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("reward", "run `apportion score IN --with verify -o OUT` first"),
        ("node.id", "run `apportion tree-build IN -o OUT` first"),
        ("step.start", "run `apportion score IN --with steps -o OUT` first"),
        ("parent_id", "run `apportion sample --from IN --strategy vine -o OUT` first"),
        ("token.entropy", "run `apportion score IN --with entropy -o OUT` first"),
        ("pair_id", "run `apportion sample --from IN --strategy inject_errors -o OUT` first"),
        ("rewards.NAME", "run `apportion score IN --with pattern --set regex=REGEX -o OUT` first"),
        ("token.advantage_mine", "run `apportion assign-credit IN --method NAME --as advantage_mine -o OUT` first"),
        ("nothing.such", "add it; no command of apportion makes it"),
    ],
)
def test_what_to_run(path: str, expected: str) -> None:
    assert remedy(path) == expected


def test_many_makers_are_counted_and_not_listed() -> None:
    assert remedy("token.advantage").endswith("`apportion list methods` has the names")


def test_a_new_entry_is_a_remedy_for_what_it_makes() -> None:
    @scorer(needs=(), makes=("token.surprise",), granularity="token", source="a test")
    def surprising(rollouts: object) -> dict[str, object]:
        """Numbers."""
        return {"token.surprise": np.zeros(1)}

    try:
        assert remedy("token.surprise") == "run `apportion score IN --with surprising -o OUT` first"
    finally:
        SCORERS.remove("surprising")


def test_fields_of_entries_have_types_and_meanings() -> None:
    own = [each for kind in kinds().values() for entry in kind for each in entry.makes if isinstance(each, Field)]
    assert len(own) >= 11
    assert all(each.meaning for each in own)
    assert [maker.name for maker in makers_of("step.search_value")[1]] == ["mcts"]


def test_what_follows_from_flags() -> None:
    assert UNTRAINED == ("error", "filtered")
    assert set(UNVERIFIED) == {"reflection", "guided"}
    assert set(ALONE) == {"demonstration", "reflection", "guided"}
    assert set(NOT_OWN) == {
        "error", "hinted", "retried", "reflection", "guided", "refined", "intervention", "edited", "partial", "demonstration",
    }  # fmt: skip
    assert set(NOT_REVISED) == (set(NOT_OWN) | {"filtered"}) - {"hinted", "refined"}
    assert all(flag.meaning for flag in FLAGS.values())
