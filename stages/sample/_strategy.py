"""What a sampling strategy is: which prefixes are continued, how often, with what."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ..models.engine import Engine, Sampling
from ..models.policy import ModelSource
from ..registry import Registry
from ..tasks import Problem, Task

CONTINUES = "--from"


@dataclass(frozen=True, kw_only=True)
class SamplingContext:
    """What a strategy works with.

    engine: None for a strategy that is registered with engine=False. policy: digest of the weights.
    rollouts: what `--from` names; then task and problems are those of its rows. done: how many of its groups an earlier
    run wrote before it was stopped, see `batches`; of other runs, `problems` are those that are left.
    """

    task: Task
    problems: Sequence[Problem]
    tokenizer: Any
    source: ModelSource
    opened: Engine | None
    sampling: Sampling
    n: int
    seed: int
    round: int
    purpose: str
    policy: str
    rollouts: RolloutFile | None = None
    done: int = 0

    @property
    def engine(self) -> Engine:
        """What makes the completions."""
        assert self.opened is not None, "a strategy registered with engine=False asked for one"
        return self.opened

    def batches(self) -> Iterator[Rollouts]:
        """The rollouts to continue, whole groups at a time."""
        assert self.rollouts is not None, "sample opens it for a strategy that needs --from"
        skipped = self.done
        for batch in self.rollouts.batches():
            if skipped < len(batch.groups):
                yield batch.slice(int(batch.groups.starts[skipped]), len(batch)) if skipped else batch
            skipped = max(0, skipped - len(batch.groups))

    @property
    def salt(self) -> str:
        """Tells runs apart, by policy, seed and round: it is in every id that a run makes."""
        return hashlib.blake2b(f"{self.policy}/{self.seed}/{self.round}".encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class Strategy:
    """`function(context, **options)` yields batches of whole groups.

    needs: "--from" where it continues rollouts. engine: False for one that generates nothing.
    """

    name: str
    function: Callable[..., Iterator[Rollouts]]
    source: str
    needs: tuple[str, ...] = ()
    engine: bool = True

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]


STRATEGIES: Registry[Strategy] = Registry("strategy", __package__ or "", "strategies")


def strategy(*, source: str, needs: tuple[str, ...] = (), engine: bool = True) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Callable[..., Iterator[Rollouts]]) -> Callable[..., Iterator[Rollouts]]:
        STRATEGIES.add(Strategy(function.__name__, function, source, needs, engine))
        return function

    return register
