"""A batch as credit sees it: whole groups as flat arrays, and the probes that belong to them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...formats.errors import DataError
from ...formats.flags import ERROR
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments


@dataclass(frozen=True, eq=False)
class Credit:
    """What a method sees: whole groups as flat arrays. R rollouts, T response tokens, G groups.

    groups: rollouts [R] of each group. tokens: response tokens [T] of each rollout. mask: [T] bool, the policy wrote it.
    reward: [R] float64. probes: what was sampled only to estimate values; never among the R rollouts.
    """

    rollouts: Rollouts
    probe_rollouts: Rollouts | None = None

    @property
    def groups(self) -> Segments:
        return self.rollouts.groups

    @property
    def tokens(self) -> Segments:
        return self.rollouts.tokens

    @property
    def mask(self) -> Array:
        return self.rollouts.mask

    @cached_property
    def reward(self) -> Array:
        """[R] float64. DataError for a rollout without a (finite) reward."""
        reward = self.rollouts.numbers("reward").astype(np.float64)
        wrong = ~np.isfinite(reward)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            name = self.rollouts.arrow("rollout_id")[row].as_py()
            raise DataError(
                f"row {row}, column 'reward': {reward[row]} for rollout {name!r}; score it again, or drop it with its group"
            )
        return reward

    @cached_property
    def probes(self) -> "Probes":
        """The probes that continue one of the R rollouts. DataError for one without a finite reward or a fork."""
        return Probes.of(self.rollouts, self.probe_rollouts)


@dataclass(frozen=True, eq=False)
class Probes:
    """K continuations (`purpose: probe`), each from a prefix of one of the R rollouts.

    parent: [K] int, the rollout it continues. fork: [K] int, response tokens of the parent it begins with. reward: [K]
    float64. truncated: [K] bool, it ended at the token limit.
    """

    parent: Array
    fork: Array
    reward: Array
    truncated: Array

    @classmethod
    def of(cls, rollouts: Rollouts, probes: Rollouts | None) -> "Probes":
        """Matched by `parent_id`; probes of rollouts that are not there are left out."""
        if probes is None or len(probes) == 0:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, bool))
        for needed in ("parent_id", "fork", "reward"):
            if needed not in probes:
                raise DataError(f"column {needed!r}: missing, and rollouts whose purpose is probe need it")
        names, parents = (each.cast(pa.string()) for each in (rollouts.arrow("rollout_id"), probes.arrow("parent_id")))
        found = pc.call_function("index_in", [parents], pc.SetLookupOptions(value_set=names))
        parent = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        own = np.flatnonzero(parent >= 0)
        fork, reward = probes.numbers("fork")[own], probes.numbers("reward").astype(np.float64)[own]
        wrong = ~np.isfinite(reward) | ~np.isfinite(fork.astype(np.float64))
        if wrong.any():
            name = probes.strings("rollout_id")[int(own[np.flatnonzero(wrong)[0]])]
            raise DataError(f"probe {name!r}: no finite reward or no fork; score the file again")
        sizes = rollouts.tokens.sizes[parent[own]]
        if ((fork < 0) | (fork > sizes)).any():
            place = int(np.flatnonzero((fork < 0) | (fork > sizes))[0])
            name = probes.strings("rollout_id")[int(own[place])]
            raise DataError(
                f"probe {name!r}: fork {fork[place]:g} must be between 0 and {sizes[place]}, its parent's length"
            )
        return cls(parent[own], fork.astype(np.int64), reward, probes.flagged("truncated")[own])


def credit_of_batch(batch: Rollouts) -> tuple[Credit, Array]:
    """What a method sees of a batch, and the rows [R] bool that it is about: all but probes, evals and failed ones."""
    trained, probes = _by_purpose(batch)
    if trained is None:
        return Credit(batch), np.ones(len(batch), bool)
    own = batch.take(np.flatnonzero(trained))
    return Credit(own, batch.take(np.flatnonzero(probes))), trained


def _by_purpose(batch: Rollouts) -> tuple[Array | None, Array]:
    """[R] bool: rows to credit (None: all of them), and probes. Rows flagged `error` are neither."""
    failed = batch.flagged(ERROR)
    trained, probe = ~failed, np.zeros(len(batch), bool)
    if "purpose" in batch:
        purpose = batch.arrow("purpose").cast(pa.string())
        probe, evaluated = (
            pc.call_function("equal", [purpose, pa.scalar(each)]).fill_null(False).to_numpy(zero_copy_only=False)
            & ~failed
            for each in ("probe", "eval")
        )
        if (trained & ~evaluated).any():  # a file of nothing but evals was asked for by name
            trained = trained & ~(probe | evaluated)
    return (None if trained.all() else trained), probe
