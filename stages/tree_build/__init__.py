"""Find what the rollouts of a group share: the `node` ruler."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..options import OUT

if TYPE_CHECKING:
    from ..driver import Written


def tree_build(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    workers: Annotated[int, "Files of a directory processed at the same time."] = 1,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Build the prefix tree of every group over token ids.

    Writes each rollout's path through its group's tree: `node.id`, `node.start`, `node.end` (response tokens) and
    `node.visits` (rollouts that pass through).
    """
    from ..driver import map_rollouts
    from .prefix_tree import add_prefix_tree

    return map_rollouts(
        add_prefix_tree, rollouts, out, stage="tree-build", parameters={"by": "token"}, force=force, workers=workers
    )
