"""Findings about responses: what earns a reward without earning it."""

import numpy as np

from .examination import Examination
from .kind import NOTHING, Measured, finding, share

HACKED = "read them (`apportion inspect FILE --rollout NAME`), and mend the reward before you train on it"


@finding(severity="warning", needs=("reward", "text"), remedy=HACKED)
def empty_rewarded(examined: Examination, *, above: float = 0.0, characters: int = 1) -> Measured:
    """Responses of almost nothing that earn more than their group's mean.

    Measures their share of the rewarded rollouts (above their group's mean).

    Args:
        above: the measure from which it is a finding.
        characters: a response of fewer is almost nothing.
    """
    earning = examined.live & (examined.centred > 0)
    return share(earning & (examined["characters"] < characters), earning, "rewarded responses")


@finding(severity="warning", needs=("reward", "token.id"), remedy=HACKED)
def repetition_rewarded(
    examined: Examination, *, above: float = 0.05, variety: float = 0.3, tokens: int = 32
) -> Measured:
    """Responses that repeat themselves and earn more than their group's mean.

    Measures their share of the rewarded rollouts.

    Args:
        above: the measure from which it is a finding.
        variety: a response repeats itself if fewer of its stretches of four tokens are different.
        tokens: only responses of as many tokens or more are looked at.
    """
    earning = examined.live & (examined.centred > 0)
    rows = earning & (examined["variety"] < variety) & (examined["length"] >= tokens)
    return share(rows, earning, "rewarded responses")


@finding(severity="warning", needs=("reward", "text", "prompt"), remedy=HACKED)
def one_response_everywhere(examined: Examination, *, above: float = 0.1, prompts: int = 3) -> Measured:
    """One and the same response is rewarded under several prompts, as an answer seldom can be.

    Measures the share of the rewarded rollouts that the most frequent one has.

    Args:
        above: the measure from which it is a finding.
        prompts: so many different prompts at least.
    """
    earning = np.flatnonzero(examined.live & (examined.centred > 0))
    if not len(earning):
        return NOTHING
    texts, place = np.unique(examined["text"][earning], return_inverse=True)
    pairs = np.unique(np.stack((place.reshape(-1), examined["prompt"][earning]), 1), axis=0)
    spread = np.bincount(pairs[:, 0].astype(np.int64), minlength=len(texts))
    counts = np.where(spread >= prompts, np.bincount(place.reshape(-1), minlength=len(texts)), 0)
    most = int(counts.argmax())
    if not counts[most]:
        return Measured(0.0)
    rows = np.zeros(len(examined), bool)
    rows[earning[place.reshape(-1) == most]] = True
    share = float(counts[most] / len(earning))
    return Measured(
        share, f"{counts[most]:,} of {len(earning):,} rewarded responses, under {spread[most]:,} prompts", rows
    )
