"""Experience: the policy reads what earlier rollouts taught about what it sees, turn by turn."""

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
    """n rollouts of every problem of an environment task, told before each turn what a library knows of such a moment.

    The library is a memory of `remember --what experience`. An observation (`step.state`) finds its cluster as it was
    made there; shown are the entries of that cluster with the highest scores, or where it has none of a zone, those of
    the whole library. Before the first turn they are a system message of the prompt, and so in `prompt` and `prompt_ids`;
    later a system message of the environment's part, before the observation, under a false mask. They use up
    --max-tokens like observations; where they leave no room, the observation stands alone.

    Nothing is changed in the library: `step.advice` has the ids of what was shown before each step (null for nothing), which
    `remember --what experience --earlier LIBRARY` counts. Training keeps the advice in the context. `step.state` knows
    nothing of it.

    Args:
        library: the memory; none for rollouts without advice, as in the first round of a recipe.
        strategies: shown at most.
        warnings: shown at most.
        warmup: rounds (--round, from 0) in which nothing is shown.
        min_entries: a library with fewer is not used.
        template: the message; {advice} is replaced by a line an entry.
        strategy: such a line; {text} is replaced.
        warning: such a line; {text} is replaced.
        strategy_characters: of a strategy's text that are kept.
        warning_characters: of a warning's.
        characters: of the advice; lines that do not fit any more are left out.
        rows_at_once: rollouts generated before a part of the file is written; bounds the memory.

    Raises:
        UsageError: a task that is not played; a template without its name; an option out of range; no such file.
            DataError: a file that is no such memory.

    Departures: 1. In the paper every step has a prompt of its own, whose system message changes; here a rollout is one
        sequence, in which earlier advice remains readable. 2. Where the chat template has no system message in
        the middle, the advice opens the environment's message. 3. Zones are looked up apart, so that a cluster that has
        strategies only is still shown the library's best warning. 4. The paper's budget is 200 tokens; here it is
        characters, as in the released code.
    """
    if not is_played(context.task):
        raise UsageError(f"--strategy experience plays environment tasks, which {context.task.spec!r} is not")
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
    """The library in a file, whose clusters take up observations as they did when it was made."""
    table = MEMORIES["experience"].read(path)
    history = MemoryFile(path).provenance.history
    settings = history[-1].parameters.get("settings") if history else None
    try:
        return Library.of(table, matching=Matching.of(settings if isinstance(settings, Mapping) else {}))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
