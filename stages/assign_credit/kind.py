"""What a credit method is: a pure function on flat arrays, with what it needs and what it says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ...formats.segments import Array
from ..core.kinds import Entry, Kind
from ..structure.baseline import Singleton as Singleton
from ..structure.batch import Credit as Credit

Granularity = Literal["rollout", "step", "turn", "segment", "node", "token"]
Methodology = Literal["monte-carlo", "temporal-difference", "model-based", "game-theoretic", "information-theoretic"]
Evidence = Literal["code", "paper", "second-hand", "guess"]
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
