"""Findings about groups and prompts: whether there is anything to compare."""

import numpy as np

from .examination import Examination
from .kind import NOTHING, Measured, finding


@finding(
    severity="warning",
    needs=("reward",),
    remedy="sample prompts of middling difficulty (`sample --strategy dynamic`), more rollouts a prompt (-n), or a finer reward",
)
def dead_groups(examined: Examination, *, above: float = 0.5) -> Measured:
    """Groups whose rewards are all equal: they teach nothing, and their tokens are paid for.

    Measures their share of the groups with two rollouts or more. DAPO (arXiv:2503.14476, §3.2) samples until none
    is left.

    Args:
        above: the measure from which it is a finding.
    """
    several = examined.groups.sum(examined.counted.astype(np.int64)) > 1
    if not several.any():
        return NOTHING
    dead = several & ~examined.groups.any(examined.live)
    share = float(dead.sum() / several.sum())
    return Measured(share, f"{dead.sum():,} of {several.sum():,} groups", examined.groups.spread(dead))


@finding(
    severity="error",
    needs=("reward",),
    remedy="look at the reward: `apportion inspect FILE`, `apportion score FILE --with …`",
)
def constant_reward(examined: Examination, *, above: float = 0.0) -> Measured:
    """Every rollout has the same reward: no method can find a difference.

    Measures 1 where that is so, else 0.

    A file of fewer than two rewarded rollouts is not measured.

    Args:
        above: the measure from which it is a finding.
    """
    rewards = examined["reward"][examined.counted]
    if len(rewards) < 2:
        return NOTHING
    return Measured(float(np.ptp(rewards) == 0), f"all {len(rewards):,} rewards are {rewards[0]:g}")


@finding(
    severity="warning",
    remedy="sample more rollouts a prompt (-n), or group rollouts of one prompt (`import --group-by`)",
)
def single_rollouts(examined: Examination, *, above: float = 0.1) -> Measured:
    """Groups of one trained rollout: methods that compare siblings give them nothing.

    Measures their share of the groups.

    Args:
        above: the measure from which it is a finding.
    """
    counts = examined.groups.sum((examined["trained"] & examined["compared"]).astype(np.int64))
    if not (counts > 0).any():
        return NOTHING
    alone = counts == 1
    share = float(alone.sum() / (counts > 0).sum())
    return Measured(share, f"{alone.sum():,} of {(counts > 0).sum():,} groups", examined.groups.spread(alone))


@finding(
    severity="note",
    needs=("prompt",),
    remedy="give rollouts of one prompt one group_id, so that they are compared; leave it if they are of different iterations",
)
def repeated_prompts(examined: Examination, *, above: float = 0.0) -> Measured:
    """One prompt in several groups: its rollouts are compared only within each.

    Measures the share of such groups.

    Args:
        above: the measure from which it is a finding.
    """
    heads = examined["prompt"][examined.groups.starts]
    _, place, counts = np.unique(heads, return_inverse=True, return_counts=True)
    repeated = counts[place.reshape(-1)] > 1
    share = float(repeated.mean()) if len(heads) else 0.0
    return Measured(share, f"{repeated.sum():,} of {len(heads):,} groups", examined.groups.spread(repeated))


@finding(severity="error", needs=("prompt", "purpose"), remedy="sample evaluations from another split (`--split test`)")
def evaluated_prompts(examined: Examination, *, above: float = 0.0) -> Measured:
    """Prompts that are trained on and evaluated: the evaluation says nothing.

    Measures their share of the evaluated prompts.

    Args:
        above: the measure from which it is a finding.
    """
    evaluated = examined["evaluated"].astype(bool)
    if not evaluated.any():
        return NOTHING
    both = evaluated & np.isin(examined["prompt"], examined["prompt"][examined["trained"] & ~evaluated])
    share = len(np.unique(examined["prompt"][both])) / len(np.unique(examined["prompt"][evaluated]))
    return Measured(float(share), f"{len(np.unique(examined['prompt'][both])):,} prompts", both)


@finding(
    severity="note",
    needs=("policy",),
    remedy="train with recorded log-probabilities, or on the rollouts of the last policy",
)
def several_policies(examined: Examination, *, above: float = 1.0) -> Measured:
    """Rollouts of several policies in one file: those of earlier ones are off-policy.

    Measures how many policies there are.

    Args:
        above: the measure from which it is a finding.
    """
    found = len(np.unique(examined["policy"][examined["trained"]]))
    return Measured(float(found), f"{found} policies")


@finding(
    severity="warning",
    needs=("text",),
    remedy="raise the temperature, or look whether the policy has collapsed (token.entropy)",
)
def same_responses(examined: Examination, *, above: float = 0.5) -> Measured:
    """Responses that repeat one of their group word for word.

    Measures their share of the rollouts in groups of several.

    Args:
        above: the measure from which it is a finding.
    """
    counted = examined["trained"] & examined["compared"]
    several = examined.groups.spread(examined.groups.sum(counted.astype(np.int64)) > 1) & counted
    if not several.any():
        return NOTHING
    order = np.lexsort((examined["text"], examined["group"]))
    pairs = np.stack((examined["group"], examined["text"]), 1)[order]
    again = np.zeros(len(order), bool)
    again[order[1:]] = (pairs[1:] == pairs[:-1]).all(1)
    again &= several
    return Measured(float(again.sum() / several.sum()), f"{again.sum():,} of {several.sum():,} responses", again)
