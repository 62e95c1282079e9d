"""Responses that branch off one another: a branching strategy grows one tree of rollouts per problem."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ....formats.rollouts import Rollouts
from ....formats.schema import FIELDS
from ...models.engine import Completion, Request
from ...models.policy import render_prompt
from ...tasks import Problem
from .._steps import context_length, generate_steps, join, mark_cut
from ..kind import SamplingContext
from ..rows import to_rollouts

Signal = Callable[[Completion], np.ndarray[Any, Any]]


@dataclass
class ForestRow:
    """One rollout. response: all of it, including what comes from its parent. signal: [T] one number per token.

    parent, fork: the row that it left, and at which response token; None and 0 if it began at the prompt.
    """

    response: Completion
    signal: np.ndarray[Any, Any]
    parent: int | None
    fork: int
    seed: int


class Fork(NamedTuple):
    """`samples` continuations of a problem's row before its response token `at`, or of the prompt if row is None.

    extends: whether the first of them continues the row itself, which ends at `at`.
    """

    problem: int
    row: int | None = None
    at: int = 0
    samples: int = 1
    extends: bool = False


class Forest:
    """The rollouts of several problems while they grow: `branches[problem][row]`.

    budgets: per problem, the most tokens of a response, as limited by --max-tokens and by the context. signal: what to
    keep of every sampled token, given the completion. alternatives: how many it needs (`Sampling`).
    """

    def __init__(
        self,
        context: SamplingContext,
        problems: Sequence[Problem],
        *,
        signal: Signal | None = None,
        alternatives: int = 0,
    ):
        self.context = context
        self.problems = problems
        self.prompts = [render_prompt(context.tokenizer, problem.prompt) for problem in problems]
        whole = context_length(context)
        self.budgets = [min(context.sampling.max_tokens, whole - len(prompt)) for prompt in self.prompts]
        self.branches: list[list[ForestRow]] = [[] for _ in problems]
        self._signal = signal or (lambda completion: np.zeros(len(completion.ids)))
        self._alternatives = alternatives

    def grow(self, forks: Sequence[Fork], *, length: int | None = None, stop: Sequence[str] = ()) -> None:
        """Sample what the forks ask for, at most `length` tokens each, within the budget of a whole response.

        stop: texts; a continuation ends with the token that completes one of them. New rows come after the problem's
        others, in the order of the forks.
        """
        requests: list[Request] = []
        counts = [len(rows) for rows in self.branches]
        places: list[list[int]] = []  # per fork, the rows that it makes or extends
        for fork in forks:
            fresh = fork.samples - fork.extends
            rows = list(range(counts[fork.problem], counts[fork.problem] + fresh))
            counts[fork.problem] += fresh
            places.append([*([fork.row] if fork.extends and fork.row is not None else []), *rows])
            prefix = self._prefix(fork)
            room = self.context.sampling.max_tokens - len(prefix)
            requests.append(
                Request(
                    prefix_ids=[*self.prompts[fork.problem], *prefix],
                    seeds=[self._seed(fork, row) for row in places[-1]],
                    max_tokens=room if length is None else min(length, room),
                    continued=True,
                )
            )
        sampling = self.context.sampling
        if self._alternatives:
            sampling = sampling.with_alternatives(self._alternatives)
        made = generate_steps(self.context, requests, replace(sampling, stop=tuple(stop)) if stop else sampling)
        for fork, request, rows, completions in zip(forks, requests, places, made, strict=True):
            for row, seed, completion in zip(rows, request.seeds, completions, strict=True):
                self._add(fork, row, seed, completion)

    def rollouts(self) -> Rollouts:
        """One group per problem, with `parent_id` and `fork`."""
        completions = [[branch.response for branch in rows] for rows in self.branches]
        made = to_rollouts(self.context, self.problems, self.prompts, completions)
        names = iter(made.strings("rollout_id"))
        groups = [[next(names) for _ in rows] for rows in self.branches]
        parents = [
            None if branch.parent is None else group[branch.parent]
            for group, rows in zip(groups, self.branches, strict=True)
            for branch in rows
        ]
        flat = [branch for rows in self.branches for branch in rows]
        columns: dict[str, Any] = {
            "parent_id": pa.array(parents, pa.string()),
            "fork": pa.array([None if each.parent is None else each.fork for each in flat], FIELDS["fork"].type),
        }
        if "seed" in made:
            columns["seed"] = pa.array([each.seed for each in flat], FIELDS["seed"].type)
        return made.with_columns(columns)

    def _prefix(self, fork: Fork) -> list[int]:
        return [] if fork.row is None else self.branches[fork.problem][fork.row].response.ids[: fork.at].tolist()

    def _seed(self, fork: Fork, row: int) -> int:
        """The seed of a row. Rows that begin at the prompt have the seeds that `independent` gives them."""
        problem = self.problems[fork.problem].problem_id
        begun = (fork.at,) if fork.row == row else ()
        return self.context.seed_of(problem, row, *begun)

    def _add(self, fork: Fork, row: int, seed: int, completion: Completion) -> None:
        rows, budget = self.branches[fork.problem], self.budgets[fork.problem]
        signal = self._signal(completion)
        completion = completion._replace(alternatives=None)
        if fork.row is None:
            rows.append(ForestRow(mark_cut(completion, budget), signal, None, 0, seed))
            return
        origin = rows[fork.row]
        response = mark_cut(join(origin.response, fork.at, completion), budget)
        signal = np.concatenate((origin.signal[: fork.at], signal))
        if row == fork.row:
            rows[row] = ForestRow(response, signal, origin.parent, origin.fork, origin.seed)
        else:
            rows.append(ForestRow(response, signal, fork.row, fork.at, seed))
