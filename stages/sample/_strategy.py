"""What a sampling strategy is: which prefixes are continued, how often, with what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ..models.engine import Engine, Sampling
from ..registry import Registry
from ..tasks import Problem, Task

CONTINUES = "--from"


@dataclass(frozen=True, kw_only=True)
class SamplingContext:
    """What a strategy works with. `salt` tells runs apart: it is in every id and seed (policy, seed and round).

    rollouts: what `--from` names; then task and problems are those of its rows.
    """

    task: Task
    problems: Sequence[Problem]
    tokenizer: Any
    open_engine: Callable[[], Engine]
    sampling: Sampling
    n: int
    seed: int
    round: int
    purpose: str
    policy: str
    rollouts: RolloutFile | None = None


@dataclass(frozen=True)
class Strategy:
    """`function(context, **options)` yields batches of whole groups. needs: "--from" where it continues rollouts."""

    name: str
    function: Callable[..., Iterator[Rollouts]]
    source: str
    needs: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]


STRATEGIES: Registry[Strategy] = Registry("strategy", __package__ or "", "strategies")


def strategy(*, source: str, needs: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Callable[..., Iterator[Rollouts]]) -> Callable[..., Iterator[Rollouts]]:
        STRATEGIES.add(Strategy(function.__name__, function, source, needs))
        return function

    return register
