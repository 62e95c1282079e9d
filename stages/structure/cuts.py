"""Where SPO cuts a response: before every few of its unlikely tokens."""

# Log-probabilities are float32 on disk, where a probability of exactly 0.9 is a little more than 0.9. Compared as float32,
# it is neither above nor below.

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
    places = np.flatnonzero(mask & is_below(logprob, below))
    first = np.searchsorted(places, tokens.offsets)  # of each rollout's, among them
    kept = np.flatnonzero(Segments(first).positions % every == 0)
    rows = np.searchsorted(first, kept, side="right") - 1
    return rows, places[kept] - tokens.starts[rows]


def is_below(logprob: Array, probability: float) -> Array:
    """[T] bool, the token is less probable than that. logprob: [T], nat.

    >>> is_below(np.log([0.8, 0.9, 0.95]).astype(np.float32), 0.9).tolist()
    [True, False, False]
    """
    return logprob.astype(np.float32) < _float32_log(probability)


def is_above(logprob: Array, probability: float) -> Array:
    """[T] bool, the token is more probable than that. logprob: [T], nat.

    >>> is_above(np.log([0.8, 0.9, 0.95]).astype(np.float32), 0.9).tolist()
    [False, False, True]
    """
    return logprob.astype(np.float32) > _float32_log(probability)


def _float32_log(probability: float) -> np.float32:
    with np.errstate(divide="ignore"):
        return np.float32(np.log(probability))
