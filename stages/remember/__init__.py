"""Turn rollouts into a memory for the next iteration."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import OUT, Chooses, Names

if TYPE_CHECKING:
    from .kind import Updated


def remember(
    rollouts: Annotated[Path, "Scored rollout file or directory, or - for standard input."],
    *,
    what: Annotated[str, "Kind of memory; see `apportion list memories`.", Chooses("memories")] = "problems",
    earlier: Annotated[Path | None, "Memory of the previous iteration to continue; omit it to start a new one."] = None,
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the memory, name=value; repeatable.", Names(("--set",))
    ] = None,
    out: Annotated[Path, "Parquet file to write the memory to.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Updated":
    """Carry what the rollouts taught into the next iteration: a record of every problem, or experience in words.

    A memory is a separate file next to the rollouts. Scorers, strategies and methods read it through `--set`. A memory
    is never modified: each iteration writes a new one. Rollouts that are already in the memory are refused.
    """
    from .kind import update_memory

    return update_memory(rollouts, what=what, earlier=earlier, settings=settings, out=out, force=force)
