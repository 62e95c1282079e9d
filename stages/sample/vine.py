"""Vine: fresh continuations from states of rollouts that exist, to estimate what the states are worth."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa

from ...formats.rollouts import Rollouts
from ...formats.schema import ERROR
from ...formats.segments import Array, Segments
from ..assign_credit._cuts import cut_points
from ..driver import require
from ..models.engine import Request
from ..options import at_least_one
from ..progress import progress
from ..tree_build.prefixes import prefix_keys
from ._rows import derived_seed, sampled_columns
from ._source import ADDED, own_rows, with_rows
from ._strategy import CONTINUES, SamplingContext, strategy


@strategy(source="arXiv:2410.01679; cuts of arXiv:2505.23564", needs=(CONTINUES,))
def vine(
    context: SamplingContext,
    *,
    k: int = 9,
    at: Literal["steps", "unlikely"] = "steps",
    every: int | None = None,
    max_states: int | None = None,
    below: float = 0.9,
    rows_at_once: int = 4096,
) -> Iterator[Rollouts]:
    """k continuations from the states of the rollouts that --from names, as probes beside them.

    The file's rows stay as they are. A probe is a row of its parent's group with purpose "probe", `parent_id`, and
    `fork`, the number of its parent's tokens it begins with. Its text and token ids are the whole response, so that
    any scorer can judge it; its mask is true on what was sampled now and false on the copied prefix, whose
    log-probability is 0. --max-tokens bounds the whole response. Equal prefixes of a group are one state and are
    continued once, through the first rollout that has it; evals and earlier probes are not continued. -n is not used.

    Args:
        k: continuations of a state.
        at: "steps", where each step of the step ruler starts (`score --with steps`), or "unlikely", the cuts of
            `assign-credit --method spo_chain`: before tokens with a probability under `below`.
        every: of a rollout's states the first and each `every`-th after it; None is 1 for steps and 5 for unlikely
            tokens.
        max_states: only the first so many states of a rollout; None continues all.
        below: for at="unlikely".
        rows_at_once: probes generated before a part of the file is written (at least a group's); bounds the memory.
    """
    file = context.rollouts
    assert file is not None, "sample opens it for a strategy that needs --from"
    every = every if every is not None else (1 if at == "steps" else 5)
    at_least_one(
        "vine", k=k, every=every, max_states=1 if max_states is None else max_states, rows_at_once=rows_at_once
    )
    require(file, ("step.start", "step.end") if at == "steps" else ("token.logprob",), "vine")
    with progress(file.num_rows, "vine, rollouts") as advance:
        for batch in context.batches():
            rows, forks = _states(batch, at=at, every=every, max_states=max_states, below=below)
            rows, forks = _distinct(
                batch, rows[forks < context.sampling.max_tokens], forks[forks < context.sampling.max_tokens]
            )
            for start, stop in _parts(batch, rows, rows_at_once // k):
                chosen = (rows >= start) & (rows < stop)
                part = batch.slice(start, stop).with_missing(*ADDED)
                yield _continued(context, part, rows[chosen] - start, forks[chosen], k)
                advance(stop - start)


def _states(batch: Rollouts, *, at: str, every: int, max_states: int | None, below: float) -> tuple[Array, Array]:
    """(rows [S], forks [S]) the states to continue. DataError for a rollout an environment took part in."""
    needs = "step.start" if at == "steps" else "token.logprob"
    own = np.zeros(len(batch), bool)
    own[own_rows(batch, "vine", without=(ERROR,), needs=needs)] = True
    if at == "steps":
        starts = batch.ragged("step.start")
        rows, forks = starts.segments.ids, starts.values.astype(np.int64)
        kept = starts.segments.positions % every == 0
        rows, forks = rows[kept], forks[kept]
    else:
        logprob = batch.ragged("token.logprob")
        values = np.zeros(batch.num_tokens)
        places = np.ones(batch.num_tokens, bool) if logprob.present is None else batch.tokens.spread(logprob.present)
        values[places] = logprob.values
        rows, forks = cut_points(values, batch.mask, batch.tokens, below=below, every=every)
    kept = own[rows]
    rows, forks = rows[kept], forks[kept]
    if max_states is not None and len(rows):
        kept = Segments.of_runs(rows).positions < max_states
        rows, forks = rows[kept], forks[kept]
    return rows, forks


def _distinct(batch: Rollouts, rows: Array, forks: Array) -> tuple[Array, Array]:
    """Of states with equal prefixes the first."""
    if not len(rows):
        return rows, forks
    first = np.sort(np.unique(prefix_keys(batch, rows, forks), return_index=True)[1])
    return rows[first], forks[first]


def _parts(batch: Rollouts, rows: Array, states: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, whole groups, with at most so many states each (or one group)."""
    counts = np.bincount(batch.groups.ids[rows], minlength=len(batch.groups))
    cuts, held = [0], 0
    for group, count in enumerate(counts.tolist()):
        if held and held + count > states:
            cuts.append(int(batch.groups.starts[group]))
            held = 0
        held += count
    return pairwise([*cuts, len(batch)])


def _continued(context: SamplingContext, part: Rollouts, rows: Array, forks: Array, k: int) -> Rollouts:
    ids, prompts = part.token_ids, part.ragged("prompt_ids")
    names = part.strings("rollout_id")
    prefixes = [ids[row][:fork].tolist() for row, fork in zip(rows.tolist(), forks.tolist(), strict=True)]
    requests = [
        Request(
            prefix_ids=[*prompts[row].tolist(), *prefix],
            seeds=[derived_seed(context.seed, context.round, names[row], len(prefix), index) for index in range(k)],
            max_tokens=context.sampling.max_tokens - len(prefix),
        )
        for row, prefix in zip(rows.tolist(), prefixes, strict=True)
    ]
    completions = context.engine.generate(requests, context.sampling) if requests else []
    columns = sampled_columns(
        context,
        [prefix for prefix in prefixes for _ in range(k)],
        [completion for each in completions for completion in each],
        [seed for request in requests for seed in request.seeds],
        purpose="probe",
    )
    made_names = [
        f"{names[row]}/{fork}@{context.salt}/{index}"
        for row, fork in zip(rows.tolist(), forks.tolist(), strict=True)
        for index in range(k)
    ]
    columns |= {
        "rollout_id": pa.array(made_names, pa.string()),
        "parent_id": pa.array([names[row] for row in rows.tolist() for _ in range(k)], pa.string()),
        "fork": pa.array(np.repeat(forks, k), pa.int32()),
    }
    return with_rows(part, np.repeat(rows, k), columns)
