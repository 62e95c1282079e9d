"""What is known of a file's rollouts after one pass over it: a few numbers a rollout, for findings to measure."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...formats.flags import ALONE, ERROR, TRUNCATED
from ...formats.invariants import is_credit
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments

GRAM = 4  # tokens that repetition is counted by
KEPT = 64  # rollouts whose tokens and texts are kept for the tokenizer
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Examination:
    """R rollouts in G groups. Every array is [R]: of the rollouts in the file's order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.group_names: list[str] = []
        self.decode: Callable[[Sequence[int]], str] | None = None  # by the file's tokenizer, where there is one
        self.samples: list[tuple[str, Any, str]] = []  # (rollout, its ids, its text)
        self._parts: dict[str, list[Array]] = {}
        self._rows = 0

    def add(self, batch: Rollouts) -> None:
        """Take whole groups."""
        self.names += batch.strings("rollout_id")
        first = batch.groups.starts.tolist()
        ids = batch.strings("group_id")
        for name, values in self._measures(batch).items():
            parts = self._parts.setdefault(name, [])
            if not parts and self._rows:  # a column that earlier files of the data set lack
                parts.append(np.full(self._rows, np.nan))
            parts.append(values)
        self.group_names += [ids[row] for row in first]
        self._rows += len(batch)
        if "text" in batch and "token.id" in batch and len(self.samples) < KEPT:
            texts = batch.strings("text")
            few = range(min(len(batch), KEPT - len(self.samples)))
            self.samples += [(self.names[row - len(batch)], batch.token_ids[row], texts[row] or "") for row in few]

    def _measures(self, batch: Rollouts) -> dict[str, Array]:
        own = batch.mask if "token.mask" in batch else np.ones(batch.num_tokens, bool)
        found = {
            "group": batch.groups.ids + len(self.group_names),
            "trained": batch.for_training & ~batch.flagged(ERROR),
            "compared": ~np.any([batch.flagged(flag) for flag in ALONE], axis=0),
            "failed": batch.flagged(ERROR),
            "truncated": batch.flagged(TRUNCATED),
            "length": batch.tokens.sum(own.astype(np.float64)),
            "variety": variety(batch.token_ids.values, batch.tokens),
        }
        for path in batch.paths:
            if path == "reward" or path.startswith("rewards."):
                found[path] = batch.numbers(path).astype(np.float64)
        if "purpose" in batch:
            found["evaluated"] = np.array([each == "eval" for each in batch.strings("purpose")], bool)
        for path in ("text", "prompt", "policy"):
            if path in batch:
                values = batch.strings(path)
                found[path] = np.fromiter((hash(str(each)) for each in values), np.int64, len(values))
        if "text" in batch:
            found["characters"] = np.array([len((each or "").strip()) for each in batch.strings("text")], np.float64)
        for path in filter(is_credit, batch.paths):
            found |= _credit_measures(batch, path)
        if "token.logprob" in batch:
            found |= _logprob_measures(batch, own)
        if "step.start" in batch and "step.end" in batch:
            found |= _step_measures(batch, own)
        return found

    def __len__(self) -> int:
        return self._rows

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> Array:
        """A measure of the rollouts [R]; missing (NaN) in files of the data set that lack its column."""
        if name not in self._joined:
            parts = self._parts[name]
            values = np.concatenate(parts) if parts else np.empty(0)
            if len(values) < self._rows:
                values = np.concatenate([values, np.full(self._rows - len(values), np.nan)])
            self._joined[name] = values
        return self._joined[name]

    @cached_property
    def _joined(self) -> dict[str, Array]:
        return {}

    @cached_property
    def groups(self) -> Segments:
        """The rollouts of each group."""
        return Segments.of_runs(self["group"])

    @cached_property
    def counted(self) -> Array:
        """[R] bool: trained, compared with others, and with a reward."""
        return self["trained"] & self["compared"] & np.isfinite(self["reward"])

    @cached_property
    def live(self) -> Array:
        """[R] bool: counted, in a group whose counted rewards differ."""
        least = self.groups.min(np.where(self.counted, self["reward"], np.inf))
        most = self.groups.max(np.where(self.counted, self["reward"], -np.inf))
        return self.counted & self.groups.spread(most > least)

    @cached_property
    def centred(self) -> Array:
        """[R] the reward beyond the mean of its group's counted rollouts; 0 for rollouts that are not counted."""
        return self.centre(self["reward"], self.counted)

    def centre(self, values: Array, rows: Array) -> Array:
        """[R] values beyond the mean of these rows of their group; 0 elsewhere."""
        return np.where(rows, values - self.group_mean(values, rows), 0.0)

    def group_mean(self, values: Array, rows: Array) -> Array:
        """[R] the mean of the values over these rows of the rollout's group; 0 in a group without any."""
        counts = self.groups.sum(rows.astype(np.float64))
        sums = self.groups.sum(np.where(rows, values, 0.0))
        return self.groups.spread(np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0))

    @property
    def credits(self) -> list[str]:
        """The credit columns, by path."""
        return [name.removesuffix("|sum") for name in self._parts if name.endswith("|sum")]

    @property
    def several_rewards(self) -> list[str]:
        """The columns rewards.NAME."""
        return [name for name in self._parts if name.startswith("rewards.")]


def variety(ids: Array, tokens: Segments) -> Array:
    """[R] how many of a response's stretches of 4 tokens are different, as a share of all; 1 for a response without any.

    ids: [T]; tokens: the responses.
    """
    sizes = np.maximum(tokens.sizes - GRAM + 1, 0)
    if not sizes.any():
        return np.ones(len(sizes))
    begins = np.flatnonzero(tokens.spread(tokens.sizes) - tokens.positions >= GRAM)
    mixed = np.zeros(len(begins), np.uint64)
    with np.errstate(over="ignore"):
        for step in range(GRAM):
            mixed = (mixed + ids[begins + step].astype(np.uint64) + np.uint64(1)) * _MIX
            mixed ^= mixed >> np.uint64(29)
        rows = tokens.ids[begins]
        order = np.lexsort((mixed, rows))
    rows, mixed = rows[order], mixed[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (mixed[1:] != mixed[:-1])
    distinct = np.bincount(rows[new], minlength=len(sizes))
    return np.divide(distinct, sizes, out=np.ones(len(sizes)), where=sizes > 0)


def _credit_measures(batch: Rollouts, path: str) -> dict[str, Array]:
    credit = batch.ragged(path)
    values = credit.values.astype(np.float64)
    return {
        f"{path}|sum": credit.segments.sum(values),
        f"{path}|size": credit.segments.sum(np.abs(values)),
        f"{path}|given": np.ones(len(batch), bool) if credit.present is None else credit.present,
    }


def _logprob_measures(batch: Rollouts, own: Array) -> dict[str, Array]:
    sampled, tokens = batch.ragged("token.logprob"), batch.tokens
    if len(sampled.values) != batch.num_tokens:  # some rows have none
        return {}
    logprob = sampled.values.astype(np.float64)
    certain = own & (logprob == 0)
    found = {
        "certain": tokens.sum(certain.astype(np.float64)),
        "masked_samples": tokens.sum((~own & (logprob < 0)).astype(np.float64)),
    }
    if "token.trainer_logprob" in batch:
        other = batch.ragged("token.trainer_logprob")
        if len(other.values) == batch.num_tokens:
            gap = np.where(own, np.abs(logprob - other.values.astype(np.float64)), 0.0)
            found |= {"gap": tokens.sum(gap), "wide": tokens.sum((gap > 1).astype(np.float64))}
    return found


def _step_measures(batch: Rollouts, own: Array) -> dict[str, Array]:
    starts, ends, tokens = batch.ragged("step.start"), batch.ragged("step.end"), batch.tokens
    if len(starts.values) != len(ends.values):
        return {}
    offsets = starts.segments.spread(tokens.starts)
    edge = np.zeros(batch.num_tokens + 1, np.int64)
    np.add.at(edge, starts.values + offsets, 1)
    np.add.at(edge, ends.values + offsets, -1)
    inside = np.cumsum(edge)[:-1] > 0
    has_steps = starts.segments.sizes > 0
    outside = own & ~inside & tokens.spread(has_steps)
    return {
        "outside": tokens.sum(outside.astype(np.float64)),
        "empty_steps": starts.segments.sum((ends.values <= starts.values).astype(np.float64)),
    }


def examples_of(names: Sequence[str], rows: Array | None, most: int = 3) -> list[str]:
    """The names of the first rollouts [R] that show a finding."""
    return [] if rows is None else [str(names[row]) for row in np.flatnonzero(rows)[:most].tolist()]
