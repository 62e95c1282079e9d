"""Presets against TRL's own trainers, where TRL is installed (`pip install trl==1.16.0`).

TRL computes advantages inside its trainers: a real one samples from the built-in policy here, rewards drawn at random
stand in for the verifier, and what the trainer made of them is compared.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.stages.assign_credit._apply import on_tokens
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit
from apportion.stages.models.policy import TINY

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", reason="trl is not installed")
datasets = pytest.importorskip("datasets")

PROMPTS, PER_PROMPT = 3, 4


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("name", "trainer", "options"),
    [
        ("grpo", "GRPO", {"scale_rewards": "group"}),
        ("dr_grpo", "GRPO", {"scale_rewards": "none"}),
        ("lite_ppo", "GRPO", {"scale_rewards": "batch"}),
        ("gdpo", "GRPO", {"multi_objective_aggregation": "normalize_then_sum", "scale_rewards": "group"}),
        ("rloo", "RLOO", {}),
    ],
)
def test_trl(tmp_path: Path, name: str, trainer: str, options: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    given: list[list[float]] = []

    def right(completions: list[Any], **_: Any) -> list[float]:
        given.append(rng.integers(0, 2, len(completions)).astype(float).tolist())
        given[-1][:PER_PROMPT] = [1.0] * PER_PROMPT  # one group is dead
        return given[-1]

    def form(completions: list[Any], **_: Any) -> list[float]:
        given.append(rng.random(len(completions)).round(2).tolist())
        return given[-1]

    functions = [right, form] if name == "gdpo" else [right]
    config = getattr(trl, f"{trainer}Config")(
        output_dir=str(tmp_path), per_device_train_batch_size=PROMPTS * PER_PROMPT, num_generations=PER_PROMPT,
        max_completion_length=12, use_cpu=True, report_to=[], seed=seed, bf16=False, beta=0.0, **options,
    )  # fmt: skip
    prompts = ["1+2*3-1*4", "4+4*5-2*4", "9-2*2+3*3"]
    made = getattr(trl, f"{trainer}Trainer")(
        model=str(TINY), reward_funcs=functions, args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
    )  # fmt: skip
    made.model.train()
    batch = made._generate_and_score_completions([{"prompt": prompt} for prompt in prompts for _ in range(PER_PROMPT)])

    lengths = batch["completion_mask"].sum(1).tolist()
    tokens = [batch["completion_ids"][row, :size].tolist() for row, size in enumerate(lengths)]
    rollouts = rollouts_of(given[0], tokens=tokens, groups=[row // PER_PROMPT for row in range(len(tokens))])
    if name == "gdpo":
        rollouts = rollouts.with_columns({"rewards.right": np.array(given[0]), "rewards.format": np.array(given[1])})
    method = METHODS[name]
    found = method.assign(Credit(rollouts), **METHODS.settle(method.name, {}, "trl"))
    ours = rollouts.tokens.first(on_tokens(method, rollouts, found))
    np.testing.assert_allclose(ours, batch["advantages"].float().numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(ours).max() > 0.3
