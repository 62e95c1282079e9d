"""Vine: fresh continuations from states of existing rollouts, to estimate the value of those states."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa

from ....formats.errors import UsageError
from ....formats.flags import ERROR
from ....formats.rollouts import Rollouts
from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast, Between
from ...models.engine import Request
from ...structure.cuts import cut_points
from ...structure.prefixes import prefix_keys
from ...tasks import Problem
from ...tasks.played import EnvironmentTask, is_played
from .._source import ADDED, own_rows, with_rows
from ..kind import CONTINUES, SamplingContext, strategy
from ..play._replay import Replay, columns_after
from ..rows import sampled_columns


@strategy(
    source="arXiv:2410.01679; cuts of arXiv:2505.23564",
    evidence="code",
    needs=(CONTINUES,),
    turns=True,
    makes=("parent_id", "fork"),
)
def vine(
    context: SamplingContext,
    *,
    k: Annotated[int, AtLeast(1)] = 9,
    at: Literal["steps", "unlikely"] = "steps",
    every: Annotated[int | None, AtLeast(1)] = None,
    max_states: Annotated[int | None, AtLeast(1)] = None,
    below: Annotated[float, Between(0, 1)] = 0.9,
    rows_at_once: Annotated[int, AtLeast(1)] = 4096,
) -> Iterator[Rollouts]:
    """Continuations from the states of the rollouts in --from, k per state, added next to them as probes.

    The file's rows stay as they are. A probe is a row of its parent's group with purpose "probe", `parent_id`, and
    `fork`, the number of its parent's tokens with which it begins. Its text and token ids are the whole response, so
    that any scorer can judge it. Its mask is true on what was sampled now and false on the copied prefix, whose
    log-probability is 0. --max-tokens limits the whole response. Equal prefixes of a group are one state, which is
    continued once, through the first rollout that has it. Evaluations and earlier probes are not continued. -n is not
    used.

    In an environment, a state is the start of a turn: the environment begins again as it did, receives what the policy
    said, and is played on. Its later chance is the parent's, and rewards are the environment's.

    Args:
        k: continuations per state.
        at: "steps", where each step of the step ruler starts (`score --with steps`), or "unlikely", the cuts of
            `assign-credit --method spo_chain`: before tokens with a probability under `below`.
        every: use a rollout's first state and every `every`-th after it; None is 1 for steps and 5 for unlikely tokens.
        max_states: use only this many states of a rollout, from the start; None continues all.
        below: probability threshold of at="unlikely".
        rows_at_once: probes to generate before a part of the file is written (at least a group); bounds the memory.
    """
    every = every if every is not None else (1 if at == "steps" else 5)
    task = context.task if is_played(context.task) else None
    if task is not None and at != "steps":
        raise UsageError(
            f"strategy vine: at must be 'steps' in an environment, which can be left only between turns, got {at!r}"
        )
    context.require(*(("step.start", "step.end") if at == "steps" else ("token.logprob",)))

    def states(batch: Rollouts) -> tuple[Array, Array]:
        found = _states(batch, at=at, every=every, max_states=max_states, below=below, played=task is not None)
        return _distinct(batch, *found, context.sampling.max_tokens)

    def probes(batch: Rollouts) -> Array:
        """[G] number of probes of each group."""
        return k * np.bincount(batch.groups.ids[states(batch)[0]], minlength=len(batch.groups))

    for batch, problems in context.parts(rows_at_once, sizes=probes):
        rows, forks = states(batch)
        part = batch.with_missing(*ADDED)
        if task is None:
            yield _continue(context, part, rows, forks, k)
        else:
            own = [problems[group] for group in batch.groups.ids[rows].tolist()]
            yield _play_on(context, task, part, rows, forks, k, own)


def _states(
    batch: Rollouts, *, at: str, every: int, max_states: int | None, below: float, played: bool
) -> tuple[Array, Array]:
    """(rows [S], forks [S]) the states to continue. DataError for a rollout written in part by anything but the policy or
    the environment that is `played`."""
    needs = "step.start" if at == "steps" else "token.logprob"
    own = np.zeros(len(batch), bool)
    own[own_rows(batch, "vine", without=(ERROR,), needs=(needs,), played=played)] = True
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


def _distinct(batch: Rollouts, rows: Array, forks: Array, most: int) -> tuple[Array, Array]:
    """The first state of those with equal prefixes, if it leaves room for a token."""
    rows, forks = rows[forks < most], forks[forks < most]
    if not len(rows):
        return rows, forks
    first = np.sort(np.unique(prefix_keys(batch, rows, forks), return_index=True)[1])
    return rows[first], forks[first]


def _continue(context: SamplingContext, part: Rollouts, rows: Array, forks: Array, k: int) -> Rollouts:
    """The part with k probes of every state."""
    ids, prompts = part.token_ids, part.ragged("prompt_ids")
    seeds = _seeds(context, part, rows, forks, k)
    prefixes = [ids[row][:fork].tolist() for row, fork in zip(rows.tolist(), forks.tolist(), strict=True)]
    requests = [
        Request([*prompts[row].tolist(), *prefix], each, context.sampling.max_tokens - len(prefix))
        for row, prefix, each in zip(rows.tolist(), prefixes, seeds, strict=True)
    ]
    completions = context.generate(requests)
    columns = sampled_columns(
        context,
        [prefix for prefix in prefixes for _ in range(k)],
        [completion for each in completions for completion in each],
        [seed for each in seeds for seed in each],
        purpose="probe",
    )
    return _with_probes(context, part, rows, forks, k, columns)


def _play_on(
    context: SamplingContext, task: EnvironmentTask, part: Rollouts, rows: Array, forks: Array, k: int,
    problems: Sequence[Problem],
) -> Rollouts:  # fmt: skip
    """The same in an environment. problems: [S] the problem of each state."""
    prompts = part.ragged("prompt_ids")
    seeds = [seed for each in _seeds(context, part, rows, forks, k) for seed in each]
    parents, places = np.repeat(rows, k).tolist(), np.repeat(forks, k).tolist()
    played = Replay(context, task, part).play_on(
        parents, places, seeds, [problem for problem in problems for _ in range(k)],
        [prompts[row].tolist() for row in parents],
    )  # fmt: skip
    return _with_probes(context, part, rows, forks, k, columns_after(context, played, places, purpose="probe"))


def _seeds(context: SamplingContext, part: Rollouts, rows: Array, forks: Array, k: int) -> list[list[int]]:
    names = part.strings("rollout_id")
    return [
        [context.seed_of(names[row], fork, index) for index in range(k)]
        for row, fork in zip(rows.tolist(), forks.tolist(), strict=True)
    ]


def _with_probes(
    context: SamplingContext, part: Rollouts, rows: Array, forks: Array, k: int, columns: Mapping[str, Any]
) -> Rollouts:
    names = part.strings("rollout_id")
    made_names = [
        f"{names[row]}/{fork}@{context.salt}/{index}"
        for row, fork in zip(rows.tolist(), forks.tolist(), strict=True)
        for index in range(k)
    ]
    told = {
        "rollout_id": pa.array(made_names, pa.string()),
        "parent_id": pa.array([names[row] for row in rows.tolist() for _ in range(k)], pa.string()),
        "fork": pa.array(np.repeat(forks, k), pa.int32()),
    }
    return with_rows(part, np.repeat(rows, k), {**columns, **told})
