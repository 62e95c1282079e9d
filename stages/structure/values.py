"""Values of states from probes, and what follows from them, for methods with a value estimate."""

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array, Segments
from .batch import Credit


def state_values(
    credit: Credit, rows: Array, lengths: Array, *, of: str, vine: str, truncated: float | None = None
) -> Array:
    """[S] mean reward of the probes that continue each state; NaN for a state that no probe continues.

    A state is the first `lengths` [S] response tokens of a rollout `rows` [S]. Equal prefixes in a group are one state
    and share their probes. truncated: what a probe that ended at the token limit counts as; None leaves its reward.
    DataError when there are no probes at all, or none that continues any state of a group: all of its credit would be 0.
    of: what a state is, "cut" or "step"; vine: the options of strategy `vine` that continues such states.
    """
    probes = credit.probes
    remedy = f"run `apportion sample --from IN --strategy vine {vine} -o OUT` first, and score that"
    if len(credit.rollouts) and not len(probes.reward):
        raise DataError(f"no probes (rollouts whose purpose is probe) that continue these rollouts; {remedy}")
    reward = probes.reward if truncated is None else np.where(probes.truncated, truncated, probes.reward)
    own, continued = _state_keys(credit, rows, lengths)
    sums = np.bincount(continued, weights=reward, minlength=own.max(initial=-1) + 1)
    counts = np.bincount(continued, minlength=len(sums))
    _check_measured(credit, rows, lengths, counts[own] > 0, of, remedy)
    return np.where(counts[own] > 0, sums[own] / np.maximum(counts[own], 1), np.nan)


def _check_measured(credit: Credit, rows: Array, lengths: Array, measured: Array, of: str, remedy: str) -> None:
    """DataError for the first group that has states, of which none is `measured` [S] bool."""
    group, groups = credit.groups.ids[rows], len(credit.groups)
    states = np.bincount(group, minlength=groups)
    unmeasured = np.flatnonzero((states > 0) & (np.bincount(group[measured], minlength=groups) == 0))
    if not len(unmeasured):
        return
    first = int(unmeasured[0])
    names, probes = credit.rollouts.strings("rollout_id"), credit.probes
    own, theirs = np.flatnonzero(group == first), np.flatnonzero(credit.groups.ids[probes.parent] == first)
    row = int(rows[own[0]])
    found = f"{of}s: {states[first]}, e.g. at response token {int(lengths[own[0]])} of {names[row]!r}"
    if len(theirs):
        at, parent = int(probes.fork[theirs[0]]), names[int(probes.parent[theirs[0]])]
        found += f"; probes: {len(theirs)}, e.g. from response token {at} of {parent!r}"
    else:
        found += "; probes: none"
    group_id = credit.rollouts.strings("group_id")[row]
    raise DataError(f"row {row}, group {group_id!r}: no probe begins at a {of} ({found}); {remedy}")


def state_counts(credit: Credit, rows: Array, lengths: Array) -> Array:
    """[S] int64 probes that continue each state, states as in `state_values`."""
    own, continued = _state_keys(credit, rows, lengths)
    return np.bincount(continued, minlength=own.max(initial=-1) + 1)[own]


def _state_keys(credit: Credit, rows: Array, lengths: Array) -> tuple[Array, Array]:
    """([S] of the states, [K] of the probes): equal where a probe continues the state."""
    probes = credit.probes
    keys = credit.prefixes.keys(np.concatenate((rows, probes.parent)), np.concatenate((lengths, probes.fork)))
    return keys[: len(rows)], keys[len(rows) :]


def fill_from_the_end(values: Array, states: Segments, last: Array) -> Array:
    """[S] values with each NaN replaced by the next value of its rollout, or by `last` [R] where none follows.

    states: the states [S] of each rollout, in order.

    >>> nan = float("nan")
    >>> fill_from_the_end(np.array([nan, 0.5, nan]), Segments(np.array([0, 3])), np.array([1.0])).tolist()
    [0.5, 0.5, 1.0]
    """
    if not len(values):
        return values
    known = np.where(np.isnan(values), len(values), np.arange(len(values)))
    following = np.minimum.accumulate(known[::-1])[::-1]
    inside = following < states.spread(states.offsets[1:])
    return np.where(inside, values[np.minimum(following, len(values) - 1)], states.spread(last))


def value_changes(values: Array, states: Segments, final: Array) -> Array:
    """[S] how much each state's value [S] changes up to the next state of its rollout, or up to `final` [R] after the last.

    states: the states [S] of each rollout, in order.

    >>> value_changes(np.array([0.5, 0.75, 0.25]), Segments.of_sizes(np.array([2, 1])), np.array([1.0, 0.0])).tolist()
    [0.25, 0.25, -0.25]
    """
    following = np.append(values[1:], 0.0)[: len(values)]
    filled = states.sizes > 0
    following[states.offsets[1:][filled] - 1] = final[filled]
    return following - values
