"""Sampling with the built-in policy, and what comes out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.policy import load_policy
from apportion.stages.sample import sample

Sampled = Callable[..., Rollouts]


@pytest.fixture
def sampled(tmp_path: Path) -> Sampled:
    """sampled(strategy, **settings) → the rollouts of three problems, 4 each where the strategy takes n."""

    def run(strategy: str, *, options: dict[str, Any] | None = None, **settings: Any) -> Rollouts:
        out = tmp_path / "sampled.parquet"
        sample(
            **{"strategy": strategy, "settings": settings, "prompts": 3, "n": 4, "seed": 3, "max_tokens": 40}
            | {"device": "cpu", "out": out, "force": True}
            | (options or {})
        )
        return RolloutFile(out).read()

    return run


def check_branches(rollouts: Rollouts) -> None:
    """Every row that has a parent in the file begins with its parent's tokens and log-probabilities, and leaves there."""
    rows = {name: row for row, name in enumerate(rollouts.strings("rollout_id"))}
    assert len(rows) == len(rollouts)
    forks, logprobs = rollouts.table.column("fork").to_pylist(), rollouts.ragged("token.logprob")
    for row, parent in enumerate(rollouts.table.column("parent_id").to_pylist()):
        if parent is None:
            assert forks[row] is None
            continue
        fork = forks[row]
        assert 0 <= fork < len(rollouts.token_ids[row])
        assert rollouts.token_ids[row][:fork].tolist() == rollouts.token_ids[rows[parent]][:fork].tolist()
        assert logprobs[row][:fork].tolist() == logprobs[rows[parent]][:fork].tolist()


def check_logprobs(rollouts: Rollouts) -> None:
    """`token.logprob` is what one pass of the policy over prompt and response gives."""
    model = load_policy("builtin:tiny", device="cpu").model
    prompts, found = rollouts.ragged("prompt_ids"), rollouts.ragged("token.logprob")
    for row in range(len(rollouts)):
        ids = np.concatenate((prompts[row], rollouts.token_ids[row])).astype(np.int64)
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids)[None]).logits[0].float()
        whole = torch.log_softmax(logits[:-1], -1).gather(1, torch.from_numpy(ids)[1:, None])[:, 0]
        np.testing.assert_allclose(found[row], whole[len(prompts[row]) - 1 :].numpy(), atol=1e-4)
