"""Credit per token in prime-rl: a subclass of its Algorithm.

    # in your checkout, src/prime_rl/orchestrator/algo/__init__.py, below ALGORITHM_CLASSES
    from apportion.stages.interop.prime_rl import with_credit

    ALGORITHM_CLASSES["grpo"] = with_credit(Algorithm, "tempo")             # the config keeps type = "grpo"

Read in the source of PrimeIntellect-ai/prime-rl, not run: src/prime_rl/orchestrator/algo/base.py at 2893045, a copy of routing.py
of the same time (mid-2026), and algo/cripo.py at 256b2e0. Its traces are those of verifiers 0.4.0, whose classes the tests use.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ...formats.errors import DataError
from ..assign_credit import TokenCredit
from ._rows import SPANS, Rows, credit_for

Algorithm = TypeVar("Algorithm")


def with_credit(
    algorithm: type[Algorithm], method: str, *, preset: str | None = None, **options: Any
) -> type[Algorithm]:
    """A subclass of prime-rl's Algorithm whose `score_group` assigns a method's credit, one number a sampled token.

    Traces of one agent in a group are compared. A trace whose context was rewritten, so that it has several branches, is an
    episode in parts; what branches share belongs to the first that is trained. Each sampled message is a step. Traces with an error, or
    whose agent is not trained, and those without a reward take no part and stay unassigned.

    Args:
        algorithm: prime_rl.orchestrator.algo.base.Algorithm, or a subclass of it.
        method: a credit method that needs no probes; see `apportion list methods`.
        preset: conventions of a library.
        options: of the method.

    Raises:
        UsageError: an unknown method, preset or option, or a method that needs what traces do not have.
    """
    credit = credit_for("prime-rl", method, preset, options, has=("reward", *SPANS, "token.logprob"))

    class CreditAlgorithm(algorithm):  # type: ignore[misc, valid-type]
        async def score_group(self, episodes: Any) -> None:
            from prime_rl.orchestrator.algo.routing import assign_advantages  # type: ignore[import-not-found]

            for trace, values in credit_of_traces(list(_trained(episodes)), credit):
                assign_advantages(trace, values)

    CreditAlgorithm.__name__ = CreditAlgorithm.__qualname__ = f"Credit{algorithm.__name__}"
    return CreditAlgorithm  # type: ignore[return-value]


def _trained(episodes: Sequence[Any]) -> Iterator[Any]:
    for episode in episodes:
        for trace in episode.traces:
            if not trace.has_error and trace.agent.trainable and any(any(node.mask) for node in trace.nodes):
                yield trace


def credit_of_traces(traces: Sequence[Any], credit: TokenCredit) -> list[tuple[Any, list[float]]]:
    """The traces that have a reward, and the credit of their sampled tokens in the order of their nodes."""
    rows, scored = Rows(credit), list[tuple[Any, dict[int, tuple[int, int]]]]()
    for number, trace in enumerate(traces):
        if math.isnan(trace.reward) or all(reward is None for reward in trace.rewards.values()):
            continue
        owners: dict[int, tuple[int, int]] = {}  # of each node that is trained: its row, and where it begins there
        for branch in trace.branches:
            if branch.trainable and any(any(node.mask) for node in branch.nodes):
                _add_branch(rows, owners, branch, trace, number)
        scored.append((trace, owners))
    found = rows.found()
    result: list[tuple[Any, list[float]]] = []
    for trace, owners in scored:
        values: list[float] = []
        for node in trace.nodes:
            if id(node) in owners:
                row, start = owners[id(node)]
                # A scaffold before the first sampled token is not in the row.
                own = [place for place, sampled in enumerate(node.mask, start) if sampled]
                values += [found[row][place] for place in own]
        result.append((trace, values))
    return result


def _add_branch(rows: Rows, owners: dict[int, tuple[int, int]], branch: Any, trace: Any, number: int) -> None:
    ids, own, trained = list[int](), list[bool](), list[bool]()
    logprobs, spans, starts = list[float](), list[tuple[int, int]](), list[tuple[Any, int]]()
    for node in branch.nodes:
        sampled = sum(node.mask)
        if len(node.mask) != len(node.token_ids) or len(node.logprobs) not in (0, sampled):
            raise DataError(
                f"trace {trace.id}: a node has {len(node.token_ids)} tokens, {len(node.mask)} of mask, and {len(node.logprobs)} "
                f"log-probabilities for {sampled} sampled"
            )
        if sampled:
            starts.append((node, len(ids)))
            spans.append((len(ids) + node.mask.index(True), len(ids) + len(node.mask)))
        ids += node.token_ids
        own += node.mask
        trained += [id(node) not in owners] * len(node.mask)
        given = iter(node.logprobs)
        logprobs += [next(given, 0.0) if each else 0.0 for each in node.mask]
    first = own.index(True)
    for node, start in starts:
        owners.setdefault(id(node), (len(rows.ids), start - first))
    rows.add(
        ids[first:], own[first:], reward=trace.reward, group=trace.agent.name, episode=number,
        spans=[(start - first, end - first) for start, end in spans],
        signals={"token.trainable": trained[first:], "token.logprob": logprobs[first:] if any(logprobs) else None},
    )  # fmt: skip
