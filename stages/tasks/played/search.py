"""Registers the search tool; the tool itself is in _search.py, which needs bm25s."""

from pathlib import Path
from typing import Annotated, Any

from ....formats.errors import UsageError
from ...core.ranges import AtLeast
from ..kind import task_family
from . import import_optional
from .tools import ToolTask, open_tool


@task_family("tool/search", played=True, source="ours; BM25 by bm25s")
def open_search(
    spec: str,
    /,
    *,
    of: str | None = None,
    corpus: str | None = None,
    results: Annotated[int, AtLeast(1)] = 3,
    characters: Annotated[int, AtLeast(1)] = 500,
    max_turns: Annotated[int, AtLeast(1)] = 6,
    turn_tokens: Annotated[int | None, AtLeast(1)] = None,
    **options: Any,
) -> ToolTask:
    """The problems of another task, with a search tool for your own corpus at hand.

    Select it with `--task tool/search --task-set of=questions.jsonl --task-set corpus=texts.jsonl`. Further options go
    to the task `of`.

    Args:
        of: the task that provides the problems, a `--task` value; required.
        corpus: a file with the columns id and text; required.
        results: how many passages to show.
        characters: how many characters of each passage to show.
        max_turns: turns after which the rollout ends.
        turn_tokens: tokens after which a turn ends; None leaves that to the policy.
    """
    import_optional("bm25s", spec)
    from ._search import search_box

    if not corpus:
        raise UsageError(
            f"task {spec!r}: the option 'corpus' is missing; name a file with the columns id and text: --task-set corpus=texts.jsonl"
        )
    box = search_box(Path(corpus), results, characters)
    own = {"corpus": corpus, "results": results, "characters": characters}
    return open_tool(spec, of, box, options, own, max_turns=max_turns, turn_tokens=turn_tokens)
