"""A graph policy: the probability of each edge of a team's communication graph, learnt from how well the teams did."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..core.ranges import Above, AtLeast, Between
from ..structure.edges import Drawn
from .kind import memory

BETAS, DIVIDED_BY_AT_LEAST = (0.9, 0.999), 1e-8  # Adam's
PAIR = ("src", "dst")


@memory(
    needs=("reward", "edge.src", "edge.dst", "edge.kept", "edge.probability"),
    source="arXiv:2603.02701 (Graph-GRPO), step 5",
    evidence="guess",
    schema=pa.schema(
        {
            "src": pa.int32(),
            "dst": pa.int32(),
            "probability": pa.float64(),
            "logit": pa.float64(),
            "reference": pa.float64(),
            "first_moment": pa.float64(),
            "second_moment": pa.float64(),
            "updates": pa.int32(),
        }
    ),
    system=("Graph-GRPO",),
)
def graph(
    batches: Iterator[Rollouts],
    earlier: pa.Table | None,
    *,
    lr: Annotated[float, Above(0)] = 1e-4,
    beta: Annotated[float, AtLeast(0)] = 0.01,
    absent_edges: bool = False,
    correct: float = 0.5,
    ddof: Annotated[int, Between(0, 1)] = 0,
    eps: Annotated[float, AtLeast(0)] = 1e-6,
) -> pa.Table:
    """The probability of every edge of a team's graph, after one more step of Graph-GRPO.

        L = -(1/K) Σ_k (1/|E_k|) Σ_{ij in graph k} A_ij · log p_ij + beta · KL(p || p_ref)

    A is what `score --with edges` writes; it is computed here. The mean runs over the teams of a problem, then over
    problems. Each row is an edge: `src`, `dst`, `probability`, its logit, its initial logit, and Adam's moments. The
    first memory starts from the probabilities with which the teams were drawn, and these are p_ref. To draw teams from
    the memory, use `sample --strategy team --set graph=MEMORY`.

    Args:
        lr: Adam's learning rate, on the logits.
        beta: weight of the KL divergence from the first graph, a mean over edges.
        absent_edges: also count the edges that the group drew and a team did not, with A_ij · log(1 - p_ij); the mean
            is then over all edges the group drew.
        correct: a team succeeded if its reward is above this.
        ddof: see the scorer `edges`.
        eps: see the scorer `edges`.

    Raises:
        UsageError: an option out of range. DataError: no team; teams drawn from a graph other than the earlier
            memory's; a probability of 0 or 1, which cannot be learnt.

    Departures: 1. The paper's policy is a graph attention network over embeddings of roles and question. Ours is a
        table of logits, the same for all problems. 2. Division by |E_k|, edges present only, and beta are guesses.
    """
    state, parts = earlier, []
    for batch in batches:
        drawn = Drawn.of(batch, correct)
        if not len(drawn.teams):
            continue
        given = batch.ragged("edge.probability").take(drawn.teams).values.astype(np.float64)
        state = _first(drawn, given) if state is None else state
        place = _places(drawn, given, state)
        probability = _sigmoid(np.asarray(state["logit"]))
        parts.append(gradient(drawn, place, probability, absent_edges=absent_edges, ddof=ddof, eps=eps))
    if state is None or not parts:
        raise DataError("no team to learn from; sample teams with `apportion sample --strategy team`")
    logit, reference = np.asarray(state["logit"]), np.asarray(state["reference"])
    problems = sum(count for _, count in parts)
    slope = sum(total for total, _ in parts) / problems + beta * _kl_slope(logit, reference)
    return _step(state, slope, lr)


def gradient(
    drawn: Drawn, place: Array, probability: Array, *, absent_edges: bool, ddof: int, eps: float
) -> tuple[Array, int]:
    """([E] dL/dlogit without the KL term, summed over problems, and the number of problems).

    place: [E of drawn] index of each drawn edge in the policy. probability: [edges].
    """
    _, advantage = drawn.credit(ddof, eps)
    teams, groups = drawn.places.ids, drawn.group
    problems = int(groups.max()) + 1
    each = probability[place]
    if absent_edges:
        keys = groups[teams] * len(probability) + place
        counted = (np.bincount(keys, drawn.kept, problems * len(probability)) > 0)[keys]
        slope = np.where(drawn.kept, 1 - each, -each)
    else:
        counted, slope = drawn.kept, 1 - each
    edges = np.maximum(drawn.places.sum(counted), 1)
    share = 1 / (edges * np.bincount(groups)[groups])
    return -np.bincount(place, counted * advantage * slope * share[teams], len(probability)), problems


def _first(drawn: Drawn, given: Array) -> pa.Table:
    """A policy with the probabilities with which the teams were drawn."""
    distinct, first = np.unique(np.stack((drawn.src, drawn.dst)), axis=1, return_index=True)
    probability = given[first]
    sure = np.flatnonzero((probability <= 0) | (probability >= 1))
    if len(sure):
        i, j = distinct[:, sure[0]].tolist()
        raise DataError(
            f"edge {i}-{j}: probability must be strictly between 0 and 1 to be learnt, got {probability[sure[0]]:g}; "
            "sample the teams with another probability"
        )
    logit = np.log(probability) - np.log1p(-probability)
    return pa.table(
        {
            "src": distinct[0].astype(np.int32),
            "dst": distinct[1].astype(np.int32),
            "probability": probability,
            "logit": logit,
            "reference": logit,
            "first_moment": np.zeros(len(logit)),
            "second_moment": np.zeros(len(logit)),
            "updates": np.zeros(len(logit), np.int32),
        }
    )


def _places(drawn: Drawn, given: Array, state: pa.Table) -> Array:
    """The policy's edge for each place. DataError for an edge that it lacks or draws with another probability."""
    width = 1 + max(int(np.asarray(state["dst"]).max()), int(drawn.dst.max(initial=0)))
    known = np.asarray(state["src"]).astype(np.int64) * width + np.asarray(state["dst"])
    asked = drawn.src.astype(np.int64) * width + drawn.dst
    order = np.argsort(known)
    place = order[np.minimum(np.searchsorted(known[order], asked), len(known) - 1)]
    wrong = np.flatnonzero(
        (known[place] != asked) | (np.abs(np.asarray(state["probability"])[place] - given) > 1e-5)
    )  # fmt: skip
    if len(wrong):
        row = int(drawn.teams[drawn.places.ids[wrong[0]]])
        raise DataError(
            f"row {row}: edge {drawn.src[wrong[0]]}-{drawn.dst[wrong[0]]} was drawn from another graph than the memory's; "
            "sample the teams with --set graph=MEMORY, and remember them with --earlier MEMORY"
        )
    return place


def _kl_slope(logit: Array, reference: Array) -> Array:
    """[edges] d/dlogit of the mean over edges of KL(Bernoulli(p) || Bernoulli(p_ref))."""
    probability = _sigmoid(logit)
    return probability * (1 - probability) * (logit - reference) / len(logit)


def _step(state: pa.Table, slope: Array, lr: float) -> pa.Table:
    """The table after one step of Adam."""
    columns = {name: np.asarray(state[name]) for name in state.column_names}
    updates = columns["updates"] + 1
    first = BETAS[0] * columns["first_moment"] + (1 - BETAS[0]) * slope
    second = BETAS[1] * columns["second_moment"] + (1 - BETAS[1]) * slope**2
    size = np.sqrt(second / (1 - BETAS[1] ** updates)) + DIVIDED_BY_AT_LEAST
    logit = columns["logit"] - lr * first / (1 - BETAS[0] ** updates) / size
    columns |= {
        "probability": _sigmoid(logit), "logit": logit, "first_moment": first, "second_moment": second, "updates": updates
    }  # fmt: skip
    return pa.table(columns)


def _sigmoid(logit: Array) -> Array:
    return 1 / (1 + np.exp(-logit))
