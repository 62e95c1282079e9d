"""SPO-chain: what each segment between unlikely tokens changed in the chance of success, by fresh continuations."""

from typing import Annotated

import numpy as np

from ....formats.segments import Array, Segments
from ...core.ranges import AtLeast, Between
from ...structure.cuts import cut_points, is_above
from ...structure.values import fill_from_the_end, state_values, value_changes
from ..kind import Credit, credit_method


@credit_method(
    needs=("reward", "token.logprob", "parent_id", "fork", "purpose"),
    granularity="segment",
    methodology="monte-carlo",
    source="arXiv:2505.23564 (SPO-chain)",
    evidence="code",
)
def spo_chain(
    credit: Credit,
    *,
    below: Annotated[float, Between(0, 1)] = 0.9,
    every: Annotated[int, AtLeast(1)] = 5,
    mask_above: Annotated[float | None, Between(0, 1)] = 0.9,
    truncated: float | None = None,
) -> Array:
    """Change of the Monte Carlo value between cuts, on the segment's unlikely tokens.

        cuts c_1 < c_2 < …   before every `every`-th token with probability < below, beginning with the first
        V_k = mean reward of the probes that continue the response before cut k;  V after the last token = R
        A_t = V_{k+1} - V_k              c_k ≤ t < c_{k+1}, or t to the end for the last cut
        A_t = 0                          before the first cut, and where p_t > mask_above

    Probes are rollouts of purpose probe, as `sample --from IN --strategy vine --set at=unlikely` makes them with the
    same `below` and `every`. Equal prefixes in a group are one state. A cut without probes has the value of the next
    that has some, or R where none follows, so that its segment gets 0.

    Args:
        credit: uses reward [R] and the probes' rewards, reward units, and token.logprob [T], nat.
        below: a token less probable than this, as float32, is a possible cut.
        every: of the possible cuts each `every`-th is one.
        mask_above: tokens more probable than this get 0; None keeps all.
        truncated: what a probe cut by the token limit counts as; None leaves its reward.

    Returns:
        [T] advantages, reward units; 0 where the mask is false. A rollout without unlikely tokens gets 0.

    Raises:
        DataError: a missing reward or log-probability; no probes; a group in which no probe begins at a cut, as when they
            were made with another `below` or `every`. UsageError: every < 1.

    Departures: 1. The released trainer also leaves probable tokens out of the loss's denominator and whitens the rest
        per update; here they have credit 0 and nothing is whitened. 2. Siblings are not compared, so a group of one
        and equal rewards are nothing special.

    >>> from apportion.stages.assign_credit._probe_examples import probed
    >>> probs = [[0.99, 0.5, 0.95, 0.8, 0.3, 0.97, 0.6, 0.99]]
    >>> outcomes = {(0, 1): [1, 0], (0, 4): [0, 0, 0, 1]}
    >>> spo_chain(probed([1.0], [list(range(8))], outcomes, probs=probs), every=2).tolist()
    [0.0, -0.25, 0.0, -0.25, 0.75, 0.0, 0.75, 0.0]
    """
    tokens, logprob = credit.tokens, credit.logprob
    assert logprob is not None
    rows, lengths = cut_points(logprob, credit.mask, tokens, below=below, every=every)
    cuts = Segments.of_sizes(np.bincount(rows, minlength=len(credit.rollouts)))
    advantage = np.zeros(len(credit.mask))
    if len(rows):
        reward = credit.reward
        vine = f"--set at=unlikely --set every={every} --set below={below}"
        values = state_values(credit, rows, lengths, of="cut", vine=vine, truncated=truncated)
        values = fill_from_the_end(values, cuts, reward)
        # All tokens in order are stretches: one before a rollout's first cut, which gets 0, and one behind each cut.
        order = np.argsort(np.concatenate((np.arange(len(cuts)), rows)), kind="stable")
        starts = np.concatenate((tokens.starts, tokens.starts[rows] + lengths))[order]
        change = np.concatenate((np.zeros(len(cuts)), value_changes(values, cuts, reward)))[order]
        advantage = np.repeat(change, np.diff(starts, append=len(advantage)))
    kept = credit.mask if mask_above is None else credit.mask & ~is_above(logprob, mask_above)
    return np.where(kept, advantage, 0.0)
