"""Branch where the policy was uncertain: entropy-guided trees."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from ....formats.rollouts import Rollouts
from ....formats.segments import Segments
from ...core.ranges import AtLeast
from ..kind import SamplingContext, strategy
from ._forest import Forest, ForestRow, Fork
from ._uncertainty import Metric, metric_of


@strategy(source="arXiv:2506.11902 (TreeRL, EPTree)", evidence="code", makes=("parent_id", "fork"))
def branch(
    context: SamplingContext,
    *,
    initial: Annotated[int, AtLeast(1)] = 6,
    forks: Annotated[int, AtLeast(1)] = 2,
    rounds: Annotated[int, AtLeast(1)] = 1,
    continuations: Annotated[int, AtLeast(1)] = 2,
    metric: Metric = "surprisal",
    top: Annotated[int, AtLeast(1)] = 20,
    not_after: Sequence[str] = ("conclusion", "answer"),
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Trees that fork before their most uncertain tokens (EPTree).

    Each of the `initial` independent responses of a prompt starts a tree. In every round, the `forks` most uncertain
    tokens of each tree are chosen, and `continuations` new responses are sampled from just before each. A prompt gets
    initial · (1 + rounds · forks · continuations) rollouts, fewer if a tree runs out of tokens; -n is not used. A
    rollout has `parent_id` and `fork`; its tokens up to the fork, with their log-probabilities, are its parent's.

    Args:
        initial: M, number of independent responses, one tree each.
        forks: N, tokens to choose in each tree and round.
        rounds: L, number of rounds.
        continuations: T, continuations of each chosen token.
        metric: "surprisal" is -log p of the sampled token, as in the paper. "entropy" and the others use the `top` most
            likely candidates (see strategy `rose`).
        top: number of candidates; "surprisal" does not use them.
        not_after: do not fork after a token whose text contains one of these, ignoring case; [] forks anywhere.
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.

    Departures: the first token of a continuation is never chosen, as in the released code. That no token is chosen
        twice is our reading. We leave out its limit on responses near the budget.
    """
    signal, alternatives = metric_of(context, metric, top)
    leaves = initial * (1 + rounds * forks * continuations)
    ends = _closing_tokens(context, not_after)
    for problems in context.portions(rows_at_once, leaves):
        forest = Forest(context, problems, signal=signal, alternatives=alternatives)
        forest.grow([Fork(problem, samples=initial) for problem in range(len(problems))])
        used: list[set[tuple[int, int]]] = [set() for _ in problems]
        for _ in range(rounds):
            chosen: list[Fork] = []
            for problem, rows in enumerate(forest.branches):
                places = _most_uncertain(rows, forks, ends, used[problem])
                used[problem].update(places)
                chosen += [Fork(problem, row, at, continuations) for row, at in places]
            forest.grow(chosen)
        yield forest.rollouts()


def _most_uncertain(
    rows: Sequence[ForestRow], count: int, ends: np.ndarray, used: set[tuple[int, int]]
) -> list[tuple[int, int]]:
    """(row, token) of the `count` most uncertain tokens of each tree, except those that may not be chosen."""
    tree: list[int] = []
    parts: list[np.ndarray] = []
    for row, each in enumerate(rows):
        tree.append(row if each.parent is None else tree[each.parent])
        begin = 0 if each.parent is None else each.fork + 1
        closing = np.flatnonzero(ends[each.response.ids])
        places = np.arange(begin, closing[0] + 1 if len(closing) else len(each.signal))
        taken = np.array([at for other, at in used if other == row], np.int64)
        free = places[np.isfinite(each.signal[places]) & ~np.isin(places, taken)]
        parts.append(np.stack([np.full(len(free), tree[row]), -each.signal[free], np.full(len(free), row), free]))
    found = np.concatenate(parts, axis=1)
    found = found[:, np.lexsort(found[::-1])]
    best = found[2:, Segments.of_runs(found[0]).positions < count].astype(np.int64) if found.size else found[2:]
    return [(row, at) for row, at in best.T.tolist()]


def _closing_tokens(context: SamplingContext, words: Sequence[str]) -> np.ndarray:
    """[V] bool, whether the token's text contains one of the words."""
    size = len(context.tokenizer)
    if not words:
        return np.zeros(size, bool)
    texts = context.tokenizer.batch_decode([[token] for token in range(size)])
    return np.array([any(word.lower() in text.lower() for word in words) for text in texts])
