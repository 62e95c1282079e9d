"""Count rollouts that failed while the others went on."""

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
    """Counts of a run from its beginning, across all stops. seen: the error of the first failure.

    questions, unanswered: questions put to the policy about rollouts since this command began, and those without
    answer.
    """

    asked: int = 0
    failed: int = 0
    seen: str = ""
    questions: int = 0
    unanswered: int = 0

    @classmethod
    def of(cls, kept: RolloutFile, source: RolloutFile | None) -> "Failures":
        """The counts of what a stopped run kept, without the rows of the source that it continues."""
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
        """Count more rollouts of the run."""
        failed = [completion for completion in completions if completion.finish_reason == "error"]
        self.asked += len(completions)
        self.failed += len(failed)
        self.seen = self.seen or next((each.error for each in failed if each.error), "")

    def count_answers(self, completions: Sequence[Completion]) -> None:
        """Count the policy's answers about rollouts, which are not rollouts themselves."""
        failed = [completion for completion in completions if completion.finish_reason == "error"]
        self.questions += len(completions)
        self.unanswered += len(failed)
        self.seen = self.seen or next((each.error for each in failed if each.error), "")

    def checked(self, batches: Iterable[Rollouts]) -> Iterator[Rollouts]:
        """The same batches; ApportionError after the last one if every rollout failed."""
        yield from batches
        if self.failed and self.failed == self.asked:
            raise ApportionError(f"all {self.asked:,} rollouts failed{self._why}; nothing was written")

    def written(self, out: str, counts: Mapping[str, int], usage: Usage | None = None) -> "Sampled":
        """What the run wrote, and what its engine did for it."""
        silent = ""
        if self.unanswered:
            silent = f"; {self.unanswered:,} of {self.questions:,} questions to the policy got no answer{self._why}"
        if not self.failed:
            return Sampled(out, **counts, usage=usage, silent=silent)
        return Partly(out, **counts, usage=usage, silent=silent, failed=self.failed, why=self._why)

    @property
    def _why(self) -> str:
        return f" (the first: {self.seen})" if self.seen else ""


@dataclass(frozen=True)
class Sampled(Written):
    """What a run wrote. usage: its engine's, since this command began; None if no engine counts.

    silent: a remark on the questions about rollouts that got no answer.
    """

    usage: Usage | None
    silent: str = field(repr=False)

    def line(self) -> str:
        """The summary line, with the share of prompt tokens found in the cache if the engine knows it."""
        if self.usage is None or self.usage.cached_share is None:
            return f"{super().line()}{self.silent}"
        share, given = self.usage.cached_share, self.usage.prompt_tokens
        return f"{super().line()}; {share:.0%} of {given:,} prompt tokens from the prefix cache{self.silent}"


@dataclass(frozen=True)
class Partly(Sampled):
    """What a run wrote when some of its rollouts failed."""

    failed: int
    why: str = field(repr=False)

    def fault(self) -> PartialError:
        """The error that the command ends with."""
        return PartialError(f"{self.out}: {self.failed:,} rollouts failed{self.why}; they are flagged error")
