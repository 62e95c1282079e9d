"""Rollouts that failed while the others went on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...formats.errors import ApportionError, PartialError
from ...formats.flags import ERROR
from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ...formats.schema import paths_of
from ..core.driver import Written
from ..models.engine import Completion, Usage


@dataclass
class Failures:
    """Counts of a run, from its beginning, however often it was stopped. seen: what was wrong with the first one.

    questions, unanswered: what the policy was asked about rollouts, and got no answer to, since this command began.
    """

    asked: int = 0
    failed: int = 0
    seen: str = ""
    questions: int = 0
    unanswered: int = 0

    @classmethod
    def of(cls, kept: RolloutFile, source: RolloutFile | None) -> "Failures":
        """Those of what a run kept when it was stopped. The rows of the source, which it goes on from, are not its own."""
        found = cls()
        others = (
            {name for batch in source.row_groups(["rollout_id"]) for name in batch.strings("rollout_id")}
            if source is not None
            else set[str]()
        )
        columns = [path for path in ("rollout_id", "flags", "error") if path in paths_of(kept.schema)]
        for batch in kept.row_groups(columns):
            own = np.array([name not in others for name in batch.strings("rollout_id")], bool)
            failed = own & batch.flagged(ERROR)
            found.asked += int(own.sum())
            found.failed += int(failed.sum())
            if "error" in batch and not found.seen:
                why = batch.strings("error")
                found.seen = next((why[row] for row in np.flatnonzero(failed).tolist() if why[row]), "")
        return found

    def count(self, completions: Sequence[Completion]) -> None:
        """More rollouts of the run."""
        failed = [completion for completion in completions if completion.finish_reason == "error"]
        self.asked += len(completions)
        self.failed += len(failed)
        self.seen = self.seen or next((each.error for each in failed if each.error), "")

    def count_answers(self, completions: Sequence[Completion]) -> None:
        """Answers of the policy about rollouts, which are no rollouts themselves."""
        failed = [completion for completion in completions if completion.finish_reason == "error"]
        self.questions += len(completions)
        self.unanswered += len(failed)
        self.seen = self.seen or next((each.error for each in failed if each.error), "")

    def checked(self, batches: Iterable[Rollouts]) -> Iterator[Rollouts]:
        """The same; ApportionError at their end where every rollout failed."""
        yield from batches
        if self.failed and self.failed == self.asked:
            raise ApportionError(f"all of {self.asked:,} rollouts failed{self._why}; nothing is written")

    def written(self, out: str, counts: Mapping[str, int], usage: Usage | None = None) -> "Sampled":
        """What the run wrote, and what its engine did for it."""
        silent = ""
        if self.unanswered:
            silent = f"; no answer to {self.unanswered:,} of {self.questions:,} questions to the policy{self._why}"
        if not self.failed:
            return Sampled(out, **counts, usage=usage, silent=silent)
        return Partly(out, **counts, usage=usage, silent=silent, failed=self.failed, why=self._why)

    @property
    def _why(self) -> str:
        return f" (the first: {self.seen})" if self.seen else ""


@dataclass(frozen=True)
class Sampled(Written):
    """What a run wrote. usage: of its engine, since this command began; None where it does not count, or there is none.

    silent: the questions about rollouts that got no answer, in words.
    """

    usage: Usage | None
    silent: str = field(repr=False)

    def line(self) -> str:
        """With the share of the prompts that was not computed, where the engine knows it."""
        if self.usage is None or self.usage.cached_share is None:
            return f"{super().line()}{self.silent}"
        share, given = self.usage.cached_share, self.usage.prompt_tokens
        return f"{super().line()}; {share:.0%} of {given:,} prompt tokens from the prefix cache{self.silent}"


@dataclass(frozen=True)
class Partly(Sampled):
    """The same, with some of the rollouts failed."""

    failed: int
    why: str = field(repr=False)

    def fault(self) -> PartialError:
        """What the command ends with."""
        return PartialError(f"{self.out}: {self.failed:,} rollouts failed{self.why}; they are flagged error")
