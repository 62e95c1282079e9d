"""A credit method applied to a batch: its values as a column, and the flags that say where there was nothing to learn."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ._method import METHODS, Credit


def credited(batch: Rollouts, method: str, column: str, options: Mapping[str, Any]) -> Rollouts:
    """The batch with `token.{column}`, 0 where the mask is false, and the flags dead_group and singleton.

    DataError when the method gives a value that is not finite.
    """
    chosen = METHODS[method]
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
