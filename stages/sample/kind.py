"""What a sampling strategy is: which prefixes are continued, how often, with what."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...formats.errors import UsageError
from ...formats.parquet import RolloutFile, files_of
from ...formats.rollouts import Rollouts
from ...formats.schema import Field
from ..core.kinds import Entry, Kind
from ..models.engine import Engine, Sampling
from ..models.policy import ModelSource
from ..tasks import Problem, Task
from ..tasks.played import is_played
from ._failures import Failures

CONTINUES = "--from"
PLAYED = (
    "reward", "environment_seed", "step.start", "step.end", "step.kind", "step.state", "step.reward", "step.valid",
)  # fmt: skip  # columns that an environment task brings


@dataclass(frozen=True, kw_only=True)
class SamplingContext:
    """What a strategy works with.

    engine: None for a strategy that is registered with engine=False. policy: digest of the weights.
    rollouts: what `--from` names; then task and problems are those of its rows.
    kept: what an earlier run wrote before it was stopped, and finished, its problems; `problems` and `batches` are what
    is left. failures: of this run's rollouts. tally: see `count`.
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
    finished: Sequence[Problem] = ()
    kept: RolloutFile | None = None
    failures: Failures = field(default_factory=Failures)
    tally: dict[str, int] = field(default_factory=dict)

    def count(self, **more: int) -> None:
        """Add to what the strategy counts of its run, from its beginning, however often it was stopped; the history
        gets it. To be called right before the rows that it is about are yielded: they are kept together."""
        for name, number in more.items():
            self.tally[name] = self.tally.get(name, 0) + number

    @property
    def engine(self) -> Engine:
        """What makes the completions."""
        assert self.opened is not None, "a strategy registered with engine=False asked for one"
        return self.opened

    def batches(self) -> Iterator[Rollouts]:
        """The rollouts to continue, whole groups at a time."""
        assert self.rollouts is not None, "sample opens it for a strategy that needs --from"
        skipped = len(self.finished)
        for batch in self.rollouts.batches():
            if skipped < len(batch.groups):
                yield batch.slice(int(batch.groups.starts[skipped]), len(batch)) if skipped else batch
            skipped = max(0, skipped - len(batch.groups))

    def of(self, problems: Sequence[Problem]) -> "SamplingContext":
        """The same for other problems."""
        return replace(self, problems=problems)

    @property
    def salt(self) -> str:
        """Tells runs apart, by policy, seed and round: it is in every id that a run makes."""
        return hashlib.blake2b(f"{self.policy}/{self.seed}/{self.round}".encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Strategy(Entry):
    """`function(context, **options)` yields batches of whole groups.

    needs: "--from" where it continues rollouts. engine: False for one that generates nothing. turns: True for one that
    plays environment tasks.
    """

    engine: bool = True
    turns: bool = False

    def usage_of(self, kind: Kind[Any]) -> str:
        """With --from where it goes on with rollouts."""
        return kind.usage.replace("sample", "sample --from IN") if CONTINUES in self.needs else kind.usage


STRATEGIES: Kind[Strategy] = Kind(
    "strategies", "strategy", __package__ or "", "apportion sample --strategy {name} -o OUT"
)


def check_turns(chosen: Strategy, task: Task) -> None:
    """UsageError for a task that is played and a strategy that cannot."""
    if is_played(task) and not chosen.turns:
        able = ", ".join(each.name for each in STRATEGIES if each.turns)
        raise UsageError(
            f"--strategy {chosen.name} cannot go on in an environment, where {task.spec!r} is played; choose {able}"
        )


def strategy(
    *,
    source: str,
    needs: tuple[str, ...] = (),
    makes: tuple[str | Field, ...] = (),
    engine: bool = True,
    turns: bool = False,
    system: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Register the function under its own name; its keyword-only parameters become `--set` options."""

    def register(function: Callable[..., Iterator[Rollouts]]) -> Callable[..., Iterator[Rollouts]]:
        STRATEGIES.add(
            Strategy(
                name=function.__name__, function=function, needs=needs, makes=makes, source=source, system=system,
                engine=engine, turns=turns,
            )
        )  # fmt: skip
        return function

    return register


def files_in(options: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """(option/number, file) of every file that an option names, directories opened. UsageError for one not there."""
    for name, value in options.items():
        paths = [value] if isinstance(value, Path) else value if isinstance(value, list | tuple) else []
        files = [file for path in paths if isinstance(path, Path) for file in files_of(path)]
        for number, file in enumerate(files):
            if not file.is_file():
                raise UsageError(f"{file}: no such file")
            yield f"{name}/{number}", file
