"""Rollouts → what is carried to the next iteration."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import OUT, Chooses, Names

if TYPE_CHECKING:
    from .kind import Updated


def remember(
    rollouts: Annotated[Path, "Scored rollout file or directory, or - for standard input."],
    *,
    what: Annotated[str, "What is kept; see `apportion list memories`.", Chooses("memories")] = "problems",
    earlier: Annotated[Path | None, "Memory of the iteration before, to go on with; none begins a new one."] = None,
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the memory, name=value; repeatable.", Names(("--set",))
    ] = None,
    out: Annotated[Path, "Memory to write, a Parquet file.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Updated":
    """Carry what rollouts taught to the next iteration: the record of every problem, or experience in words.

    A memory is a file of its own beside the rollouts, which scorers, strategies and methods read by `--set`. It is never
    changed: each iteration writes a new one. Rollouts that are in it already are refused.
    """
    from .kind import update_memory

    return update_memory(rollouts, what=what, earlier=earlier, settings=settings, out=out, force=force)
