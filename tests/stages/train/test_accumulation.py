"""Accumulated minibatches are one large one: whatever a loss is a mean of, it is over the whole update."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from apportion.formats.ragged import Ragged
from apportion.stages.models.examples import Examples
from apportion.stages.models.policy import load_policy
from apportion.stages.train._loop import Aggregation, Settings, all_logprobs, update_policy
from apportion.stages.train.kind import OBJECTIVES

KL = {"kl_coef": 0.1, "kl_estimator": "k3"}
CASES = [
    *((name, options, aggregation) for name, options in (("ppo", {}), ("ppo", KL), ("opmd", {}), ("opmd", KL), ("sft", {}))
      for aggregation in get_args(Aggregation)),
    ("dpo", {"nll_coef": 0.3}, "token-mean"),
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False).model


@pytest.fixture(scope="module")
def examples(model: Any) -> Examples:
    """Twelve rollouts of 1 to 12 tokens in groups of 1 to 5, a few tokens of each masked; also six preference pairs."""
    rng = np.random.default_rng(4)
    lengths = rng.permutation(np.arange(1, 13))
    total = int(lengths.sum())
    prompts = np.arange(12) % 3 + 1
    made = Examples(
        sequences=Ragged.from_lists([rng.integers(3, 40, size).tolist() for size in lengths + prompts], np.int32),
        prompt_sizes=prompts,
        mask=Ragged.from_lists([[place % 4 != 2 for place in range(length)] for length in lengths], bool),
        group=np.repeat([0, 1, 2, 3], [2, 5, 1, 4]),
        weight=rng.random(12) + 0.5,
        temperature=np.ones(12),
        advantage=rng.normal(size=total).astype(np.float32),
    )
    own = all_logprobs(model, made, 0, torch.float32)
    near, far = (own + np.float32(size) * rng.normal(size=total).astype(np.float32) for size in (0.1, 0.5))
    return replace(made, old_logprob=near, reference_logprob=far)


def gradient(
    model: Any, examples: Examples, name: str, options: dict[str, Any], aggregation: Aggregation, **parts: int
) -> tuple[float, torch.Tensor]:
    """The loss of one update, and its gradient. The learning rate is 0, so that the model stays as it is."""
    settings = Settings(
        lr=0.0, epochs=1, micro_tokens=100, aggregation=aggregation, longest=12, warmup=0, schedule="constant",
        max_grad_norm=0.0, seed=0, **parts,
    )  # fmt: skip
    objective = OBJECTIVES[name]
    defaults = {"ppo": {"clip_low": 0.2}, "dpo": {"beta": 0.1}}.get(name, {})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    given = {**defaults, **options}
    [entry] = update_policy(model, optimizer, examples, objective, given, settings, torch.float32, 0)
    return entry["loss"], torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.mark.parametrize(("name", "options", "aggregation"), CASES)
def test_accumulated_minibatches_are_one_large_one(
    model: Any, examples: Examples, name: str, options: dict[str, Any], aggregation: Aggregation
) -> None:
    """Of 12 rollouts, in parts of 4, which have other numbers of tokens and groups each."""
    loss, whole = gradient(model, examples, name, options, aggregation, minibatch=12, accumulate=1)
    assert whole.abs().max() > 1e-3
    parts_loss, parts = gradient(model, examples, name, options, aggregation, minibatch=4, accumulate=3)
    assert parts_loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
