"""Where SPO cuts a response: before every few of its unlikely tokens."""

import numpy as np

from ...formats.segments import Array, Segments


def cut_points(logprob: Array, mask: Array, tokens: Segments, *, below: float, every: int) -> tuple[Array, Array]:
    """(rows [C], lengths [C]): the rollout of each cut and the response tokens before it, in order.

    A cut stands before a policy token with probability under `below`; of a rollout's, the first and each `every`-th
    after it. logprob, mask: [T], in nat.

    >>> probs = np.array([0.99, 0.5, 0.95, 0.8, 0.3, 0.97, 0.6, 0.99])
    >>> cut_points(np.log(probs), probs > 0, Segments(np.array([0, 8])), below=0.9, every=2)[1].tolist()
    [1, 4]
    """
    with np.errstate(divide="ignore"):
        places = np.flatnonzero(mask & (logprob < np.log(below)))
    first = np.searchsorted(places, tokens.offsets)  # of each rollout's, among them
    kept = np.flatnonzero(Segments(first).positions % every == 0)
    rows = np.searchsorted(first, kept, side="right") - 1
    return rows, places[kept] - tokens.starts[rows]
