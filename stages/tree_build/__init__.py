"""Find what the rollouts of a group share: the `node` ruler."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ..core.options import ROLLOUTS_OUT, check_numbers
from ..core.ranges import AtLeast

if TYPE_CHECKING:
    from ..core.driver import Written


@check_numbers
def tree_build(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    by: Annotated[Literal["token", "step", "state"], "What is shared: token prefixes, steps, or states."] = "token",
    workers: Annotated[int, "Files of a directory processed at the same time.", AtLeast(1)] = 1,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", ROLLOUTS_OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Find what the rollouts of a group share: the tree of their prefixes or steps, or the states they meet in again.

    A rollout's path through the tree is its `node.id`, with `node.start` and `node.end` in response tokens and `node.visits`,
    the number of rollouts that pass through.

    By token it is the prefix tree over token ids: a node is a run of tokens that the same rollouts have. By step a node
    is one step, after the same steps, so that depth counts steps (`score --with steps` makes them). By state there is
    no tree: `step.state_id` is equal where steps of a group began in the same `step.state`, which rollouts may reach by
    different tokens; `step.state_visits` counts them.
    """
    from ..core.driver import map_rollouts
    from ..structure.prefix_tree import add_prefix_tree
    from ..structure.state_groups import add_state_groups
    from ..structure.step_tree import add_step_tree

    build, needs = {
        "token": (add_prefix_tree, ()),
        "step": (add_step_tree, ("step.start", "step.end")),
        "state": (add_state_groups, ("step.start", "step.state")),
    }[by]
    return map_rollouts(
        build, rollouts, out, stage="tree-build", parameters={"by": by}, needs=needs, who=f"--by {by}", force=force,
        workers=workers,
    )  # fmt: skip
