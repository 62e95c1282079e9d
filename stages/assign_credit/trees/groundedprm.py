"""GroundedPRM: value of each step of a tree, from the checks of the steps after it and of the final answer."""

from typing import Annotated, Literal

import numpy as np

from ....formats.errors import UsageError
from ....formats.segments import Array, Segments
from ...core.options import options_of
from ...core.ranges import Between
from ...structure.prefixes import Prefixes
from ...structure.simulations import simulation_values
from ...structure.turns import Decisions
from ..kind import credit_method

SEARCHED = "step.search_value"


@credit_method(
    needs=("reward", "step.start", "step.end", "step.reward"),
    needs_with=lambda *, tree, **_: (SEARCHED,) if tree == "search" else (),
    granularity="step",
    methodology="monte-carlo",
    source="arXiv:2510.14942",
    evidence="guess",
    system=("GroundedPRM",),
)
def groundedprm(
    reward: Array,
    step_reward: Array,
    decisions: Decisions,
    prefixes: Prefixes,
    step_search_value: Array | None = None,
    *,
    outcome_weight: Literal["1/N"] | float = "1/N",
    decay: Annotated[float, Between(0, 1)] = 0.9,
    correct_above: float = 0.0,
    pool: Literal["sum", "mean"] = "sum",
    label: bool = False,
    tree: Literal["auto", "search", "rollouts"] = "auto",
) -> Array:
    """Tree-search value of a step: verified steps and final answer of the simulations below it, decayed with distance.

        F     = +1 where R > correct_above, else -1
        U     = 1/N · Σ_{j=1..N} v_j · (N - j + 1)/N    v_1 … v_N: checks of the virtual steps but the last; 0 if none
        final = U + F/max(N, 1)                         outcome_weight = "1/N";  U + outcome_weight · F otherwise
        V(x)  = Σ decay^d · final                       over the simulations below x, that began d steps after it
        V     = v_j on a virtual step, F on the last one

    With pool="sum", as in the source, V(x) grows with the number of simulations below x: of 16 rollouts that share a step
    and are right, it gets 16 times what it gets of one. So steps near the prompt outweigh those after them, and a group of
    more rollouts outweighs a smaller one. pool="mean" divides by that number.

    A search (`sample --strategy mcts`) knows where each of its simulations began and leaves V in `step.search_value`: that
    is the credit. Into rollouts of other strategies a search is read. Steps of a group's rollouts with the same tokens
    from the prompt to their end are one node, as in `tree-build --by step`. Every rollout is one simulation. It began at
    the first step that no rollout with another response shares (at its last step if all are shared): that step and those
    before it are the search's own nodes, with values V(x); the steps after it are virtual. So of rollouts that share
    nothing the first step gets U + F/N, the last one F, and those between get their own checks.

    Args:
        reward: [R] the final answer's.
        step_reward: [S] the check of a step: +1 verified, -1 refuted, 0 or not a number where nothing could be said. Only its
            sign counts.
        decisions: the S steps (`score --with steps`).
        prefixes: which beginnings of the group's responses are the same.
        step_search_value: [S] V, as a search left it.
        outcome_weight: β of the final answer, "1/N" (released code) or a number.
        decay: per step from where a simulation began up to the prompt.
        correct_above: a reward above it is a right answer.
        pool: "sum" over the simulations below a node, as in the released code, or their "mean", which does not grow with
            their number. A search has its own: `sample --strategy mcts --set pool=mean`.
        label: the sign of V, the label a process reward model is trained on, in place of V.
        tree: "search" takes `step.search_value`, made with the search's own decay, outcome_weight, correct_above and pool;
            "rollouts" reads a search into the file; "auto" the former where the file has that column. What a search went
            on from is shared by other rollouts, so that reading its rollouts takes simulations to begin too late.

    Returns:
        [T] values, each on the tokens of its step: between checks of ±1 and, for "sum", up to 2 a simulation; 0 where
        the mask is false, in no step, and where checks cancel. They are not centred: right rollouts of a group
        of equal rewards still get credit.

    Raises:
        DataError: rollouts without steps or without checks; a missing reward; with tree="search" a step without value.
        UsageError: decay outside 0 to 1; an option of the search's that is set where its values are taken.

    Departures: 1. The paper labels steps for a reward model; V as an advantage is a guess, and so is where a simulation
        of no search began. 2. There the search chooses where to simulate from; here rollouts come from any strategy. 3. The paper's
        exact β was not seen; for N = 0 its code gives F, as "1/N" does here. 4. Its filters, which drop whole paths,
        are not applied: a step of value 0 has credit 0. 5. Steps of environments take no part and are not counted.

    >>> decisions, checks = Decisions.of_sizes([[1, 1, 1, 1, 1]]), np.array([0.0, 1.0, -1.0, 1.0, 1.0])
    >>> prefixes = Prefixes(np.arange(5), decisions.tokens, decisions.groups)
    >>> groundedprm(np.array([1.0]), checks, decisions, prefixes).round(4).tolist()
    [0.5556, 1.0, -1.0, 1.0, 1.0]
    """
    if step_search_value is not None and tree != "rollouts":
        _check_defaults(decay=decay, outcome_weight=outcome_weight, correct_above=correct_above, pool=pool)
        return decisions.on_tokens(_signs(step_search_value, label))
    own = decisions.own
    check = np.sign(np.nan_to_num(step_reward))
    answer = np.where(reward > correct_above, 1.0, -1.0)

    # From here on steps of the policy only: [S] in all, `rows` of each rollout.
    rows = Segments.of_sizes(decisions.rows.sum(own))
    check, index = check[own], rows.positions
    node, shared = _share_nodes(decisions, prefixes)
    last = np.maximum(rows.sizes - 1, 0)
    begun = np.minimum(rows.max(np.where(shared, index, -1), empty=-1) + 1, last)
    distance = rows.spread(begun) - index

    virtual = (distance < 0) & (index < rows.spread(last))
    final = simulation_values(check[virtual], Segments.of_sizes(rows.sum(virtual)), answer, outcome_weight)

    real = distance >= 0
    value = np.where(virtual, check, rows.spread(answer))
    backed = np.bincount(node[real], weights=(decay ** distance[real]) * rows.spread(final)[real], minlength=len(node))
    if pool == "mean":
        backed = backed / np.maximum(np.bincount(node[real], minlength=len(node)), 1)
    value[real] = backed[node[real]]
    out = np.zeros(len(own))
    out[own] = value
    return decisions.on_tokens(_signs(out, label))


def _signs(value: Array, label: bool) -> Array:
    """The values, or their signs; 0 for sums that cancel but for rounding."""
    return np.where(np.abs(value) < 1e-9, 0.0, np.sign(value)) if label else value


def _check_defaults(**given: object) -> None:
    """UsageError for an option that the search had itself and that is set here to something else."""
    for name, value in given.items():
        if value != options_of(groundedprm)[name].default:
            raise UsageError(
                f"credit method groundedprm: {name} {value}, but {SEARCHED!r} was made with that of the "
                "search; leave it out, or --set tree=rollouts"
            )


def _share_nodes(decisions: Decisions, prefixes: Prefixes) -> tuple[Array, Array]:
    """(node [S], shared [S] bool) of the steps that the policy wrote: equal in a group where all tokens up to both ends of
    the step are, and whether rollouts with different responses have it."""
    steps, own, size = decisions.steps, decisions.own, decisions.tokens.sizes
    owner = steps.rows.ids[own]
    keys = prefixes.keys(
        np.concatenate((owner, owner, np.arange(len(size)))), np.concatenate((steps.start[own], steps.end[own], size))
    )
    start, end, response = keys[: len(owner)], keys[len(owner) : 2 * len(owner)], keys[2 * len(owner) :]
    width = int(keys.max(initial=0)) + 1
    node = np.unique(start * width + end, return_inverse=True)[1].reshape(-1)
    low, high = np.full(len(node), width), np.full(len(node), -1)
    np.minimum.at(low, node, response[owner])
    np.maximum.at(high, node, response[owner])
    return node, (low < high)[node]
