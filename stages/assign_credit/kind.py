"""What a credit method is: a pure function on flat arrays, with what it needs and what it says of itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter, signature
from typing import Any, Literal, TypeVar

import numpy as np

from ...formats.segments import Array
from ..core.kinds import Entry, Evidence, Kind
from ..core.remedies import check_needs
from ..core.results import check_result
from ..structure.baseline import Singleton as Singleton
from ..structure.batch import Credit as Credit

Granularity = Literal["rollout", "step", "turn", "segment", "node", "token"]
Methodology = Literal["monte-carlo", "temporal-difference", "model-based", "game-theoretic", "information-theoretic"]
Function = TypeVar("Function", bound=Callable[..., Array])


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """A credit method.

    `function` is the formula. Each of its positional parameters gets what `Credit` holds under that name; one of another
    name gets the whole `Credit`, or the column that an option names (`columns_of`). It returns credit on the ruler of its
    granularity: [R] for `rollout` (broadcast to the rollout's own tokens) or [T] for anything finer. `scope` says whether
    statistics run over one group or over the whole batch (then the file is read at once). `columns_of` {parameter: option}
    says whose column a parameter gets. `remark(credit, **options)` says in a line what whoever reads the result should
    know of this batch, or None.
    """

    shown = ("granularity", "methodology", "scope")

    granularity: Granularity
    methodology: Methodology
    scope: Literal["group", "batch"] = "group"
    columns_of: Mapping[str, str] = field(default_factory=dict[str, str])
    remark: Callable[..., str | None] | None = None

    @property
    def compares_rows(self) -> bool:
        """It goes by the tokens of single rows, or by probes that continue them, so that an episode in parts is beyond it."""
        asks = {"nodes", "prefixes", "ancestry", "probes"} & {*self.inputs}
        return bool(asks) or any(path.startswith("node.") or path in ("parent_id", "purpose") for path in self.needs)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the function's positional parameters."""
        named = signature(self.function).parameters.values()
        return tuple(each.name for each in named if each.kind is not Parameter.KEYWORD_ONLY)

    def assign(self, credit: Credit, **options: Any) -> Array:
        """The method's credit of a batch: [R] or [T]. DataError where the batch lacks what it needs, PluginError where the
        function gives anything else than such an array of numbers."""
        check_needs(self, credit.paths, options)
        given = self.function(*(self._input(name, credit, options) for name in self.inputs), **options)
        rows, tokens = len(credit.rollouts), credit.rollouts.num_tokens
        sizes = {tokens: "tokens"} if self.granularity != "rollout" else {tokens: "tokens", rows: "rollouts"}
        fits = isinstance(given, np.ndarray) and given.dtype.kind in "fiub" and given.ndim == 1 and len(given) in sizes
        needed = " or ".join(f"{size} ({of})" for size, of in reversed(sizes.items()))
        check_result(fits, f"credit method {self.name}", f"an array of {needed} numbers", given)
        return given

    def _input(self, name: str, credit: Credit, options: Mapping[str, Any]) -> Any:
        if name in self.columns_of:
            option = self.columns_of[name]
            return credit.numbers(options.get(option, self.options[option].default))
        return getattr(credit, name) if name in INPUTS else credit


INPUTS = {
    "rollouts",
    *(
        name
        for name, value in vars(Credit).items()
        if isinstance(value, property | cached_property) and name != "paths"
    ),
}
"""The parameters that are bound by name: see `Credit`."""


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
    needs_with: Callable[..., Iterable[str]] | None = None,
    columns: Mapping[str, str] | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    remark: Callable[..., str | None] | None = None,
    system: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Register the function under its own name; its keyword-only parameters become `--set` options.

    needs_with: called with the options, gives the columns that these need beside `needs`. columns: {parameter: the option
    that names its column}.
    """
    return METHODS.adder(
        Method, needs=needs, needs_with=needs_with, makes=("token.advantage",), source=source, evidence=evidence,
        presets=presets or {}, system=system, granularity=granularity, methodology=methodology, scope=scope,
        columns_of=columns or {}, remark=remark,
    )  # fmt: skip
