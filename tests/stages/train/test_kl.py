"""The KL penalty's estimators: values and gradients against autograd of the formulas as they are written down."""

from math import exp
from typing import Any

import pytest
import torch
from apportion.formats.errors import UsageError
from apportion.stages.train.kind import OBJECTIVES, TokenBatch
from apportion.stages.train.objectives._kl import kl_penalty
from apportion.stages.train.objectives.opmd import opmd
from apportion.stages.train.objectives.ppo import ppo

ESTIMATORS = ["k1", "k2", "k3", "abs", "k1+", "k3+"]
DIFFERENCES = [-30.0, -3.0, -0.3, 0.3, 2.0, 2.7, 5.0, 19.0]  # d = reference_logprob - logprob


def tokens_of(differences: list[float], logprob: float = -1.0) -> TokenBatch:
    own = torch.full((len(differences),), logprob, dtype=torch.float64, requires_grad=True)
    return TokenBatch(own, reference_logprob=own.detach() + torch.tensor(differences, dtype=torch.float64))


def value_and_gradient(tokens: TokenBatch, estimator: Any, *bound: float | None) -> tuple[list[float], list[float]]:
    value = kl_penalty(tokens, estimator, *bound)
    [gradient] = torch.autograd.grad(value.sum(), tokens.logprob)
    return value.tolist(), gradient.tolist()


def written(estimator: str, logprob: torch.Tensor, reference: torch.Tensor, bound: float | None) -> torch.Tensor:
    """The formula; of k1+ and k3+ only the value."""
    d = reference - logprob
    k3 = d.exp() - d - 1
    return {
        "k1": logprob - reference,
        "k2": (logprob - reference) ** 2 / 2,
        "k3": k3 if bound is None else torch.minimum(k3, torch.tensor(bound, dtype=k3.dtype)),
        "abs": torch.sqrt(d * d),
    }[estimator.removesuffix("+")]


@pytest.mark.parametrize("bound", [10.0, 3.0, None])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_value_and_gradient_are_those_of_the_formula(estimator: str, bound: float | None) -> None:
    tokens = tokens_of(DIFFERENCES)
    assert tokens.reference_logprob is not None
    found = value_and_gradient(tokens, estimator, bound)
    expected = written(estimator, tokens.logprob, tokens.reference_logprob, bound)
    of_the_gradient = "k2" if estimator.endswith("+") else estimator
    [gradient] = torch.autograd.grad(
        written(of_the_gradient, tokens.logprob, tokens.reference_logprob, bound).sum(), tokens.logprob
    )
    assert found[0] == pytest.approx(expected.tolist(), rel=1e-12)
    assert found[1] == pytest.approx(gradient.tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [("k1", 0.3, 1), ("k2", 0.045, 0.3), ("k3", 0.040818, 0.259182), ("abs", 0.3, 1), ("k1+", 0.3, 0.3), ("k3+", 0.040818, 0.3)],
)  # fmt: skip
def test_the_worked_token(estimator: str, value: float, gradient: float) -> None:
    found = value_and_gradient(tokens_of([-0.3]), estimator)  # logprob -1, reference -1.3
    assert found[0] == pytest.approx([value], abs=1e-6)
    assert found[1] == pytest.approx([gradient], abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "mean", "gradient"),
    [
        ("k1", 0.025267, [0, 0, 0]),
        ("k2", 0.024862, [0.098938, -0.093885, -0.005053]),  # of KL(p || q)
        ("k3", 0.025267, [0.1, -0.1, 0]),  # of KL(q || p)
        ("k1+", 0.025267, [0.098938, -0.093885, -0.005053]),
        ("k3+", 0.025267, [0.098938, -0.093885, -0.005053]),
    ],
)
def test_expected_value_and_gradient_over_all_tokens_of_a_policy(
    estimator: Any, mean: float, gradient: list[float]
) -> None:
    """p = softmax(logits) = [.5, .3, .2] against q = [.4, .4, .2]; the tokens are constants, as when they were sampled."""
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
    reference = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64).log()
    logprob = torch.log_softmax(logits, 0)
    value = (logprob.detach().exp() * kl_penalty(TokenBatch(logprob, reference_logprob=reference), estimator)).sum()
    assert value.item() == pytest.approx(mean, abs=1e-6)
    [found] = torch.autograd.grad(value, logits)
    assert found.tolist() == pytest.approx(gradient, abs=1e-6)


def test_k3_is_bounded_and_one_token_cannot_outweigh_the_batch() -> None:
    assert value_and_gradient(tokens_of([25.0]), "k3") == ([10.0], [0.0])  # verl's number at d = 25
    assert value_and_gradient(tokens_of([25.0]), "k3+") == ([10.0], [-25.0])
    assert value_and_gradient(tokens_of([2.0]), "k3", 3.0) == ([3.0], [0.0])


def test_a_token_far_below_the_reference_is_never_pushed_further_down() -> None:
    """With the exponential alone cut off, the linear term's slope of +1 was left."""
    for difference in (19.0, 21.0, 1e4):
        value, gradient = value_and_gradient(tokens_of([difference], logprob=-2e4), "k3", None)
        assert value[0] <= exp(20) and gradient[0] <= 0


@pytest.mark.parametrize("function", [ppo, opmd])
def test_the_objectives_take_estimator_and_bound(function: Any) -> None:
    own = torch.tensor([-1.0, -1.0], dtype=torch.float64)
    tokens = TokenBatch(own, own, own + torch.tensor([5.0, 0.1], dtype=torch.float64), torch.zeros(2))
    _, metrics = function(tokens, kl_coef=0.1, kl_estimator="k3")
    assert metrics["kl_reference"].tolist() == pytest.approx([10.0, exp(0.1) - 1.1])
    _, metrics = function(tokens, kl_coef=0.1, kl_estimator="k3", kl_max=None)
    assert metrics["kl_reference"][0].item() == pytest.approx(exp(5) - 6)
    _, metrics = function(tokens, kl_coef=0.1, kl_estimator="abs")
    assert metrics["kl_reference"].tolist() == pytest.approx([5.0, 0.1])
    with pytest.raises(UsageError, match="kl_max must be above 0, got -1"):
        OBJECTIVES.settle(function.__name__, {"kl_max": -1.0})
