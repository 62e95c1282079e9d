"""Turn rewards into credit: `token.advantage`. One file per method; this one finds and applies them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import ROLLOUTS_OUT, Chooses, Names, check_numbers
from ..core.ranges import Above, AtLeast
from ..core.several import Several

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
    method: Annotated[
        Several,
        "Credit method, or several, a,b; see `apportion list methods`.",
        Chooses("methods", preset="preset", several=True),
    ],
    settings: Annotated[
        Mapping[str, Any] | None,
        "Hyperparameter of the method, name=value, of several method.name=value; repeatable.",
        Names(("--set",)),
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

    Several methods, `--method grpo,tempo`, are applied in one pass. Each writes `token.advantage_METHOD`, the same as a command
    of its own with --as METHOD would.
    """
    from ...formats.errors import UsageError
    from ...formats.schema import credit_name
    from ..core.driver import map_rollouts
    from ..core.several import dotted, names_in, one_or_more, settle_each, short_name, who_needs
    from ._apply import Assigning, Assignment
    from .kind import METHODS

    names = names_in(method, "--method")
    settled = settle_each(METHODS, names, settings, preset)
    column = credit_name(column)
    if len(names) > 1 and column != "advantage":
        raise UsageError(f"--as names the column of one method, got {len(names)} methods; each writes advantage_METHOD")
    columns = [column] if len(names) == 1 else [credit_name(short_name(name)) for name in names]
    if len(set(columns)) < len(columns):
        raise UsageError(
            f"--method {','.join(names)}: two would write one column; give them in commands of their own, with --as"
        )
    for each in columns:
        if not each.replace("_", "").isalnum():
            raise UsageError(f"--as must be letters, digits and underscores, got {each!r}")
    needs, who = who_needs({each.name: each.entry.ways_around(each.options) for each in settled})
    parameters = {"method": one_or_more(names), "settings": dotted(settled), "column": column, "clip": clip}
    assignments = [Assignment(each.name, name, each.options) for each, name in zip(settled, columns, strict=True)]
    batchwise = [each.name for each in settled if each.entry.scope == "batch"]
    return map_rollouts(
        Assigning(assignments, clip), rollouts, out,
        stage="assign-credit", parameters=parameters, needs=needs, who=who if len(names) > 1 else names[0],
        advice=f". `apportion list methods --for {rollouts}` shows what this file can take", force=force, workers=workers,
        whole=bool(batchwise),
    )  # fmt: skip
