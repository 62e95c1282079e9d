"""Experience: at every turn, the policy reads what earlier rollouts taught about such an observation."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated

from ....formats.errors import DataError, UsageError
from ....formats.memories import MemoryFile
from ....formats.rollouts import Rollouts
from ...core.ranges import AtLeast
from ...core.wording import check_template, fill
from ...remember.kind import MEMORIES
from ...remember.library import STRATEGY, WARNING, Library, Matching
from ...tasks.played import is_played
from ..kind import SamplingContext, strategy
from ._interact import UNTOLD, Advice, play_problems

TEMPLATE = "What earlier attempts taught, to be used where it fits:\n{advice}"


@strategy(
    source="arXiv:2603.18079 (SLEA-RL); the wording is ours",
    evidence="code",
    turns=True,
    makes=("step.advice",),
    system=("SLEA-RL",),
)
def experience(
    context: SamplingContext,
    *,
    library: Path | None = None,
    strategies: Annotated[int, AtLeast(0)] = 2,
    warnings: Annotated[int, AtLeast(0)] = 1,
    warmup: Annotated[int, AtLeast(0)] = 5,
    min_entries: Annotated[int, AtLeast(0)] = 10,
    template: str = TEMPLATE,
    strategy: str = "- {text}",
    warning: str = "- Avoid: {text}",
    strategy_characters: Annotated[int, AtLeast(0)] = 200,
    warning_characters: Annotated[int, AtLeast(0)] = 150,
    characters: Annotated[int, AtLeast(0)] = 800,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Rollouts of an environment task, n per problem; before each turn the policy reads advice from a library.

    The library is a memory made by `remember --what experience`. An observation (`step.state`) finds its cluster as it
    did there. The policy is shown the entries of that cluster with the highest scores. If the cluster has none of a
    zone, it is shown the best of the whole library. Before the first turn, the advice is a system message of the
    prompt, so it is in `prompt` and `prompt_ids`. Later it is a system message in the environment's part, before the
    observation and with a false mask. Advice uses up --max-tokens like observations. If it leaves no room, only the
    observation is shown.

    Sampling does not modify the library. `step.advice` has the ids of what was shown before each step (null for
    nothing), and `remember --what experience --earlier LIBRARY` counts them. Training keeps the advice in the context.
    `step.state` does not include it.

    Args:
        library: the memory; none for rollouts without advice, as in the first round of a recipe.
        strategies: how many strategies to show at most.
        warnings: how many warnings to show at most.
        warmup: number of rounds (--round, from 0) in which nothing is shown.
        min_entries: a library with fewer entries is not used.
        template: the message; {advice} is replaced by one line per entry.
        strategy: the line of a strategy; {text} is replaced.
        warning: the line of a warning; {text} is replaced.
        strategy_characters: length to which a strategy's text is cut.
        warning_characters: length to which a warning's text is cut.
        characters: length of the advice; lines that no longer fit are left out.
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.

    Raises:
        UsageError: a task that is not played; a template that lacks its placeholder; an option out of range; no such
            file. DataError: a file that is not such a memory.

    Departures: 1. In the paper every step has a prompt of its own, whose system message changes. Here a rollout is one
        sequence, in which earlier advice remains readable. 2. If the chat template allows no system message in the
        middle, the advice opens the environment's message. 3. Zones are looked up separately, so that a cluster that
        has only strategies is still shown the library's best warning. 4. The paper's budget is 200 tokens. Here it is
        in characters, as in the released code.
    """
    if not is_played(context.task):
        raise UsageError(f"--strategy experience plays environment tasks only; {context.task.spec!r} is not one")
    for option, text, name in (
        ("template", template, "advice"), ("strategy", strategy, "text"), ("warning", warning, "text"),
    ):  # fmt: skip
        check_template("experience", option, text, name)
    known = None if library is None else open_library(library)
    silent = known is None or context.round < warmup or len(known.entries) < min_entries
    counts = {STRATEGY: strategies, WARNING: warnings}
    lines = {STRATEGY: (strategy, strategy_characters), WARNING: (warning, warning_characters)}

    @cache
    def advise(state: str) -> Advice:
        if known is None or silent:
            return UNTOLD
        shown: list[str] = []
        names: list[str] = []
        for entry in known.best(state, counts):
            line, most = lines[entry.kind]
            line = fill(line, text=entry.text[:most])
            if len("\n".join([*shown, line])) <= characters:
                shown.append(line)
                names.append(entry.id)
        return Advice(fill(template, advice="\n".join(shown)), " ".join(names)) if shown else UNTOLD

    yield from play_problems(context, context.task, rows_at_once=rows_at_once, advise=advise)


def open_library(path: Path) -> Library:
    """The library in a file; its clusters take in observations as they did when it was made."""
    table = MEMORIES["experience"].read(path)
    history = MemoryFile(path).provenance.history
    settings = history[-1].parameters.get("settings") if history else None
    try:
        return Library.of(table, matching=Matching.of(settings if isinstance(settings, Mapping) else {}))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
