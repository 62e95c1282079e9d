"""The record of every problem: what its rollouts of recent iterations earned, and how long they were."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.flags import NOT_OWN
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..core.ranges import AtLeast
from .kind import memory


@memory(
    needs=("problem_id", "reward"),
    source="ours; what ADORA and Knapsack RL (arXiv:2509.25849) look at",
    evidence="code",
    schema=pa.schema(
        {
            "problem_id": pa.string(),
            "iteration": pa.int32(),
            "reward": pa.float64(),
            "length": pa.int32(),
            "truncated": pa.bool_(),
        }
    ),
    system=(
        "ADORA",
        "Knapsack RL",
    ),
)
def problems(
    batches: Iterator[Rollouts], earlier: pa.Table | None, *, iterations: Annotated[int, AtLeast(1)] = 16
) -> pa.Table:
    """Reward and length of every rollout of a problem, for the latest iterations that sampled it.

    Each row is a rollout: `problem_id`, `iteration` (from 0, one per call of `remember`), `reward`, `length` in tokens
    the policy wrote, `truncated`. Only rollouts that the policy made from the prompt alone count. Probes and
    evaluations are left out, and so is anything flagged error, demonstration, hinted, retried, reflection, guided,
    refined, intervention, edited or partial.

    `score --with problems` reads this memory for methods such as `adora`; so does the strategy `budget`.

    Args:
        iterations: how many of each problem's latest iterations to keep.

    Raises:
        UsageError: iterations below 1. DataError: a rollout without a reward or a problem_id.
    """
    number = 0 if earlier is None or not earlier.num_rows else int(np.asarray(earlier["iteration"]).max()) + 1
    parts = [] if earlier is None else [earlier]
    for batch in batches:
        rows = of_the_prompt(batch)
        reward = batch.numbers("reward").astype(np.float64)[rows]
        if not np.isfinite(reward).all():
            row = int(rows[np.flatnonzero(~np.isfinite(reward))[0]])
            raise DataError(f"row {row}, column 'reward': missing; run `apportion score IN --with verify -o OUT` first")
        taken = pa.array(rows)
        names = batch.arrow("problem_id").cast(pa.string()).take(taken)
        if names.null_count:
            row = int(rows[np.flatnonzero(np.asarray(names.is_null()))[0]])
            raise DataError(f"row {row}, column 'problem_id': missing; a record needs to know the problem")
        parts.append(
            pa.table(
                {
                    "problem_id": names,
                    "iteration": pa.array(np.full(len(rows), number, np.int32)),
                    "reward": pa.array(reward),
                    "length": pa.array(batch.tokens.sum(batch.mask)[rows].astype(np.int32)),
                    "truncated": pa.array(batch.flagged("truncated")[rows]),
                }
            )
        )
    table = pa.concat_tables(parts).combine_chunks()
    record = ProblemHistory.of(table)
    return table.take(pa.array(record.order[record.age < iterations]))


@dataclass(frozen=True, eq=False)
class ProblemHistory:
    """A table of this memory, sorted by problem and iteration. N rows, P problems.

    order: [N] the table's rows. names: [P] problem ids. problems: rows [N] of each problem. age: [N] how many newer
    iterations the problem has, 0 for the latest.
    """

    order: Array
    names: list[str]
    problems: Segments
    age: Array

    @classmethod
    def of(cls, table: pa.Table) -> "ProblemHistory":
        encoded = table["problem_id"].combine_chunks().dictionary_encode()
        codes = np.asarray(encoded.indices).astype(np.int64)
        names = encoded.dictionary.to_pylist()
        iteration = np.asarray(table["iteration"]).astype(np.int64)
        order = np.lexsort((iteration, codes))
        problems = Segments.of_runs(codes[order])
        changed = np.diff(iteration[order], prepend=-1) != 0
        changed[problems.starts] = False
        count = problems.cumsum(changed.astype(np.int64))
        return cls(order, names, problems, (problems.spread(problems.last(count)) - count).astype(np.int64))


def of_the_prompt(batch: Rollouts) -> Array:
    """[M] the complete training rows that the policy made from the prompt alone."""
    made = np.any([batch.flagged(flag) for flag in NOT_OWN], axis=0)
    return np.flatnonzero(batch.for_training & ~made)
