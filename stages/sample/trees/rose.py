"""ROSE: one response after the other, each from the most uncertain place of those before it, or from the prompt."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Annotated

import numpy as np

from ....formats.rollouts import Rollouts
from ...core.progress import progress
from ...core.ranges import AtLeast, Between
from .._rows import derived_seed
from ..kind import SamplingContext, strategy
from ._forest import Branch, Forest, Fork
from ._uncertainty import Metric, metric_of


@strategy(source="arXiv:2601.05053 (ROSE)", makes=("parent_id", "fork"), system=("ROSE",))
def rose(
    context: SamplingContext,
    *,
    epsilon: Annotated[float, Between(0, 1)] = 0.5,
    metric: Metric = "rose",
    top: Annotated[int, AtLeast(1)] = 20,
    exclude_used: bool = False,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """n responses a prompt, each from where those before it were semantically most undecided (ROSE).

    The first begins at the prompt. Every other one begins, with probability epsilon, at the prompt again, or else
    before the token with the largest metric over all tokens of the prompt's responses; that token is sampled anew.
    Of all prompts together, n requests stand one after the other. A rollout has `parent_id` and `fork`; its tokens up
    to the fork, with their log-probabilities, are its parent's.

        H = -sum_v p_v ln p_v         y = sum_v p_v e_v, e_v the candidates' embeddings of length 1
        entropy    = H
        surprisal  = -ln p of the sampled token
        cosine     = sum_v p_v² - |y|²       minus the similarity of two different candidates
        rose       = cosine · H              the released code
        rose_paper = -|y|² · H               equation 2, which counts a candidate with itself
        rao        = (1 - |y|²) · H          high where it is undecided between unlike candidates

    Where a model's embeddings are mostly alike, `rose` is negative where it is undecided and largest, 0, where it is
    certain: that is the published sign; `rao` (ours) is what the paper's prose describes.

    Args:
        epsilon: probability of beginning at the prompt, 0 to 1.
        metric: see above.
        top: candidates that the metric looks at.
        exclude_used: a place is branched from once. The released code may take it again until a new token beats it.
        rows_at_once: rollouts generated before a part of the file is written; bounds the memory.
    """
    signal, alternatives = metric_of(context, metric, top)
    at_once = max(1, rows_at_once // context.n)
    with progress(len(context.problems) * context.n, "rose") as advance:
        for first in range(0, len(context.problems), at_once):
            problems = context.problems[first : first + at_once]
            forest = Forest(context, problems, signal=signal, alternatives=alternatives)
            coins = [
                Random(derived_seed("rose", context.seed, context.round, problem.problem_id)) for problem in problems
            ]
            used: list[set[tuple[int, int]]] = [set() for _ in problems]
            for index in range(context.n):
                forks: list[Fork] = []
                for problem, rows in enumerate(forest.branches):
                    place = None
                    if index > 0 and coins[problem].random() >= epsilon:
                        place = _largest(rows, used[problem] if exclude_used else set())
                    if place is None:
                        forks.append(Fork(problem))
                    else:
                        used[problem].add(place)
                        forks.append(Fork(problem, *place))
                forest.grow(forks)
                advance(len(problems))
            yield forest.rollouts()


def _largest(rows: Sequence[Branch], used: set[tuple[int, int]]) -> tuple[int, int] | None:
    """(row, token) of the largest finite signal, the first of equal ones; None where there is none."""
    best, place = -np.inf, None
    for row, each in enumerate(rows):
        signal = each.signal.copy()
        taken = [at for other, at in used if other == row]
        signal[taken] = -np.inf
        if len(signal) and (at := int(signal.argmax())) >= 0 and signal[at] > best:
            best, place = float(signal[at]), (row, at)
    return place
