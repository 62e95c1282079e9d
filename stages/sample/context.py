"""What a sampling strategy works with: the problems or rollouts to sample from, the policy, and how to sample."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random
from typing import Any, NamedTuple

import numpy as np

from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..core.driver import require
from ..core.progress import progress
from ..core.results import check_number
from ..core.seeds import derived_seed
from ..models.engine import Completion, Engine, Request, Sampling
from ..models.policy import ModelSource
from ..score.kind import SCORERS, score_batch
from ..score.reward_functions import RewardFunction
from ..tasks import Problem, Task
from ._failures import Failures


class Part(NamedTuple):
    """Whole groups of the rollouts to continue, and the problem of each group."""

    batch: Rollouts
    problems: list[Problem]


@dataclass
class Meter:
    """Progress of a run. advance(count): report this many more rollouts."""

    advance: Callable[[int], None] = lambda count: None
    done: int = 0

    def __call__(self, count: int) -> None:
        self.done += count
        self.advance(count)

    def reach(self, done: int) -> None:
        """Report progress up to at least `done` rollouts."""
        if done > self.done:
            self(done - self.done)


@dataclass(frozen=True, kw_only=True)
class SamplingContext:
    """What a strategy works with.

    strategy: its name. opened: the engine; None for a strategy registered with engine=False. policy: digest of the
    weights. rollouts: the file of `--from`, whose rows then decide task and problems. kept: what an earlier run wrote
    before it was stopped. verifier: a function of the user's that verifies in place of the task, as FILE.py:NAME. finished: the problems of that part; `problems` and `batches` give what is left. failures: of
    this run's rollouts. tally: see `count`.
    """

    strategy: str = ""
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
    verifier: str | None = None
    rollouts: RolloutFile | None = None
    finished: Sequence[Problem] = ()
    kept: RolloutFile | None = None
    failures: Failures = field(default_factory=Failures)
    tally: dict[str, int] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)

    @property
    def engine(self) -> Engine:
        """The engine that samples completions."""
        assert self.opened is not None, "a strategy registered with engine=False asked for one"
        return self.opened

    @property
    def file(self) -> RolloutFile:
        """The file that `--from` names."""
        assert self.rollouts is not None, "sample opens it for a strategy that needs --from"
        return self.rollouts

    @property
    def salt(self) -> str:
        """An id of the run, from policy, seed and round; every id that the run makes contains it."""
        return hashlib.blake2b(f"{self.policy}/{self.seed}/{self.round}".encode(), digest_size=4).hexdigest()

    def seed_of(self, *parts: object) -> int:
        """The seed of a sample that the parts identify, such as a problem's id and a number."""
        return derived_seed(self.seed, self.round, *parts)

    def coin_of(self, who: str, problem: Problem) -> Random:
        """The random generator for what `who` leaves to chance about a problem."""
        return Random(derived_seed(who, self.seed, self.round, problem.problem_id))

    def of(self, problems: Sequence[Problem]) -> "SamplingContext":
        """The same context for other problems."""
        return replace(self, problems=problems)

    def count(self, **more: int) -> None:
        """Add to the strategy's counts for the history, which cover the run from its beginning, across all stops. Call it
        right before yielding the rows that it is about: they are kept together."""
        for name, number in more.items():
            self.tally[name] = self.tally.get(name, 0) + number

    def generate(self, requests: Sequence[Request], sampling: Sampling | None = None) -> list[list[Completion]]:
        """The engine's completions of each request, with the run's sampling unless another is given. Does not call the engine
        without requests."""
        return self.engine.generate(requests, sampling or self.sampling) if requests else []

    # What an answer is worth

    def verify(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        """The reward of each answer [N] to its problem [N]: by the verifier that the user named, else by the task's own."""
        if self.verifier is not None:
            return RewardFunction.named(self.verifier).rewards_of(problems, texts, self.task.spec)
        who = f"task {self.task.spec}: verify"
        return [
            check_number(self.task.verify(text, each.reference), who)
            for each, text in zip(problems, texts, strict=True)
        ]

    def with_rewards(self, batch: Rollouts) -> Rollouts:
        """The batch with `reward`, from the same verifier."""
        scorer = self.verifier or "verify"
        return score_batch(batch, scorer, SCORERS.settle(scorer, None))

    # The loops of a run

    def portions(self, rows_at_once: int, rows: int | Sequence[int]) -> Iterator[Sequence[Problem]]:
        """The problems in portions of at most `rows_at_once` rollouts, but at least one problem each.

        rows: rollouts per problem, or one number for each. What a strategy yields for a portion is written before the
        next portion begins. Shows progress.
        """
        sizes = np.broadcast_to(np.asarray(rows, np.int64), len(self.problems))
        with self._shown(int(sizes.sum()), "rollouts"):
            reached = 0
            for first, last in split_by_size(sizes, rows_at_once):
                yield self.problems[first:last]
                reached += int(sizes[first:last].sum())
                self.meter.reach(reached)

    def batches(self) -> Iterator[Rollouts]:
        """The rollouts to continue, whole groups at a time."""
        skipped = len(self.finished)
        for batch in self.file.batches():
            if skipped < len(batch.groups):
                yield batch.slice(int(batch.groups.starts[skipped]), len(batch)) if skipped else batch
            skipped = max(0, skipped - len(batch.groups))

    def parts(
        self, rows_at_once: int | None = None, sizes: Callable[[Rollouts], Array] | None = None
    ) -> Iterator[Part]:
        """The rollouts to continue with their problems, in parts of at most `rows_at_once` rows, but at least one group; None
        takes the parts as the file has them.

        sizes: a function of a batch that gives [G] what counts in place of a group's rows. Shows progress.
        """
        problems = iter(self.problems)
        with self._shown(self.file.num_rows, "rollouts looked at"):
            for batch in self.batches():
                counts = batch.groups.sizes if sizes is None else sizes(batch)
                for first, last in split_by_size(counts, rows_at_once or len(batch)):
                    offsets = batch.groups.offsets
                    part = batch.slice(int(offsets[first]), int(offsets[last]))
                    yield Part(part, list(islice(problems, last - first)))
                    self.meter(len(part))

    def require(self, *needed: str) -> None:
        """Check that the file to continue has these columns. DataError if it lacks one."""
        require(self.file, needed, f"strategy {self.strategy!r}")

    @contextmanager
    def _shown(self, total: int, what: str) -> Iterator[None]:
        with progress(total, f"{self.strategy}, {what}") as advance:
            self.meter.advance, self.meter.done = advance, 0
            yield


def split_by_size(sizes: Array, most: int) -> Iterator[tuple[int, int]]:
    """[first, last) of consecutive items whose sizes [N] add up to at most `most`, at least one item each.

    >>> list(split_by_size(np.array([2, 3, 9, 0, 4]), 5))
    [(0, 2), (2, 3), (3, 5)]
    """
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last
