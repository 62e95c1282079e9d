"""Values: what the state before each step is worth, from the probes that continue it."""

from collections.abc import Mapping

import numpy as np

from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ...structure.batch import credit_of_batch
from ...structure.values import fill_from_the_end, state_counts, state_values
from ..kind import scorer


@scorer(
    needs=("reward", "purpose", "parent_id", "fork", "step.start", "step.end"), granularity="step",
    source="arXiv:2410.01679 (VinePPO)", evidence="code", makes=("step.value", "step.probes"))  # fmt: skip
def values(rollouts: Rollouts, *, truncated: float | None = 0.0) -> Mapping[str, Ragged]:
    """Mean reward of the probes from the state before each step: `step.value`, and their number, `step.probes`.

    Probes are what `sample --from IN --strategy vine` adds; score their rewards first. Equal prefixes of a group are
    one state. A state that nothing continues has the value of the next one that something does, after the last of them
    the rollout's own reward. Probes and evals themselves get none.

    Args:
        truncated: what a probe that ended at the token limit counts as, as for `assign-credit --method vineppo`; None leaves
            its reward.

    Returns:
        {"step.value": a mean reward a step, "step.probes": probes it is the mean of, 0 where it is another state's}.

    Raises:
        DataError: no probes; a group in which no probe begins where a step does; a missing reward, on a rollout with steps
            or a probe; a rollout without steps.
    """
    credit, own = credit_of_batch(rollouts)
    steps = credit.decisions.steps
    mean = state_values(credit, steps.rows.ids, steps.start, of="step", vine="--set at=steps", truncated=truncated)
    counts = state_counts(credit, steps.rows.ids, steps.start)
    mean = fill_from_the_end(mean, steps.rows, credit.reward)
    sizes = np.zeros(len(rollouts), np.int64)
    sizes[own] = steps.rows.sizes
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    return {"step.value": Ragged(mean, offsets, own), "step.probes": Ragged(counts.astype(np.int32), offsets, own)}
