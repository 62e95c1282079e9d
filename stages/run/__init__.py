"""Run a recipe: its steps in one process, unchanged ones skipped, killed ones taken up again."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..core.options import Names, Output

if TYPE_CHECKING:
    from ._run import Ran
    from .sweep import Sweep


def run(
    recipe: Annotated[str, "Name of a shipped recipe (`apportion list recipes`), or a YAML file."],
    *,
    settings: Annotated[
        Mapping[str, Any] | None, "Variable of the recipe, name=value or a.b=value; repeatable.", Names(("--set",))
    ] = None,
    folder: Annotated[
        Path | None, "Folder for all outputs; default runs/NAME.", Output(("--dir",), is_filled=True)
    ] = None,
    dry_run: Annotated[bool, "Print the plan and which steps are up to date; load and run nothing."] = False,
    keep: Annotated[
        Literal["all", "last"],
        "Checkpoints to keep: all, or the last; then those that nothing reads any more are deleted.",
    ] = "all",
    shell: Annotated[bool, "Print the recipe as shell commands; run nothing."] = False,
    log: Annotated[
        Literal["tensorboard", "trackio", "wandb"] | None,
        "Tracker that gets the figures of every step, and some rollouts with their credit; its package has to be installed.",
    ] = None,
    redact: Annotated[bool, "Leave prompts and responses out of what --log sends."] = False,
) -> "Ran | Sweep":
    """Run a recipe from start to end.

    Every output lands under runs/NAME. A step whose options, version and inputs are unchanged is skipped, so a run that
    was killed goes on where it was and ends with the same numbers. One run at a time works in a folder; what an earlier run
    made there it may make anew, but a file that no run made is never overwritten. How much disk the checkpoints need is said
    before.

    A list given to a variable that is none in the recipe is a sweep, such as --set seed=[0,1,2]: a run for each value, in a
    folder of its own; of several lists, for each combination. One that fails does not stop the others; the exit code is the
    first failure's. `apportion eval curve FOLDER` draws what they evaluated.

    Nothing is sent anywhere without --log, which says what goes where. What is up to date is not sent again.
    """
    from ._run import run_recipe

    return run_recipe(recipe, settings or {}, folder, dry_run=dry_run, shell=shell, keep=keep, log=log, redact=redact)
