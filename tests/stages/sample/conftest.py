"""Sampling with the built-in policy, and what comes out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.engine import Completion, EngineDefaults, Request, Sampling
from apportion.stages.models.kind import ENGINES, engine
from apportion.stages.models.policy import ModelSource, load_policy
from apportion.stages.models.transformers._engine import TransformersEngine
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


Reply = Callable[[str], str | None]


class ScriptedEngine(EngineDefaults):
    """The built-in policy, but for what it reads that `reply` has an answer to. read: all that it had one for."""

    name, version, row_seeds, tokens_exact = "scripted", "1", True, True

    def __init__(self, source: ModelSource, reply: Reply):
        self._policy = source.load()
        self._engine = TransformersEngine(self._policy)
        self._reply = reply
        self.identity = self._policy.identity
        self.read: list[str] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        found: list[list[Completion]] = []
        for request in requests:
            text = self._policy.tokenizer.decode(list(request.prefix_ids), skip_special_tokens=True)
            answer = self._reply(text)
            if answer is None:
                found += self._engine.generate([request], sampling)
                continue
            self.read.append(text)
            ids = np.array(self._policy.tokenizer(answer, add_special_tokens=False)["input_ids"], np.int32)
            found.append([Completion(ids, np.zeros(len(ids), np.float32), "stop") for _ in request.seeds])
        return found


@pytest.fixture
def scripted() -> Iterator[Callable[[Reply], list[ScriptedEngine]]]:
    """scripted(reply) registers engine "scripted", and returns the list that those opened will be in."""

    def register(reply: Reply) -> list[ScriptedEngine]:
        opened: list[ScriptedEngine] = []

        def start(source: ModelSource, seed: int) -> ScriptedEngine:
            opened.append(ScriptedEngine(source, reply))
            return opened[-1]

        engine("scripted")(start)
        return opened

    yield register
    ENGINES.remove("scripted")


class FlakyEngine(TransformersEngine):
    """The built-in policy, but for every fourth completion or so, which fails."""

    name = "flaky"
    can_fail = True

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        failed = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "error", error="the server is busy")
        return [
            [failed if seed % 4 == 0 else each for seed, each in zip(request.seeds, made, strict=True)]
            for request, made in zip(requests, super().generate(requests, sampling), strict=True)
        ]


@pytest.fixture
def flaky() -> Iterator[None]:
    """Registers engine "flaky"."""
    engine("flaky")(lambda source, seed: FlakyEngine(source.load()))
    yield
    ENGINES.remove("flaky")
