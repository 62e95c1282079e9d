"""The kind of entry that makes a sampling strategy: which prefixes to continue, how often, and with what."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...formats.errors import UsageError
from ...formats.parquet import files_of
from ...formats.schema import Field
from ..core.kinds import Entry, Evidence, Kind
from ..tasks import Task
from ..tasks.played import is_played
from .context import SamplingContext as SamplingContext
from .dialogue import Dialogue

CONTINUES = "--from"
PLAYED = (
    "reward", "environment_seed", "step.start", "step.end", "step.kind", "step.state", "step.reward", "step.valid",
)  # fmt: skip  # columns that an environment task brings


@dataclass(frozen=True, kw_only=True)
class Strategy(Entry):
    """A registered strategy. `function(context, **options)` yields batches of whole groups.

    needs: "--from" if it continues rollouts. engine: False if it generates nothing. turns: True if it plays environment
    tasks. verifies: True if it asks the task's verifier, or shows the policy the reference answer. remark(counts, **options): a one-line remark on a whole run from its counts; None for no remark. dialogue:
    the question about rollouts that it puts to the policy, if `critique` can teach the answer.
    """

    engine: bool = True
    turns: bool = False
    verifies: bool = False
    remark: Callable[..., str | None] | None = None
    dialogue: type[Dialogue] | None = None

    def usage_of(self, kind: Kind[Any]) -> str:
        """The command that uses it, with --from if it continues rollouts."""
        usage = super().usage_of(kind)
        return usage.replace("sample", "sample --from IN") if CONTINUES in self.needs else usage


STRATEGIES: Kind[Strategy] = Kind(
    "strategies", "strategy", __package__ or "", "apportion sample --strategy {name} -o OUT"
)


def check_turns(chosen: Strategy, task: Task) -> None:
    """Check strategy and task. UsageError if the task is played and the strategy cannot play."""
    if is_played(task) and not chosen.turns:
        able = ", ".join(each.name for each in STRATEGIES if each.turns)
        raise UsageError(f"--strategy {chosen.name} cannot play the environment of {task.spec!r}; choose {able}")


def strategy(
    *,
    source: str,
    evidence: Evidence | None = None,
    needs: tuple[str, ...] = (),
    makes: tuple[str | Field, ...] = (),
    engine: bool = True,
    turns: bool = False,
    verifies: bool = False,
    remark: Callable[..., str | None] | None = None,
    dialogue: type[Dialogue] | None = None,
    system: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Register the function under its own name. Its keyword-only parameters become `--set` options."""
    return STRATEGIES.adder(
        Strategy, needs=needs, makes=makes, source=source, evidence=evidence, system=system, engine=engine, turns=turns,
        verifies=verifies, remark=remark, dialogue=dialogue,
    )  # fmt: skip


def named_files(options: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """(option/number, file) of every file that an option names, directories expanded. UsageError if one is missing."""
    for name, value in options.items():
        paths = [value] if isinstance(value, Path) else value if isinstance(value, list | tuple) else []
        files = [file for path in paths if isinstance(path, Path) for file in files_of(path)]
        for number, file in enumerate(files):
            if not file.is_file():
                raise UsageError(f"{file}: no such file")
            yield f"{name}/{number}", file
