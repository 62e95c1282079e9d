"""Objectives against verl's and TRL's own, where these are installed (`pip install verl==0.9.1 trl==1.16.0`)."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from apportion.stages.models.policy import TINY
from apportion.stages.train.kind import TokenBatch
from apportion.stages.train.objectives._kl import kl_penalty
from apportion.stages.train.objectives.ppo import ppo

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs", "k1+", "k3+"])
def test_the_estimators_are_verls_by_value_and_gradient(estimator: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")
    generator = torch.Generator().manual_seed(1)
    own = -torch.rand(400, generator=generator, dtype=torch.float64) * 12
    reference = -torch.rand(400, generator=generator, dtype=torch.float64) * 12
    own[:3], reference[:3] = torch.tensor([-40.0, -0.1, -5.0]), torch.tensor([-0.1, -40.0, -5.0])
    ours, theirs = own.clone().requires_grad_(), own.clone().requires_grad_()
    found = kl_penalty(TokenBatch(ours, reference_logprob=reference), estimator)
    expected = core_algos.kl_penalty(theirs, reference, estimator)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value.sum(), at)[0] for value, at in ((found, ours), (expected, theirs))]
    torch.testing.assert_close(*gradients)


def test_clip_and_k3_are_trls(tmp_path: Path) -> None:
    """TRL has no function for it: a real trainer computes the loss of a batch made up here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl", reason="trl is not installed")
    datasets = pytest.importorskip("datasets")
    config = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=6,
        use_cpu=True, report_to=[], bf16=False, beta=0.3, epsilon_high=0.28, loss_type="bnpo",
        use_bias_correction_kl=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=str(TINY), reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["1+2", "3*4", "5-6", "7+8"]}),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 16, (4, 9), generator=generator)
    batch = {
        "prompt_ids": ids[:, :3], "prompt_mask": torch.ones(4, 3, dtype=torch.long),
        "completion_ids": ids[:, 3:], "completion_mask": (torch.arange(6) < torch.tensor([[6], [3], [1], [5]])).long(),
        "advantages": torch.tensor([1.0, -1.0, 0.5, -2.0]),
    }  # fmt: skip
    keep = batch["completion_mask"].bool()
    logprob = trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), 6)[0]
    batch["old_per_token_logps"] = logprob.detach() + torch.randn(logprob.shape, generator=generator) / 3
    batch["ref_per_token_logps"] = logprob.detach() + 2 * torch.randn(logprob.shape, generator=generator)
    trainer.current_gradient_accumulation_steps = 1
    expected = trainer._compute_loss(trainer.model, batch)

    advantage = batch["advantages"][:, None].expand_as(logprob)
    tokens = TokenBatch(
        logprob[keep], batch["old_per_token_logps"][keep], batch["ref_per_token_logps"][keep], advantage[keep]
    )
    loss, metrics = ppo(tokens, clip_high=0.28, kl_coef=0.3, kl_max=None)
    torch.testing.assert_close(loss.mean(), expected, rtol=1e-4, atol=1e-5)
    assert metrics["kl_reference"].max() > 10 > metrics["kl_reference"].min()
    parameter = next(trainer.model.parameters())
    gradients = [torch.autograd.grad(value, parameter)[0] for value in (loss.mean(), expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
