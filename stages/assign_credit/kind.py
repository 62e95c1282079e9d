"""What a credit method is: a pure function on flat arrays, with what it needs and what it says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any, Literal, TypeVar

import numpy as np

from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..core.kinds import Entry, Kind
from ..structure.baseline import Singleton as Singleton
from ..structure.batch import Credit as Credit
from ..structure.values import token_signal

Granularity = Literal["rollout", "step", "turn", "segment", "node", "token"]
Methodology = Literal["monte-carlo", "temporal-difference", "model-based", "game-theoretic", "information-theoretic"]
Evidence = Literal["code", "paper", "second-hand", "guess"]
Function = TypeVar("Function", bound=Callable[..., Array])


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """A credit method.

    `function` is the formula. Its positional parameters are bound by name to what the file holds (`INPUTS`); one of another
    name gets the whole `Credit`. It returns credit on the ruler of its granularity: [R] for `rollout` (broadcast to the
    rollout's own tokens) or [T] for anything finer. `scope` says whether statistics run over one group or over the
    whole batch (then the file is read at once). `remark(credit, **options)` says in a line what whoever reads the result
    should know of this batch, or None.
    """

    shown = ("granularity", "methodology", "scope")

    granularity: Granularity
    methodology: Methodology
    scope: Literal["group", "batch"] = "group"
    remark: Callable[..., str | None] | None = None

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the function's positional parameters."""
        named = signature(self.function).parameters.values()
        return tuple(each.name for each in named if each.kind is not Parameter.KEYWORD_ONLY)

    def assign(self, credit: Credit, **options: Any) -> Array:
        """The method's credit of a batch: [R] or [T]. DataError where the batch lacks what it needs."""
        return self.function(*(INPUTS.get(name, _whole)(credit) for name in self.inputs), **options)


INPUTS: Mapping[str, Callable[[Credit], Any]] = {
    "reward": lambda credit: credit.reward,
    "groups": lambda credit: credit.groups,
    "tokens": lambda credit: credit.tokens,
    "mask": lambda credit: credit.mask,
    "rollouts": lambda credit: credit.rollouts,
    "probes": lambda credit: credit.probes,
    "rewards": lambda credit: several_rewards(credit.rollouts),
    "entropy": lambda credit: token_signal(credit, "token.entropy"),
}
"""What a method asks for by the name of a parameter. reward: [R] float64, DataError where one is missing. groups: Segments,
rollouts [R] of each group. tokens: Segments, response tokens [T] of each rollout. mask: [T] bool, the policy wrote it.
rollouts: the rows with all their columns. probes: what was sampled only to estimate values. rewards: {NAME: [R] float64} of
the columns rewards.NAME. entropy: [T] of the next-token distribution, nat; DataError where the file has none."""


def several_rewards(rollouts: Rollouts) -> dict[str, Array]:
    """{NAME: [R] float64} of the columns rewards.NAME."""
    paths = [path for path in rollouts.paths if path.startswith("rewards.")]
    return {path.removeprefix("rewards."): rollouts.numbers(path).astype(np.float64) for path in paths}


def _whole(credit: Credit) -> Credit:
    return credit


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
