"""What a simulated continuation of a search says about where it began. Used by GroundedPRM's search and its credit."""

from typing import Literal

import numpy as np

from ...formats.segments import Array, Segments


def simulation_values(
    check: Array, rows: Segments, answer: Array, outcome_weight: Literal["1/N"] | float = "1/N"
) -> Array:
    """The value of each simulation: checks of its virtual steps, the earlier the heavier, and its answer's.

        U     = 1/N · Σ_{j=1..N} v_j · (N - j + 1)/N    0 for N = 0
        final = U + F/max(N, 1)                         outcome_weight = "1/N";  U + outcome_weight · F otherwise

    Args:
        check: [S] v, +1, -1 or 0, of the virtual steps but the last, which stands for the answer.
        rows: those steps [S] of each of the R simulations.
        answer: [R] F, +1 for a right answer and -1 for a wrong one.
        outcome_weight: β of the answer.

    Returns:
        [R] values.

    >>> rows = Segments.of_sizes(np.array([3, 2, 0]))
    >>> simulation_values(np.array([1, -1, 1, 1, 1]), rows, np.array([1, -1, -1])).round(6).tolist()
    [0.555556, 0.25, -1.0]
    """
    size = np.maximum(rows.sizes, 1).astype(np.float64)
    summed = rows.sum(check * (rows.spread(size) - rows.positions) / rows.spread(size)) / size  # j = position + 1
    return summed + answer * (1 / size if outcome_weight == "1/N" else outcome_weight)
