"""Presets against verl's own functions, where verl is installed (`pip install verl==0.9.1`; its CPU parts are enough).

The numbers of test_presets.py are worked out by hand; here they are checked on random input.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from apportion.stages.assign_credit.kind import METHODS

pytestmark = pytest.mark.peers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")
torch = pytest.importorskip("torch")

FUNCTIONS = {
    ("grpo", "grpo"): {},
    ("grpo", "grpo_vectorized"): {},
    ("dr_grpo", "grpo"): {"norm_adv_by_std_in_grpo": False},
    ("rloo", "rloo"): {},
    ("opo", "opo"): {},
    ("gpg", "gpg"): {"f_norm": 2.5},
    ("passk", "grpo_passk"): {"config": {}},
    ("reinforce_plus_plus", "reinforce_plus_plus"): {},
    ("reinforce_plus_plus_baseline", "reinforce_plus_plus_baseline"): {},
    ("gdpo", "gdpo"): {},
    ("gae", "gae"): {"gamma": 1.0, "lam": 1.0},
}


def padded(flat: Any, sizes: Any) -> Any:
    """[R, longest] of values [T]."""
    rows = torch.zeros(len(sizes), int(sizes.max()), dtype=torch.float64)
    start = 0
    for row, size in enumerate(sizes.tolist()):
        rows[row, :size] = torch.from_numpy(np.asarray(flat[start : start + size], np.float64))
        start += size
    return rows


def filled(batch: Any) -> Any:
    """With tokens of an environment; verl counts on a response of at least one token of the policy's."""
    rollouts = tuple(replace(each, tokens=each.tokens or (1,), cuts=each.cuts or (0,)) for each in batch.rollouts)
    return replace(batch, holes=True, rollouts=rollouts)


OURS: dict[str, dict[str, Any]] = {"gpg": {"f_norm": 2.5}}  # besides the preset


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "estimator"), FUNCTIONS)
def test_verl(draw: Callable[..., Any], name: str, estimator: str, seed: int) -> None:
    sizes = [2, 3, 5, 4] if name == "passk" or estimator == "grpo_vectorized" else [1, 2, 3, 5, 4]
    method = METHODS[name]
    credit, found = filled(draw(seed, sizes)).credited(method, METHODS.settle(method.name, OURS.get(name, {}), "verl"))

    tokens = credit.tokens.sizes
    mask = padded(credit.mask, tokens)
    reward = torch.from_numpy(credit.reward.copy())
    index = np.array([f"g{group}" for group in credit.groups.ids])
    last = (mask * torch.arange(mask.shape[1])).argmax(1)
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(len(reward)), last] = reward

    arguments: dict[str, Any] = {"token_level_rewards": rewards, "response_mask": mask, "index": index}
    if name == "reinforce_plus_plus":
        arguments = {**arguments, "config": type("Config", (), {"gamma": 1.0})}
        del arguments["index"]
    elif name == "gae":
        arguments = {**arguments, "values": padded(credit.rollouts.ragged("token.value").values, tokens)}
        del arguments["index"]
    elif name == "gdpo":
        keys = ["rewards.right", "rewards.format"]
        arguments |= {
            "config": {"gdpo_reward_keys": keys},
            "non_tensor_batch": {key: credit.rollouts.numbers(key) for key in keys},
            "batch": {
                "prompts": torch.zeros(len(reward), 1),
                "attention_mask": torch.cat([torch.ones(len(reward), 1, dtype=torch.int64), attended(tokens)], 1),
            },
        }
    advantage, _ = core_algos.get_adv_estimator_fn(estimator)(**arguments, **FUNCTIONS[name, estimator])
    expected = np.concatenate([advantage[row, :size].numpy() for row, size in enumerate(tokens.tolist())])
    np.testing.assert_allclose(found[credit.mask], expected[credit.mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rewards", ["steps", "both"])
@pytest.mark.parametrize("name", ["reinforce_plus_plus", "gae"])
def test_verl_with_rewards_of_steps(draw: Callable[..., Any], name: str, rewards: str, seed: int) -> None:
    """On the last token that the policy wrote of each step."""
    method = METHODS[name]
    options = METHODS.settle(method.name, {"rewards": rewards, "gamma": 0.9}, "verl")
    credit, found = filled(draw(seed)).credited(method, options)
    tokens = credit.tokens.sizes
    mask = padded(credit.mask, tokens)
    paid = torch.zeros_like(mask)
    for row in range(len(tokens)):
        own = np.flatnonzero(mask[row].numpy())
        for end, reward in zip(
            *(credit.rollouts.ragged(f"step.{leaf}")[row] for leaf in ("end", "reward")), strict=True
        ):
            paid[row, own[own < end][-1]] += float(reward)
        if rewards == "both":
            paid[row, own[-1]] += float(credit.reward[row])
    arguments: dict[str, Any] = {"token_level_rewards": paid, "response_mask": mask}
    if name == "gae":
        values = padded(credit.rollouts.ragged("token.value").values, tokens)
        arguments |= {"values": values, "gamma": 0.9, "lam": 1.0}
    else:
        arguments |= {"config": type("Config", (), {"gamma": 0.9})}
    advantage, _ = core_algos.get_adv_estimator_fn(name)(**arguments)
    expected = np.concatenate([advantage[row, :size].numpy() for row, size in enumerate(tokens.tolist())])
    np.testing.assert_allclose(found[credit.mask], expected[credit.mask], rtol=1e-4, atol=1e-4)


def attended(sizes: Any) -> Any:
    """[R, longest] int, 1 where there is a token."""
    return (torch.arange(int(sizes.max()))[None] < torch.from_numpy(sizes)[:, None]).long()
