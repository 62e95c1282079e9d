"""What a credit method is: a pure function on flat arrays, with what it needs and what it says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..core.kinds import Entry, Kind

Granularity = Literal["rollout", "step", "turn", "segment", "node", "token"]
Methodology = Literal["monte-carlo", "temporal-difference", "model-based", "game-theoretic", "information-theoretic"]
Evidence = Literal["code", "paper", "second-hand", "guess"]
Singleton = Literal["zero", "raw", "error"]
Function = TypeVar("Function", bound=Callable[..., Array])


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """A credit method.

    `function(batch, **options)` returns credit on the ruler of its granularity's output: [R] for `rollout` (broadcast
    to the rollout's own tokens) or [T] for anything finer. `scope` says whether statistics run over one group or over the
    whole batch (then the file is read at once). `remark(credit, **options)` says in a line what whoever reads the result
    should know of this batch, or None.
    """

    shown = ("granularity", "methodology", "scope")

    granularity: Granularity
    methodology: Methodology
    scope: Literal["group", "batch"] = "group"
    remark: Callable[..., str | None] | None = None


METHODS: Kind[Method] = Kind(
    "methods", "credit method", __package__ or "", "apportion assign-credit IN --method {name} -o OUT"
)


def credit_method(
    *,
    needs: tuple[str, ...] = ("reward",),
    granularity: Granularity,
    methodology: Methodology,
    source: str,
    evidence: Evidence,
    scope: Literal["group", "batch"] = "group",
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    remark: Callable[..., str | None] | None = None,
    system: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Function) -> Function:
        METHODS.add(
            Method(
                name=function.__name__, function=function, needs=needs, makes=("token.advantage",), source=source,
                evidence=evidence, presets=presets or {}, system=system, granularity=granularity,
                methodology=methodology, scope=scope, remark=remark,
            )
        )  # fmt: skip
        return function

    return register


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
                f"row {row}, column 'reward': {reward[row]} for rollout {name!r}, needed is a finite number; "
                "score it again, or drop it with its group"
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
                raise DataError(f"column {needed!r}: missing, needed of rollouts whose purpose is probe")
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
            raise DataError(f"probe {name!r}: fork {fork[place]:g}, needed is 0 to {sizes[place]}, its parent's length")
        return cls(parent[own], fork.astype(np.int64), reward, probes.flagged("truncated")[own])
