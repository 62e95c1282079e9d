"""Which rollout each one left, and where."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from .nodes import forks_of


@dataclass(frozen=True, eq=False)
class Ancestry:
    """R rollouts. parent: [R] the row of the one it left, -1 for none and for one that is not in the file. fork: [R] response
    tokens that it carries from there; 0 for none. is_branch: [R] bool, it left one, wherever that is."""

    parent: Array
    fork: Array
    is_branch: Array

    @classmethod
    def of(cls, rollouts: Rollouts) -> "Ancestry":
        """From `parent_id` and `fork`."""
        names, parents = (rollouts.arrow(path).cast(pa.string()) for path in ("rollout_id", "parent_id"))
        found = pc.call_function("index_in", [parents], pc.SetLookupOptions(value_set=names, skip_nulls=True))
        parent = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(parent, forks_of(rollouts), parents.is_valid().to_numpy(zero_copy_only=False))
