"""ROSE: responses one after the other, each from the most uncertain place of the earlier ones, or from the prompt."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from ....formats.rollouts import Rollouts
from ...core.ranges import AtLeast, Between
from ..kind import SamplingContext, strategy
from ._forest import Forest, ForestRow, Fork
from ._uncertainty import Metric, metric_of


@strategy(source="arXiv:2601.05053 (ROSE)", evidence="code", makes=("parent_id", "fork"), system=("ROSE",))
def rose(
    context: SamplingContext,
    *,
    epsilon: Annotated[float, Between(0, 1)] = 0.5,
    metric: Metric = "rose",
    top: Annotated[int, AtLeast(1)] = 20,
    exclude_used: bool = False,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Responses that each begin where the earlier ones were semantically most uncertain, n per prompt (ROSE).

    The first response begins at the prompt. Every later one begins at the prompt again with probability epsilon.
    Otherwise it begins before the token with the largest metric over all tokens of the prompt's responses, and samples
    that token again. All prompts advance together, with n requests one after the other. A rollout has `parent_id` and
    `fork`; its tokens up to the fork, with their log-probabilities, are its parent's.

        H = -sum_v p_v ln p_v         y = sum_v p_v e_v, e_v the candidates' embeddings of length 1
        entropy    = H
        surprisal  = -ln p of the sampled token
        cosine     = sum_v p_v² - |y|²       minus the similarity of two different candidates
        rose       = cosine · H              the released code
        rose_paper = -|y|² · H               equation 2, which counts a candidate with itself
        rao        = (1 - |y|²) · H          high where the policy is undecided between unlike candidates

    If a model's embeddings are mostly alike, `rose` is negative where the policy is undecided, and 0, its maximum,
    where it is certain; that is the published sign. `rao` (ours) is what the paper's prose describes.

    Args:
        epsilon: probability of beginning at the prompt, 0 to 1.
        metric: see above.
        top: number of candidates that the metric considers.
        exclude_used: branch from a place only once. The released code may use it again until a new token beats it.
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.
    """
    signal, alternatives = metric_of(context, metric, top)
    for problems in context.portions(rows_at_once, context.n):
        forest = Forest(context, problems, signal=signal, alternatives=alternatives)
        peaks = [Peaks() for _ in problems]
        coins = [context.coin_of("rose", problem) for problem in problems]
        for index in range(context.n):
            forks: list[Fork] = []
            for problem, rows in enumerate(forest.branches):
                place = None
                peaks[problem].update(rows)
                if index > 0 and coins[problem].random() >= epsilon:
                    place = peaks[problem].take(keep=not exclude_used)
                forks.append(Fork(problem) if place is None else Fork(problem, *place))
            forest.grow(forks)
            context.meter(len(problems))
        yield forest.rollouts()


class Peaks:
    """The largest finite signal of each response so far, so that a response is searched only once."""

    def __init__(self) -> None:
        self._signals: list[np.ndarray] = []
        self._best: list[int] = []

    def update(self, rows: Sequence[ForestRow]) -> None:
        """Look at the new ones among a problem's responses."""
        for each in rows[len(self._best) :]:
            self._signals.append(np.where(np.isnan(each.signal), -np.inf, each.signal))
            self._best.append(int(self._signals[-1].argmax()) if len(each.signal) else 0)

    def take(self, *, keep: bool) -> tuple[int, int] | None:
        """(row, token) of the largest signal, the first of equal ones; None if there is none. keep: allow it again."""
        tops = [
            float(signal[at]) if len(signal) else -np.inf for signal, at in zip(self._signals, self._best, strict=True)
        ]
        row = int(np.argmax(tops)) if tops else 0
        if not tops or tops[row] == -np.inf:
            return None
        at = self._best[row]
        if not keep:
            self._signals[row][at] = -np.inf
            self._best[row] = int(self._signals[row].argmax())
        return row, at
