"""A library of experience: what worked and what did not, in words, and the clusters of observations it is shown in."""

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
HEAD = 300  # characters of an entry that are compared with others

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
    """The id of a row: equal texts of a kind have one."""
    return f"{kind[0]}-{blake2b(text.encode(), digest_size=6).hexdigest()}"


@dataclass
class Advice:
    """One piece of advice. kind: the zone, strategy or warning. clusters: in which it is shown, by id.

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
    """Observations that are alike. text: the first of them, which others are compared with.

    members: steps that began there. retrieved: those of them at which something was shown.
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
    `similarity`, and the first `same_head` characters are equal."""

    similarity: float = 0.85
    compared: int = 500
    same_head: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Matching":
        """As a memory's options have it. DataError for settings of a history that are none."""
        similarity, compared, same_head = (settings.get(name) for name in ("similarity", "compared", "same_head"))
        if not (isinstance(similarity, int | float) and isinstance(compared, int) and isinstance(same_head, int)):
            raise DataError(
                f"its history has the settings {dict(settings)!r:.200}; expected similarity, compared and same_head"
            )
        return cls(similarity, compared, same_head)

    def to(self, state: str) -> Callable[[str], bool]:
        """Whether the observation belongs to a cluster, by the cluster's text."""
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
        """[256] how often each character is in what is compared of a text; some share a place."""
        codes = np.frombuffer(text[: self.compared].encode("utf-32-le", "surrogatepass"), np.uint32)
        return np.bincount(codes % 256, minlength=256).astype(np.int32)


def common_letters(masks: Mapping[str, int], size: int, other: str) -> int:
    """Length of the longest common subsequence of a text and another: difflib never matches more, but takes longer.

    masks: the places of each letter in the text, as bits (Hyyrö, 2004). size: of the text.

    >>> common_letters({"c": 0b0001, "a": 0b0010, "r": 0b0100, "t": 0b1000}, 4, "chart")
    4
    """
    rows = every = (1 << size) - 1
    for letter in other:
        hits = rows & masks.get(letter, 0)
        rows = ((rows + hits) | (rows - hits)) & every
    return size - rows.bit_count()


def alike(text: str, other: str) -> Iterator[float]:
    """Bounds of their difflib ratio from above, each closer than the one before; the last is the ratio itself.

    >>> [round(bound, 3) for bound in alike("cup on the table", "cut on the shelf")]
    [1.0, 0.812, 0.688]
    """
    matcher = SequenceMatcher(None, text, other)
    for bound in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio):
        yield bound()


def words_in_common(text: str, other: str) -> float:
    """Jaccard index of their words.

    >>> words_in_common("check every shelf", "check every drawer")
    0.5
    """
    one, two = set(text.split()), set(other.split())
    return len(one & two) / max(len(one | two), 1)


@dataclass
class Library:
    """Entries, and clusters in the order in which they were opened.

    capacity: of each level, by zone. novelty: entries more alike than this are the same one.
    """

    entries: list[Advice] = field(default_factory=list)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    matching: Matching = Matching()
    max_clusters: int = 500
    capacity: Mapping[str, int] = field(default_factory=lambda: {STRATEGY: 100, WARNING: 50})
    novelty: float = 0.85
    _found: dict[str, str] = field(default_factory=dict)  # cluster by observation
    _letters: Array | None = None  # [C, 256] of the clusters: no two texts are more alike than their letters

    @classmethod
    def of(cls, table: pa.Table | None, **options: Any) -> "Library":
        """What a memory has; a new one for None."""
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
        """Strategies, warnings and clusters as rows."""
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
        """The first cluster that the observation belongs to."""
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
        """A step began there: the cluster of its observation, which is opened if there is none.

        Where there is no room for another, the one goes that was least often shown something, the smallest of those.
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
        """The entries of these ids were shown in a step of the cluster, which they belong to from now on. One that is no
        longer there is passed over."""
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
        """Of each zone so many entries for an observation: those of its cluster with the highest scores, or where it
        has none of the zone, those of the whole library."""
        cluster = self.cluster_of(state)
        return list(chain.from_iterable(self._best(zone, cluster, count) for zone, count in counts.items()))

    def _best(self, zone: str, cluster: Cluster | None, count: int) -> Sequence[Advice]:
        entries = [entry for entry in self.entries if entry.kind == zone]
        own = [entry for entry in entries if cluster is not None and cluster.id in entry.clusters]
        return sorted(own or entries, key=lambda entry: -entry.score)[:count]

    def offer(self, entry: Advice) -> Verdict:
        """What became of an entry.

        "raised": one like it is there, and has its higher score now; "known": that one's was as high already.
        "replaced": its level was full, and the lowest of it had a strictly lower score; "rejected": it had none.
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
