"""What an objective is: a per-token loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """N trained tokens of a micro-batch. logprob [N] carries the gradient; the rest are constants.

    old_logprob: under the policy that sampled. reference_logprob: under the frozen reference, or None without one.
    advantage: [N], or None for objectives that need none.
    """

    logprob: "Tensor"
    old_logprob: "Tensor | None" = None
    reference_logprob: "Tensor | None" = None
    advantage: "Tensor | None" = None


@dataclass(frozen=True)
class Objective:
    """`function(tokens, **options)` returns (loss [N], {metric: [N]}); metrics are averaged over tokens and logged."""

    name: str
    function: "Callable[..., tuple[Tensor, Mapping[str, Tensor]]]"
    needs: tuple[str, ...]
    source: str

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]


OBJECTIVES: Registry[Objective] = Registry("objective", __package__ or "", "objectives")


def objective(*, needs: tuple[str, ...], source: str) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Any) -> Any:
        OBJECTIVES.add(Objective(function.__name__, function, needs, source))
        return function

    return register
