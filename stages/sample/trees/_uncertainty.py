"""How uncertain the policy was at a token, that is, where branching pays."""

from typing import Any, Literal

import numpy as np

from ....formats.errors import UsageError
from ...models.engine import Alternatives, Completion
from ..kind import SamplingContext
from ._forest import Signal

Metric = Literal["surprisal", "entropy", "cosine", "rose", "rose_paper", "rao"]
NEEDS_EMBEDDINGS = ("cosine", "rose", "rose_paper", "rao")
AT_ONCE = 1024  # tokens whose candidates' embeddings are in memory together

Floats = np.ndarray[Any, np.dtype[np.float64]]


def surprisal(completion: Completion) -> Floats:
    """[T] -log p of the sampled tokens, nats, under the policy at temperature 1 if the engine knows that."""
    logprobs = completion.logprobs if completion.raw_logprobs is None else completion.raw_logprobs
    if logprobs is None:
        raise UsageError("metric=surprisal needs log-probabilities, which the engine does not report")
    return -logprobs.astype(np.float64)


def candidate_metric(alternatives: Alternatives, metric: Metric, embeddings: Floats | None) -> Floats:
    """[T] metric from the most likely candidates of each token, whose probabilities p are not renormalised:

        H = -sum_v p_v ln p_v         y = sum_v p_v e_v, e_v the candidates' embeddings of length 1
        entropy    = H
        cosine     = sum_v p_v² - |y|²       minus the similarity of two different candidates
        rose       = cosine · H              the released code of ROSE
        rose_paper = -|y|² · H               its equation 2, which counts a candidate with itself
        rao        = (1 - |y|²) · H          high where the policy is undecided between unlike candidates

    Args:
        embeddings: [V, D] rows of length 1; entropy does not need them.

    Returns:
        [T]; -inf for a token with fewer than two candidates.

    arXiv:2601.05053, section 4.1; `rao` is ours. If most embeddings are similar to each other, `rose` is negative where
    the policy is undecided, and 0, its maximum, where it is certain; that is the published sign.
    """
    known = np.isfinite(alternatives.logprobs)
    logp = np.where(known, alternatives.logprobs, 0.0).astype(np.float64)
    p = np.where(known, np.exp(logp), 0.0)
    entropy = -(p * logp).sum(1)
    if metric == "entropy":
        found = entropy
    else:
        assert embeddings is not None
        squares = np.concatenate(
            [
                np.square(np.einsum("tk,tkd->td", p[at : at + AT_ONCE], embeddings[alternatives.ids[at : at + AT_ONCE]])).sum(1)
                for at in range(0, len(p), AT_ONCE)
            ]
            or [np.empty(0)]
        )  # fmt: skip
        cosine = np.square(p).sum(1) - squares
        found = {
            "cosine": cosine,
            "rose": cosine * entropy,
            "rose_paper": -squares * entropy,
            "rao": (1 - squares) * entropy,
        }[metric]
    return np.where(known.sum(1) < 2, -np.inf, found)


def metric_of(context: SamplingContext, metric: Metric, top: int) -> tuple[Signal, int]:
    """(what to keep of every completion, how many alternatives that needs)."""
    if metric == "surprisal":
        return surprisal, 0
    embeddings = None
    if metric in NEEDS_EMBEDDINGS:
        weight = context.source.load().model.get_input_embeddings().weight.detach().float().cpu().numpy()
        embeddings = weight / np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-12)

    def signal(completion: Completion) -> Floats:
        if completion.alternatives is None:
            raise UsageError(
                f"metric={metric} needs alternatives, which engine {context.engine.name!r} does not report; "
                "choose metric=surprisal"
            )
        return candidate_metric(completion.alternatives, metric, embeddings)

    return signal, top
