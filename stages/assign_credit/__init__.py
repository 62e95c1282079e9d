"""Turn rewards into credit: `token.advantage`. One file per method; this one finds and applies them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import ROLLOUTS_OUT, Chooses, Names, check_numbers
from ..core.ranges import Above, AtLeast

if TYPE_CHECKING:
    from ..core.driver import Written
    from ._in_memory import CreditInfo as CreditInfo
    from ._in_memory import TokenCredit as TokenCredit
    from ._in_memory import credit_tokens as credit_tokens


def __getattr__(name: str) -> Any:
    """`credit_tokens` and its like, for trainers that hold their rollouts in memory; the command line does without."""
    if name not in ("credit_tokens", "TokenCredit", "CreditInfo"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _in_memory

    return getattr(_in_memory, name)


@check_numbers
def assign_credit(
    rollouts: Annotated[Path, "Scored rollout file or directory, or - for standard input."],
    *,
    method: Annotated[str, "Credit method; see `apportion list methods`.", Chooses("methods", preset="preset")],
    settings: Annotated[
        Mapping[str, Any] | None, "Hyperparameter of the method, name=value; repeatable.", Names(("--set",))
    ] = None,
    preset: Annotated[str | None, "Conventions of a library: verl, trl, openrlhf …; --set overrides it."] = None,
    column: Annotated[
        str, "Column the credit gets: token.advantage, or token.advantage_NAME beside it.", Names(("--as",))
    ] = "advantage",
    clip: Annotated[float | None, "Cut credit off at plus and minus this, after the method.", Above(0)] = None,
    workers: Annotated[int, "Files of a directory processed at the same time.", AtLeast(1)] = 1,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", ROLLOUTS_OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Divide each rollout's reward among its tokens with one credit method.

    Writes `token.advantage` (with --as NAME, `token.advantage_NAME`): 0 where the mask is false. Groups whose rewards are all
    equal get the flag dead_group, groups of one the flag singleton.
    """
    from ...formats.errors import UsageError
    from ...formats.schema import credit_name
    from ..core.driver import map_rollouts
    from ._apply import Assigning
    from .kind import METHODS

    chosen = METHODS[method]
    options = METHODS.settle(method, settings, preset)
    column = credit_name(column)
    if not column.replace("_", "").isalnum():
        raise UsageError(f"--as must be letters, digits and underscores, got {column!r}")
    parameters = {"method": method, "settings": options, "column": column, "clip": clip}
    return map_rollouts(
        Assigning(method, column, options, clip), rollouts, out,
        stage="assign-credit", parameters=parameters, needs=chosen.ways_around(options),
        who=method, advice=f". `apportion list methods --for {rollouts}` shows what this file can take", force=force, workers=workers, whole=chosen.scope == "batch",
    )  # fmt: skip
