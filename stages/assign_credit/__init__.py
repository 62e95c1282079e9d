"""Turn rewards into credit: `token.advantage`. One file per method; this one finds and applies them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..options import OUT, Flag

if TYPE_CHECKING:
    from ..driver import Written


def assign_credit(
    rollouts: Annotated[Path, "Scored rollout file or directory, or - for standard input."],
    *,
    method: Annotated[str, "Credit method; see `apportion list methods`."],
    settings: Annotated[
        Mapping[str, Any] | None, "Hyperparameter of the method, name=value; repeatable.", Flag(("--set",))
    ] = None,
    column: Annotated[
        str, "Column the credit gets: token.advantage, or token.advantage_NAME beside it.", Flag(("--as",))
    ] = "advantage",
    out: Annotated[Path, "Rollout file to write, or - for standard output.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Divide each rollout's reward among its tokens with one credit method.

    Writes `token.advantage` (or `token.NAME` with --as NAME): 0 where the mask is false. Groups whose rewards are all
    equal get the flag dead_group, groups of one the flag singleton.
    """
    import numpy as np

    from ...formats.errors import DataError, UsageError
    from ...formats.rollouts import Rollouts
    from ..driver import map_rollouts
    from ._method import METHODS, Credit, resolve_options

    chosen = METHODS[method]
    options = resolve_options(chosen, settings or {})
    if not column.startswith("advantage"):
        column = f"advantage_{column}"
    if not column.replace("_", "").isalnum():
        raise UsageError(f"--as {column}: needed are letters, digits and underscores")

    def credited(batch: Rollouts) -> Rollouts:
        credit = Credit(batch)
        values = chosen.function(credit, **options)
        if len(values) == len(batch) and chosen.granularity == "rollout":
            values = batch.tokens.spread(values)
        values = np.where(batch.mask, values, 0.0).astype(np.float32)
        if not np.isfinite(values).all():
            row = int(np.searchsorted(batch.tokens.offsets, np.flatnonzero(~np.isfinite(values))[0], "right") - 1)
            raise DataError(f"row {row}: {method} gave credit that is not finite; check its reward and options")
        result = batch.with_columns({f"token.{column}": batch.token_ids.with_values(values)})
        groups = batch.groups
        alone = groups.spread(groups.sizes == 1)
        result = result.with_flag("singleton", alone)
        if "reward" in chosen.needs:
            result = result.with_flag("dead_group", groups.spread(groups.constant(credit.reward)) & ~alone)
        return result

    return map_rollouts(
        credited,
        rollouts,
        out,
        stage="assign-credit",
        parameters={"method": method, "settings": options, "column": column},
        needs=chosen.needs,
        who=method,
        force=force,
    )
