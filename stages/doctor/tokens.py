"""Findings about tokens: masks, steps, log-probabilities, and whether the text is what the ids say."""

import numpy as np

from .examination import Examination
from .kind import NOTHING, Measured, finding, share


@finding(
    severity="error",
    needs=("token.mask",),
    remedy="mark what the policy wrote in token.mask, or drop the rows with `apportion filter`",
)
def nothing_to_train(examined: Examination, *, above: float = 0.0) -> Measured:
    """Trained rollouts of which the policy wrote no token, by `token.mask`.

    Measures their share.

    Args:
        above: the measure from which it is a finding.
    """
    trained = examined["trained"]
    return share(trained & (examined["length"] == 0), trained, "rollouts")


@finding(
    severity="warning",
    needs=("token.mask", "token.logprob"),
    remedy="set token.mask false on what a tool or an environment wrote; check the importer's field map",
)
def foreign_tokens_trained(examined: Examination, *, above: float = 0.5) -> Measured:
    """Many of the policy's tokens have a log-probability of exactly 0, as what nobody sampled has.

    Measures the share of such tokens among the policy's. A policy that is certain rounds to 0, too, and so does
    greedy decoding.

    Args:
        above: the measure from which it is a finding.
    """
    if "certain" not in examined:
        return NOTHING
    rows = examined["trained"]
    total, certain = examined["length"][rows].sum(), examined["certain"][rows].sum()
    if not total:
        return NOTHING
    most = rows & (examined["certain"] > above * np.maximum(examined["length"], 1))
    return Measured(float(certain / total), f"{int(certain):,} of {int(total):,} tokens", most)


@finding(
    severity="note",
    needs=("token.mask", "token.logprob"),
    remedy="set token.mask true on what the policy sampled, unless you leave it out on purpose (token.trainable says so better)",
)
def sampled_tokens_masked(examined: Examination, *, above: float = 0.0) -> Measured:
    """Tokens with a log-probability that `token.mask` says the policy did not write.

    Measures the share of rollouts with any.

    Args:
        above: the measure from which it is a finding.
    """
    if "masked_samples" not in examined:
        return NOTHING
    rows = examined["trained"] & (examined["masked_samples"] > 0)
    return Measured(float(rows.mean()), f"{rows.sum():,} rollouts", rows)


@finding(
    severity="warning",
    needs=("token.logprob", "token.trainer_logprob"),
    remedy="use one precision in sampler and trainer, or correct for it (truncated importance sampling)",
)
def sampler_trainer_gap(examined: Examination, *, above: float = 0.05) -> Measured:
    """The sampler's log-probabilities are not the trainer's: the update is off-policy without anyone knowing.

    Measures the mean absolute difference, nat a token.

    Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy RL training") describe the effect;
    the threshold is ours.

    Args:
        above: the measure from which it is a finding.
    """
    if "gap" not in examined:
        return NOTHING
    rows = examined["trained"] & np.isfinite(examined["gap"])
    total = examined["length"][rows].sum()
    if not total:
        return NOTHING
    wide = rows & (examined["gap"] > above * np.maximum(examined["length"], 1))
    value = float(examined["gap"][rows].sum() / total)
    return Measured(
        value, f"{value:.3f} nat a token; {int(examined['wide'][rows].sum()):,} tokens are more than 1 nat apart", wide
    )


@finding(
    severity="warning",
    needs=("step.start", "step.end", "token.mask"),
    remedy="cut the steps anew: `apportion score FILE --with steps -o OUT`",
)
def tokens_outside_steps(examined: Examination, *, above: float = 0.05) -> Measured:
    """Tokens of the policy that are in no step, in rollouts with steps: step methods give them nothing.

    Measures their share.

    Args:
        above: the measure from which it is a finding.
    """
    if "outside" not in examined:
        return NOTHING
    total = examined["length"][examined["trained"]].sum()
    if not total:
        return NOTHING
    rows = examined["trained"] & (examined["outside"] > 0)
    outside = examined["outside"][rows].sum()
    return Measured(float(outside / total), f"{int(outside):,} of {int(total):,} tokens", rows)


@finding(
    severity="warning",
    needs=("step.start", "step.end"),
    remedy="cut the steps anew: `apportion score FILE --with steps -o OUT`",
)
def empty_steps(examined: Examination, *, above: float = 0.0) -> Measured:
    """Steps without a token: their reward goes nowhere.

    Measures the share of rollouts with any.

    Args:
        above: the measure from which it is a finding.
    """
    if "empty_steps" not in examined:
        return NOTHING
    rows = examined["trained"] & (examined["empty_steps"] > 0)
    return Measured(float(rows.mean()), f"{rows.sum():,} rollouts", rows)


@finding(
    severity="error",
    needs=("token.id", "text"),
    remedy="take the ids from the sampler, not from the text; `--model` names the tokenizer if it is another one",
)
def text_drift(examined: Examination, *, above: float = 0.0) -> Measured:
    """The ids, decoded by the recorded tokenizer, are not the text.

    Measures the share of up to 64 rollouts.

    Nothing is measured where the file names no tokenizer, or this machine has none of that name.

    Args:
        above: the measure from which it is a finding.
    """
    if examined.decode is None or not examined.samples:
        return NOTHING
    names = {name for name, ids, text in examined.samples if not _same(examined.decode(ids.tolist()), text)}
    rows = np.array([name in names for name in examined.names], bool)
    return Measured(
        len(names) / len(examined.samples), f"{len(names)} of {len(examined.samples)} rollouts looked at", rows
    )


def _same(decoded: str, text: str) -> bool:
    return decoded.split() == text.split()
