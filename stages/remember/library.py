"""A library of experience: what worked and what did not, in words, and the clusters of observations it is shown for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from hashlib import blake2b
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.segments import Array

STRATEGY, WARNING, CLUSTER = "strategy", "warning", "cluster"
LEVELS = {STRATEGY: ("principle", "method", "example"), WARNING: ("mistake", "pattern", "diagnostic")}
HEAD = 300  # leading characters of two entries that are compared

SCHEMA = pa.schema(
    {
        "kind": pa.string(),
        "id": pa.string(),
        "level": pa.string(),
        "text": pa.string(),
        "score": pa.float64(),
        "clusters": pa.list_(pa.string()),
        "retrieved": pa.int64(),
        "members": pa.int64(),
        "iteration": pa.int32(),
        "rollout_id": pa.string(),
    }
)
Verdict = Literal["added", "replaced", "raised", "known", "rejected"]


def name_advice(kind: str, text: str) -> str:
    """The id of a row; equal texts of one kind share it."""
    return f"{kind[0]}-{blake2b(text.encode(), digest_size=6).hexdigest()}"


@dataclass
class Advice:
    """One piece of advice. kind: the zone, strategy or warning. clusters: ids of the clusters it is shown in.

    retrieved: how often it was shown. iteration, rollout_id: where it comes from.
    """

    kind: str
    level: str
    text: str
    score: float
    clusters: list[str] = field(default_factory=list)
    retrieved: int = 0
    iteration: int = 0
    rollout_id: str | None = None

    @cached_property
    def id(self) -> str:
        return name_advice(self.kind, self.text)


@dataclass
class Cluster:
    """Similar observations. text: the first of them; new ones are compared with it.

    members: steps that began there. retrieved: how many of those steps were shown something.
    """

    text: str
    members: int = 0
    retrieved: int = 0
    iteration: int = 0

    @cached_property
    def id(self) -> str:
        return name_advice(CLUSTER, self.text)


@dataclass(frozen=True)
class Matching:
    """When an observation belongs to a cluster: the difflib ratio of their first `compared` characters is at least
    `similarity`, and their first `same_head` characters are equal."""

    similarity: float = 0.85
    compared: int = 500
    same_head: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Matching":
        """The matching that a memory's options describe. DataError if the history's settings are invalid."""
        similarity, compared, same_head = (settings.get(name) for name in ("similarity", "compared", "same_head"))
        if not (isinstance(similarity, int | float) and isinstance(compared, int) and isinstance(same_head, int)):
            raise DataError(
                f"settings in its history must be similarity, compared and same_head, got {dict(settings)!r:.200}"
            )
        return cls(similarity, compared, same_head)

    def to(self, state: str) -> Callable[[str], bool]:
        """A predicate on a cluster's text: does the observation belong to that cluster?"""
        text = state[: self.compared]
        masks: dict[str, int] = {}
        for place, letter in enumerate(text):
            masks[letter] = masks.get(letter, 0) | 1 << place

        def fits(prototype: str) -> bool:
            if state[: self.same_head] != prototype[: self.same_head]:
                return False
            other = prototype[: self.compared]
            if text == other:
                return True
            if 2.0 * common_letters(masks, len(text), other) / (len(text) + len(other)) < self.similarity:
                return False
            return SequenceMatcher(None, text, other).ratio() >= self.similarity

        return fits

    def letters(self, text: str) -> Array:
        """[256] character counts of the compared part of a text; some characters share a slot."""
        codes = np.frombuffer(text[: self.compared].encode("utf-32-le", "surrogatepass"), np.uint32)
        return np.bincount(codes % 256, minlength=256).astype(np.int32)


def common_letters(masks: Mapping[str, int], size: int, other: str) -> int:
    """Length of the longest common subsequence of two texts: an upper bound on what difflib matches, and quicker.

    masks: the positions of each letter in the first text, as bits (Hyyrö, 2004). size: length of the first text.

    >>> common_letters({"c": 0b0001, "a": 0b0010, "r": 0b0100, "t": 0b1000}, 4, "chart")
    4
    """
    rows = every = (1 << size) - 1
    for letter in other:
        hits = rows & masks.get(letter, 0)
        rows = ((rows + hits) | (rows - hits)) & every
    return size - rows.bit_count()


def alike(text: str, other: str) -> Iterator[float]:
    """Upper bounds of the texts' difflib ratio, each tighter than the one before; the last is the ratio itself.

    >>> [round(bound, 3) for bound in alike("cup on the table", "cut on the shelf")]
    [1.0, 0.812, 0.688]
    """
    matcher = SequenceMatcher(None, text, other)
    for bound in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio):
        yield bound()


def words_in_common(text: str, other: str) -> float:
    """The Jaccard index of the words of two texts.

    >>> words_in_common("check every shelf", "check every drawer")
    0.5
    """
    one, two = set(text.split()), set(other.split())
    return len(one & two) / max(len(one | two), 1)


@dataclass
class Library:
    """The entries, and the clusters in the order in which they were opened.

    capacity: entries per level, by zone. novelty: entries more similar than this count as the same.
    """

    entries: list[Advice] = field(default_factory=list)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    matching: Matching = Matching()
    max_clusters: int = 500
    capacity: Mapping[str, int] = field(default_factory=lambda: {STRATEGY: 100, WARNING: 50})
    novelty: float = 0.85
    _found: dict[str, str] = field(default_factory=dict)  # cluster by observation
    _letters: Array | None = None  # [C, 256] of the clusters: bounds how similar two texts can be

    @classmethod
    def of(cls, table: pa.Table | None, **options: Any) -> "Library":
        """The library a memory holds; an empty one for None."""
        made = cls(**options)
        for row in [] if table is None else table.to_pylist():
            if row["kind"] == CLUSTER:
                cluster = Cluster(row["text"], row["members"], row["retrieved"], row["iteration"])
                made.clusters[cluster.id] = cluster
            else:
                made.entries.append(
                    Advice(
                        row["kind"], row["level"], row["text"], row["score"], row["clusters"], row["retrieved"],
                        row["iteration"], row["rollout_id"],
                    )
                )  # fmt: skip
        return made

    def table(self) -> pa.Table:
        """The library as a table: strategies, warnings and clusters as rows."""
        entries = sorted(self.entries, key=lambda entry: entry.kind)
        rows = [
            {
                "kind": entry.kind, "id": entry.id, "level": entry.level, "text": entry.text, "score": entry.score,
                "clusters": entry.clusters, "retrieved": entry.retrieved, "members": None, "iteration": entry.iteration,
                "rollout_id": entry.rollout_id,
            }
            for entry in entries
        ]  # fmt: skip
        rows += [
            {
                "kind": CLUSTER, "id": cluster.id, "level": None, "text": cluster.text, "score": None, "clusters": None,
                "retrieved": cluster.retrieved, "members": cluster.members, "iteration": cluster.iteration,
                "rollout_id": None,
            }
            for cluster in self.clusters.values()
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, SCHEMA)

    def cluster_of(self, state: str) -> Cluster | None:
        """The first cluster the observation belongs to; None if there is none."""
        if state in self._found:
            return self.clusters[self._found[state]]
        if not self.clusters:
            return None
        if self._letters is None:
            self._letters = np.stack([self.matching.letters(cluster.text) for cluster in self.clusters.values()])
        own = self.matching.letters(state)
        size = self._letters.sum(1) + own.sum()
        at_most = np.divide(2.0 * np.minimum(self._letters, own).sum(1), size, out=np.ones(len(size)), where=size > 0)
        clusters, fits = list(self.clusters.values()), self.matching.to(state)
        for place in np.flatnonzero(at_most >= self.matching.similarity).tolist():
            cluster = clusters[place]
            if fits(cluster.text):
                self._found[state] = cluster.id
                return cluster
        return None

    def meet(self, state: str, iteration: int) -> Cluster:
        """The cluster of the observation that a step began in; opens one if there is none.

        When there is no room, it closes the cluster that was shown something least often; of several, the smallest.
        """
        cluster = self.cluster_of(state)
        if cluster is None:
            if len(self.clusters) >= self.max_clusters:
                self._close(min(self.clusters.values(), key=lambda each: (each.retrieved, each.members)))
            cluster = Cluster(state, iteration=iteration)
            self.clusters[cluster.id] = cluster
            self._found[state] = cluster.id
            if self._letters is not None:
                self._letters = np.vstack((self._letters, self.matching.letters(state)))
        cluster.members += 1
        return cluster

    def show(self, cluster: Cluster, names: Sequence[str]) -> None:
        """Count that these entries were shown in a step of the cluster; from now on they belong to it. Skips an id that
        the library no longer has."""
        cluster.retrieved += 1
        for name in names:
            for entry in self.entries:
                if entry.id == name:
                    entry.retrieved += 1
                    if cluster.id not in entry.clusters:
                        entry.clusters.append(cluster.id)

    def _close(self, cluster: Cluster) -> None:
        if self._letters is not None:
            self._letters = np.delete(self._letters, list(self.clusters).index(cluster.id), axis=0)
        del self.clusters[cluster.id]
        self._found = {state: name for state, name in self._found.items() if name != cluster.id}
        for entry in self.entries:
            if cluster.id in entry.clusters:
                entry.clusters.remove(cluster.id)

    def best(self, state: str, counts: Mapping[str, int]) -> list[Advice]:
        """The best entries for an observation, `counts` of each zone: the highest scores of its cluster or, if that has
        none of the zone, of the whole library."""
        cluster = self.cluster_of(state)
        return list(chain.from_iterable(self._best(zone, cluster, count) for zone, count in counts.items()))

    def _best(self, zone: str, cluster: Cluster | None, count: int) -> Sequence[Advice]:
        entries = [entry for entry in self.entries if entry.kind == zone]
        own = [entry for entry in entries if cluster is not None and cluster.id in entry.clusters]
        return sorted(own or entries, key=lambda entry: -entry.score)[:count]

    def offer(self, entry: Advice) -> Verdict:
        """Offer an entry, and get what became of it.

        "added": its level had room. "raised": a similar entry now has this one's higher score. "known": a similar entry
        already scored as high. "replaced": the level was full, and its lowest entry scored strictly lower. "rejected":
        the level was full, and no entry scored lower.
        """
        for other in self.entries:
            if other.kind == entry.kind and self._same(entry.text.lower(), other.text.lower()):
                other.clusters += [name for name in entry.clusters if name not in other.clusters]
                if entry.score <= other.score:
                    return "known"
                other.score = entry.score
                return "raised"
        level = [
            place for place, other in enumerate(self.entries) if (other.kind, other.level) == (entry.kind, entry.level)
        ]
        if len(level) < self.capacity[entry.kind]:
            self.entries.append(entry)
            return "added"
        lowest = min(level, key=lambda place: self.entries[place].score)
        if entry.score <= self.entries[lowest].score:
            return "rejected"
        del self.entries[lowest]
        self.entries.append(entry)
        return "replaced"

    def _same(self, text: str, other: str) -> bool:
        if text == other or words_in_common(text, other) > self.novelty:
            return True
        return all(bound > self.novelty for bound in alike(text[:HEAD], other[:HEAD]))
