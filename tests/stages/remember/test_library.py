"""The library of experience: what is taken in, what goes, and what is found for an observation."""

from difflib import SequenceMatcher
from random import Random

import pytest
from apportion.stages.remember.library import STRATEGY, WARNING, Advice, Library, Matching, words_in_common

HEAT, SHELF, DRAWERS = "heat the item before placing it", "check every shelf first", "open drawers one by one"
CUP, ON_SHELF, BATH = (
    "You are in the kitchen. You see a cup on the table.",
    "You are in the kitchen. You see a cup on the shelf.",
    "You are in the bathroom.",
)


def strategy(text: str, score: float, level: str = "method") -> Advice:
    return Advice(STRATEGY, level, text, score)


def small() -> Library:
    """Room for two entries a level, both taken."""
    library = Library(capacity={STRATEGY: 2, WARNING: 1})
    assert [library.offer(strategy(HEAT, 0.4)), library.offer(strategy(SHELF, 0.9))] == ["added", "added"]
    return library


def held(library: Library) -> dict[str, float]:
    return {entry.text: entry.score for entry in library.entries}


def test_worked_example() -> None:
    near = "heat the item before placing"
    assert SequenceMatcher(None, near, HEAT).ratio() == pytest.approx(0.949153, abs=1e-6)
    library = small()
    assert library.offer(strategy(near, 0.6)) == "raised"
    assert held(library) == {HEAT: 0.6, SHELF: 0.9}
    library = small()
    assert library.offer(strategy(DRAWERS, 0.4)) == "rejected"
    assert held(library) == {HEAT: 0.4, SHELF: 0.9}
    assert library.offer(strategy(DRAWERS, 0.5)) == "replaced"
    assert held(library) == {SHELF: 0.9, DRAWERS: 0.5}


def test_a_duplicate_with_no_higher_score_changes_nothing() -> None:
    library = small()
    assert [library.offer(strategy(HEAT.upper(), 0.4)), library.offer(strategy(HEAT, 0.1))] == ["known", "known"]
    assert held(library) == {HEAT: 0.4, SHELF: 0.9}


def test_the_same_words_in_another_order_are_a_duplicate() -> None:
    one, other = "a b c d e f g", "g f e d c b a"
    assert (words_in_common(one, other), SequenceMatcher(None, one, other).ratio() < 0.85) == (1.0, True)
    library = Library()
    assert [library.offer(strategy(one, 1.0)), library.offer(strategy(other, 1.0))] == ["added", "known"]


def test_only_the_first_300_characters_are_compared() -> None:
    one, other = ("y" * 300 + letter * 300 + " " + letter for letter in "ab")
    library = Library()
    assert [library.offer(strategy(one, 1.0)), library.offer(strategy(other, 1.0))] == ["added", "known"]


def test_zones_and_levels_have_rooms_of_their_own() -> None:
    library = small()
    assert library.offer(strategy(DRAWERS, 0.1, "example")) == "added"
    assert library.offer(strategy(HEAT, 0.1, "example")) == "known"  # in another level of the zone
    assert library.offer(Advice(WARNING, "mistake", HEAT, 0.1)) == "added"
    assert library.offer(Advice(WARNING, "mistake", SHELF, 0.1)) == "rejected"
    assert library.offer(Advice(WARNING, "pattern", SHELF, 0.1)) == "added"


@pytest.mark.parametrize(
    ("matching", "clusters"),
    [
        (Matching(), [0, 1, 0, 1]),
        (Matching(similarity=1.0), [0, 1, 2, 1]),
        (Matching(compared=30), [0, 1, 0, 1]),
        (Matching(similarity=0.92, compared=30), [0, 1, 0, 1]),  # where they are equal
        (Matching(same_head=10), [0, 1, 0, 1]),
        (Matching(same_head=300), [0, 1, 2, 1]),
    ],
)
def test_observations_join_the_first_cluster_that_is_like_them(matching: Matching, clusters: list[int]) -> None:
    library = Library(matching=matching)
    found = [library.meet(state, 0).id for state in (CUP, BATH, ON_SHELF, BATH)]
    names = list(library.clusters)
    assert [names.index(each) for each in found] == clusters
    assert sum(cluster.members for cluster in library.clusters.values()) == 4
    again = Library.of(library.table(), matching=matching)
    assert [found and found.id for found in map(again.cluster_of, (CUP, BATH, "else"))] == [*names[:2], None]


def test_the_cluster_that_was_least_used_goes_with_its_links() -> None:
    library = Library(max_clusters=2)
    library.offer(strategy(HEAT, 1.0))
    name = library.entries[0].id
    library.show(library.meet(CUP, 0), [name, "s-none"])
    library.meet(BATH, 0)
    library.meet(BATH, 0)
    library.meet("Somewhere else", 1)
    assert [(each.text, each.members, each.retrieved) for each in library.clusters.values()] == [
        (CUP, 1, 1), ("Somewhere else", 1, 0)
    ]  # fmt: skip
    library.show(library.meet("Somewhere else", 1), [name])
    assert library.entries[0].clusters == list(library.clusters)
    library.meet(BATH, 2)  # as often shown something, but of fewer members
    assert list(library.clusters) == [*library.entries[0].clusters, library.meet(BATH, 2).id]
    assert [each.text for each in library.clusters.values()] == ["Somewhere else", BATH]
    assert library.entries[0].retrieved == 2


@pytest.mark.parametrize("matching", [Matching(), Matching(0.8, compared=40), Matching(0.7, same_head=9)], ids=str)
def test_clusters_are_those_of_comparing_with_every_one(matching: Matching) -> None:
    rng = Random(7)
    things, places = ("cup", "mug", "pan", "Löffel", "𝄞"), ("table", "shelf", "sink")
    states = [
        f"On the {rng.choice(places)} you see {', '.join(rng.choices(things, k=rng.randint(0, 4)))}."
        for _ in range(200)
    ] + ["", "", "a"]
    rng.shuffle(states)
    library = Library(matching=matching, max_clusters=12)
    for state in states:
        library.meet(state, 0)
    slow: list[list[str]] = []  # of each cluster, its members
    for state in states:
        head, text = state[: matching.same_head], state[: matching.compared]
        own = next(
            (
                known
                for known in slow
                if known[0][: matching.same_head] == head
                and SequenceMatcher(None, text, known[0][: matching.compared]).ratio() >= matching.similarity
            ),
            None,
        )
        if own is None:
            if len(slow) == 12:
                slow.remove(min(slow, key=len))
            slow.append([state])
        else:
            own.append(state)
    assert [(each.text, each.members) for each in library.clusters.values()] == [(own[0], len(own)) for own in slow]
    assert len(slow) > 5


def test_the_best_of_the_cluster_or_else_of_the_library() -> None:
    library = Library()
    for text, score in ((HEAT, 0.2), (SHELF, 0.9), (DRAWERS, 0.5), ("wait", 0.9)):
        library.offer(strategy(text, score))
    library.offer(Advice(WARNING, "mistake", "hurry", 0.5))
    counts = {STRATEGY: 2, WARNING: 1}
    assert [entry.text for entry in library.best(CUP, counts)] == [SHELF, "wait", "hurry"]
    library.show(library.meet(CUP, 0), [library.entries[0].id])
    assert [entry.text for entry in library.best(ON_SHELF, counts)] == [HEAT, "hurry"]
    assert [entry.text for entry in library.best(BATH, counts)] == [SHELF, "wait", "hurry"]


def test_a_table_says_all_of_it() -> None:
    library = small()
    library.offer(Advice(WARNING, "mistake", "hurry", 0.5, iteration=3, rollout_id="r"))
    library.show(library.meet(CUP, 1), [library.entries[1].id])
    table = library.table()
    assert Library.of(table).table().equals(table)
    assert table["kind"].to_pylist() == ["strategy", "strategy", "warning", "cluster"]
    assert len(set(table["id"].to_pylist())) == 4
