from math import exp, log

import pytest
import torch
from apportion.formats.errors import UsageError
from apportion.stages.train.kind import TokenBatch
from apportion.stages.train.objectives.ppo import ppo
from apportion.stages.train.objectives.sft import sft


def batch_of(
    ratio: float, advantage: float = 0.0, *, logprob: float = -1.0, reference_logprob: float | None = None
) -> TokenBatch:
    """One token whose policy gives it `ratio` times the probability it was sampled with."""
    return TokenBatch(
        torch.tensor([logprob], dtype=torch.float64, requires_grad=True),
        old_logprob=torch.tensor([logprob - log(ratio)], dtype=torch.float64),
        reference_logprob=None if reference_logprob is None else torch.tensor([reference_logprob], dtype=torch.float64),
        advantage=torch.tensor([advantage], dtype=torch.float64),
    )


def loss_and_gradient(tokens: TokenBatch, **options: object) -> tuple[float, float]:
    """The token's loss, and its derivative to the log-probability."""
    loss, _ = ppo(tokens, **options)  # type: ignore[arg-type]
    loss.sum().backward()
    assert tokens.logprob.grad is not None
    return loss.item(), tokens.logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),  # inside the clip: d(-A·ratio) = -A·ratio
        (1.1, -2.0, 2.2, 2.2),
        (0.95, 2.0, -1.9, -1.9),
        (0.95, -2.0, 1.9, 1.9),
        (1.5, 2.0, -2.0 * 1.3, 0.0),  # raised enough: clipped at 1 + clip_high
        (0.5, 2.0, -1.0, -1.0),  # a good token that was lowered is pulled back, unclipped
        (0.5, -2.0, 2.0 * 0.9, 0.0),  # lowered enough: clipped at 1 - clip_low
        (1.5, -2.0, 3.0, 3.0),  # a bad token that was raised is pushed back, unclipped
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_the_clip_holds_on_the_side_the_advantage_pulls_to(
    ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    found = loss_and_gradient(batch_of(ratio, advantage), clip_low=0.1, clip_high=0.3)
    assert found == pytest.approx((loss, gradient), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (4.0, -2.0, 6.0, 0.0),  # 8 without it, bounded by 3·2
        (2.5, -2.0, 5.0, 5.0),  # below the bound
        (4.0, 2.0, -2.4, 0.0),  # a positive advantage keeps the plain clip
    ],
)
def test_the_dual_clip_bounds_the_loss_of_a_negative_advantage(
    ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    found = loss_and_gradient(batch_of(ratio, advantage), dual_clip=3.0)
    assert found == pytest.approx((loss, gradient), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("estimator", "penalty", "slope"),
    [
        # logprob -1, reference -1.5: d = -0.5
        ("k1", 0.5, 1.0),
        ("k2", 0.125, 0.5),
        ("k3", exp(-0.5) + 0.5 - 1, 1 - exp(-0.5)),
    ],
)
def test_the_penalty_of_each_estimator(estimator: str, penalty: float, slope: float) -> None:
    found = loss_and_gradient(batch_of(1.0, reference_logprob=-1.5), kl_coef=0.1, kl_estimator=estimator)
    assert found == pytest.approx((0.1 * penalty, 0.1 * slope), rel=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_penalty_is_zero_at_the_reference(estimator: str) -> None:
    loss, metrics = ppo(batch_of(1.0, reference_logprob=-1.0), kl_coef=0.1, kl_estimator=estimator)  # type: ignore[arg-type]
    assert loss.item() == metrics["kl_reference"].item() == 0


def test_the_penalty_is_added_to_the_policy_gradient() -> None:
    found, _ = loss_and_gradient(batch_of(1.1, 2.0, reference_logprob=-1.5), kl_coef=0.1, kl_estimator="k1")
    assert found == pytest.approx(-2.2 + 0.05, rel=1e-12)


def test_a_penalty_without_a_reference_says_what_to_add() -> None:
    with pytest.raises(UsageError, match="add --reference MODEL"):
        ppo(batch_of(1.0), kl_coef=0.1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"),
    [(1.5, 1.0, 1), (1.5, -1.0, 0), (0.5, -1.0, 1), (0.5, 1.0, 0), (1.1, 1.0, 0), (1.0, 1.0, 0)],
)
def test_metrics(ratio: float, advantage: float, clipped: int) -> None:
    _, metrics = ppo(batch_of(ratio, advantage))
    assert metrics["ratio"].item() == pytest.approx(ratio, rel=1e-12)
    assert metrics["clipped"].item() == clipped
    assert metrics["kl_old"].item() == pytest.approx(1 / ratio - 1 + log(ratio), rel=1e-9, abs=1e-15)
    assert "kl_reference" not in metrics


def test_a_ratio_beyond_any_clip_stays_finite() -> None:
    tokens = TokenBatch(
        torch.tensor([0.0], requires_grad=True), old_logprob=torch.tensor([-1e4]), advantage=torch.tensor([-1.0])
    )
    loss, _ = ppo(tokens)
    assert loss.item() == pytest.approx(exp(20), rel=1e-6)


def test_sft_is_the_negative_log_likelihood() -> None:
    logprob = torch.tensor([-0.5, -2.0], requires_grad=True)
    loss, metrics = sft(TokenBatch(logprob))
    loss.sum().backward()
    assert loss.tolist() == [0.5, 2.0]
    assert logprob.grad is not None and logprob.grad.tolist() == [-1.0, -1.0]
    assert not metrics
