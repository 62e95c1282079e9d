"""Problems: what a memory knows of the problem a rollout is about."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....formats.rollouts import Rollouts
from ....formats.schema import Field
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...remember.kind import MEMORIES
from ...remember.problems import ProblemHistory
from ..kind import scorer

KNOWN = (
    Field("problem.rollouts", pa.int32(), "rollouts of its problem that the memory keeps", "rollouts", least=0),
    Field("problem.success", pa.float64(), "share of them that were right; null: none is known", least=0, most=1),
    Field("problem.right_length", pa.float64(), "length of the longest right one", "token", least=0),
    Field(
        "problem.wrong_length", pa.float64(), "mean length of the wrong ones that were not cut off", "token", least=0
    ),
)


@scorer(
    needs=("problem_id",),
    granularity="rollout",
    source="ours; what ADORA's weights are made of",
    evidence="code",
    makes=KNOWN,
    system=("ADORA",),
)
def problems(
    rollouts: Rollouts, *, memory: Path, correct: float = 0.5, iterations: Annotated[int | None, AtLeast(1)] = None
) -> Mapping[str, pa.Array]:
    """How often a rollout's problem was solved in the iterations a memory keeps, and how long right and wrong were.

    `apportion remember SCORED --earlier MEMORY -o MEMORY2` makes the memory. Remember a file before it is scored with
    this, and its own rollouts are among those counted.

    Args:
        memory: of `remember --what problems`.
        correct: a response is right if its reward is above.
        iterations: only the problem's latest so many; None is all there are.

    Returns:
        {"problem.rollouts": how many are remembered, 0 for a problem that is not, "problem.success": share of right ones,
        "problem.right_length": tokens of the longest right one, "problem.wrong_length": mean tokens of the wrong ones that
        were not truncated}; missing (null) where there is none.

    Raises:
        UsageError: no such file; iterations below 1. DataError: a file that is no such memory.
    """
    state = memory.stat() if memory.is_file() else None
    names, values = _known(memory, correct, iterations, state and (state.st_mtime_ns, state.st_size, state.st_ino))
    wanted = rollouts.arrow("problem_id").cast(pa.string())
    found = pc.call_function("index_in", [wanted], pc.SetLookupOptions(value_set=pa.array(names, pa.string())))
    columns = {name: pa.array(each, from_pandas=True).take(found) for name, each in values.items()}  # NaN is missing
    count = columns["problem.rollouts"].cast(pa.int32())
    return {**columns, "problem.rollouts": count.fill_null(0)}


@lru_cache(maxsize=1)
def _known(
    memory: Path, correct: float, iterations: int | None, state: tuple[int, ...] | None
) -> tuple[list[str], dict[str, Array]]:
    """(names [P], {column: [P]}) of a memory's problems. state: tells one file of that name from another."""
    table = MEMORIES["problems"].read(memory)
    record = ProblemHistory.of(table)
    reward, length, truncated = (
        np.asarray(table[name])[record.order] for name in ("reward", "length", "truncated")
    )  # fmt: skip
    use = np.ones(len(reward), bool) if iterations is None else record.age < iterations
    right = use & (reward > correct)
    wrong = use & ~right & ~truncated
    each = record.problems
    counts = {
        name: each.sum(where).astype(np.float64) for name, where in (("all", use), ("right", right), ("wrong", wrong))
    }
    longest = each.max(np.where(right, length, -1).astype(np.float64))
    total = each.sum(np.where(wrong, length, 0).astype(np.float64))
    with np.errstate(invalid="ignore"):
        return record.names, {
            "problem.rollouts": counts["all"],
            "problem.success": counts["right"] / counts["all"],
            "problem.right_length": np.where(counts["right"] > 0, longest, np.nan),
            "problem.wrong_length": total / np.where(counts["wrong"] > 0, counts["wrong"], np.nan),
        }
