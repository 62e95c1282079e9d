"""What an objective is: a loss of every token, or of every preference pair."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..core.kinds import Entry, Evidence, Kind

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
class PairBatch:
    """P preference pairs of a micro-batch. chosen, rejected: [P] summed log-probabilities of the response tokens that
    the mask includes, which carry the gradient.

    reference_chosen, reference_rejected: [P] the same under the frozen reference. chosen_tokens: [P] how many there are.
    """

    chosen: "Tensor"
    rejected: "Tensor"
    reference_chosen: "Tensor"
    reference_rejected: "Tensor"
    chosen_tokens: "Tensor"


@dataclass(frozen=True, kw_only=True)
class Objective(Entry):
    """`function(batch, **options)` returns (loss [N], {metric: [N]}); metrics are averaged and logged.

    of: "tokens" where the batch is a `TokenBatch` of N tokens, whose losses are aggregated as `train` is told; "pairs"
    where it is a `PairBatch` of N pairs, whose mean counts.
    """

    of: Literal["tokens", "pairs"] = "tokens"


OBJECTIVES: Kind[Objective] = Kind(
    "objectives", "objective", __package__ or "", "apportion train IN --objective {name} -o OUT"
)


def objective(
    *,
    needs: tuple[str, ...],
    source: str,
    evidence: Evidence | None = None,
    of: Literal["tokens", "pairs"] = "tokens",
    system: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""
    return OBJECTIVES.adder(Objective, needs=needs, source=source, evidence=evidence, system=system, of=of)
