"""What a credit method is: a pure function on flat arrays, with what it needs and what it says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..registry import Registry

Granularity = Literal["rollout", "step", "turn", "segment", "node", "token"]
Methodology = Literal["monte-carlo", "temporal-difference", "model-based", "game-theoretic", "information-theoretic"]
Evidence = Literal["code", "paper", "second-hand", "guess"]
Singleton = Literal["zero", "raw", "error"]
Function = TypeVar("Function", bound=Callable[..., Array])


@dataclass(frozen=True)
class Method:
    """A registered credit method.

    `function(batch, **options)` returns credit on the ruler of its granularity's output: [R] for `rollout` (broadcast
    to the rollout's own tokens) or [T] for anything finer. `needs` are columns; `scope` says whether statistics run
    over one group or over the whole batch (then the file is read at once).
    """

    name: str
    function: Callable[..., Array]
    needs: tuple[str, ...]
    granularity: Granularity
    methodology: Methodology
    source: str
    evidence: Evidence
    scope: Literal["group", "batch"] = "group"
    aliases: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]


METHODS: Registry[Method] = Registry("credit method", __package__ or "", "assigners")


def credit_method(
    *,
    needs: tuple[str, ...] = ("reward",),
    granularity: Granularity,
    methodology: Methodology = "monte-carlo",
    source: str,
    evidence: Evidence,
    scope: Literal["group", "batch"] = "group",
) -> Callable[[Function], Function]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Function) -> Function:
        METHODS.add(
            Method(function.__name__, function, needs, granularity, methodology, source, evidence, scope)
        )  # fmt: skip
        return function

    return register


@dataclass(frozen=True, eq=False)
class Credit:
    """What a method sees: whole groups as flat arrays. R rollouts, T response tokens, G groups.

    groups: rollouts [R] of each group. tokens: response tokens [T] of each rollout. mask: [T] bool, the policy wrote it.
    reward: [R] float64.
    """

    rollouts: Rollouts

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


def resolve_options(method: Method, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`--set` values, typed by the method's signature; UsageError for an unknown name or a value of another type."""
    from ..options import typed_options

    return typed_options(method.function, settings, f"credit method {method.name!r}")
