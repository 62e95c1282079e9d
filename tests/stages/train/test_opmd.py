"""R3L's loss on numbers, and one update of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile
from apportion.stages.train.kind import OBJECTIVES, TokenBatch
from apportion.stages.train.objectives.opmd import opmd

LOGPROB = [-0.1, -0.2, 0.0, 0.0, -0.3, -0.4, -0.5, 0.0, -0.6]
BEHIND_THE_PIVOT = [0, 0, 0, 0, 1, 1, 1, 0, 1]  # the first of three turns is what the retry kept


@pytest.mark.parametrize(("advantage", "expected"), [(1.0, 0.225), (-0.2, -0.045)])
def test_the_worked_example(advantage: float, expected: float) -> None:
    """The mean over the four tokens that the mask includes, half of it for tau = 1."""
    kept = torch.tensor(BEHIND_THE_PIVOT, dtype=torch.bool)
    logprob = torch.tensor(LOGPROB, dtype=torch.float64)[kept]
    loss, metrics = opmd(TokenBatch(logprob, advantage=torch.full_like(logprob, advantage)))
    assert loss.mean().item() == pytest.approx(expected, rel=1e-12)
    assert not metrics
    doubled, _ = opmd(TokenBatch(logprob, advantage=torch.full_like(logprob, advantage)), tau=0)
    assert doubled.mean().item() == pytest.approx(2 * expected, rel=1e-12)


def test_a_tau_below_0_is_refused() -> None:
    with pytest.raises(UsageError, match="objective opmd: tau must be at least 0, got -1"):
        OBJECTIVES.settle("opmd", {"tau": -1})


def test_a_penalty_for_going_away() -> None:
    logprob, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0])
    tokens = TokenBatch(logprob, advantage=torch.zeros(2), reference_logprob=reference)
    loss, metrics = opmd(tokens, kl_coef=0.5)
    assert loss.tolist() == pytest.approx([0.5 * 0.5**2 / 2, 0.0])
    assert metrics["kl_reference"].tolist() == pytest.approx([0.125, 0.0])
    with pytest.raises(UsageError, match="add --reference MODEL"):
        opmd(TokenBatch(logprob, advantage=torch.zeros(2)), kl_coef=0.5)


def test_it_needs_no_recorded_probabilities(
    credit_file: Path, trained: Callable[..., Path], metrics_of: Callable[[Path], list[dict[str, float]]]
) -> None:
    options = {"objective": "opmd", "aggregation": "seq-mean-token-mean"}
    [entry] = metrics_of(trained(credit_file, **options))
    rollouts = RolloutFile(credit_file).read()
    advantage = rollouts.ragged("token.advantage")
    each = -advantage.values * rollouts.ragged("token.logprob").values / 2
    expected = np.mean(advantage.segments.mean(each))
    assert entry["loss"] == pytest.approx(expected, abs=1e-4)
