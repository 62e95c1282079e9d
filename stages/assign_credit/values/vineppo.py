"""VinePPO: what each reasoning step changed in the chance of success, measured by fresh continuations."""

from typing import Annotated, Literal

from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...structure.statistics import whiten_batch
from ...structure.values import fill_from_the_end, state_values, value_changes
from ..kind import Credit, credit_method


@credit_method(
    needs=("reward", "step.start", "step.end", "parent_id", "fork", "purpose"),
    granularity="step",
    methodology="monte-carlo",
    source="arXiv:2410.01679",
    evidence="code",
    scope="batch",
)
def vineppo(
    credit: Credit,
    *,
    truncated: float | None = 0.0,
    whiten: Literal["none", "batch"] = "none",
    eps: Annotated[float, AtLeast(0)] = 1e-8,
) -> Array:
    """Change of the Monte Carlo value over each step, the same on all tokens of the step.

        V_i = mean reward of the probes that continue the response before step i
        A_i = V_{i+1} - V_i                             every step but the last
        A_i = R - V_i                                   the last step
        A   = (A - mean) / √(var + eps)                 whiten = "batch": over all policy tokens of the file

    Probes are rollouts of purpose probe, as `sample --from IN --strategy vine` makes them. Equal prefixes in a group
    are one state. A state without probes has the value of the next that has some, or R where none follows, so that a
    rollout measured only in its first steps gets 0 in the rest.

    Args:
        credit: uses reward [R] and the probes' rewards, reward units, and the step ruler.
        truncated: what a probe cut by the token limit counts as: 0 in the released configurations, -1 in its code's
            default; None leaves the reward its scorer gave.
        whiten: "none", or "batch" over all rollouts of the file, as the paper's trainer does per update.
        eps: added to the variance, inside the root.

    Returns:
        [T] advantages: reward units, in standard deviations with whiten="batch"; 0 where the mask is false or no step
        is.

    Raises:
        DataError: a missing reward or steps; no probes; a group in which no probe begins where a step does.

    Departures: 1. the released trainer always whitens, over an update's minibatch; here it is an option, over the file.
        2. There a token belongs to the step its first character is in; here to the step the ruler says. 3. Siblings are
        not compared, so a group of one and equal rewards are nothing special: credit is 0 where probes say so.

    >>> from apportion.stages.assign_credit._probe_examples import probed
    >>> vineppo(probed([1.0], [[5, 6, 7]], {(0, 0): [1, 0, 0, 1], (0, 1): [1, 1, 0, 1], (0, 2): [0, 0, 0, 1]})).tolist()
    [0.25, -0.5, 0.75]
    """
    decisions, steps = credit.decisions, credit.decisions.steps
    values = state_values(credit, steps.rows.ids, steps.start, of="step", vine="--set at=steps", truncated=truncated)
    values = fill_from_the_end(values, steps.rows, credit.reward)
    advantage = decisions.on_tokens(value_changes(values, steps.rows, credit.reward))
    return whiten_batch(advantage, credit.mask, eps=eps) if whiten == "batch" else advantage
