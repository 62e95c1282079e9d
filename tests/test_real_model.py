"""A real language model through every stage, with its own tokenizer and chat template, on real problems."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.parquet import RolloutFile
from filelock import FileLock
from typer.testing import Result

pytestmark = pytest.mark.model


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory, made once and kept in pytest's cache."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("smollm2") / "SmolLM2-135M-Instruct"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            subprocess.run([sys.executable, str(Path(__file__).parent / "make_smollm2.py"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def finished(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the recipe `smollm2`, one small round of it; one for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm2"
    sizes = {"rounds": 1, "prompts": 3, "n": 4, "max_tokens": 64, "eval_prompts": 2, "eval_n": 2}
    settings = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
    command = ["run", "smollm2", "--dir", str(folder), "--set", f"model={smollm2}", *settings]
    with FileLock(folder.with_suffix(".lock")):  # the second to come finds every step done
        subprocess.run([sys.executable, "-m", "apportion", *command], check=True)
    return folder


def test_the_prompt_is_the_models_chat_template(smollm2: Path, finished: Path) -> None:
    from transformers import AutoTokenizer

    rollouts = RolloutFile(finished / "0" / "credit.parquet").read()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    messages = rollouts.arrow("prompt")[0].as_py()
    prompt = tokenizer.decode(rollouts.ragged("prompt_ids").values[: rollouts.ragged("prompt_ids").offsets[1]])
    assert prompt == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>assistant\n")


def test_the_text_is_that_of_the_tokens(smollm2: Path, finished: Path) -> None:
    from transformers import AutoTokenizer

    rollouts = RolloutFile(finished / "0" / "credit.parquet").read()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ids = rollouts.token_ids
    for row, text in enumerate(rollouts.strings("text")):
        response = ids.values[ids.offsets[row] : ids.offsets[row + 1]]
        assert tokenizer.decode(response, skip_special_tokens=True) == text
        ended = rollouts.strings("finish_reason")[row] == "stop"
        assert (response[-1] == tokenizer.eos_token_id) == ended


def test_the_recorded_log_probabilities_are_those_of_the_policy(finished: Path) -> None:
    (metrics,) = [json.loads(line) for line in (finished / "0" / "policy" / "metrics.jsonl").read_text().splitlines()]
    assert metrics["ratio"] == pytest.approx(1, abs=1e-4)
    assert metrics["kl_old"] == pytest.approx(0, abs=1e-6)
    assert metrics["grad_norm"] > 0


def test_the_checkpoint_is_a_model_that_moved(smollm2: Path, finished: Path) -> None:
    from transformers import AutoModelForCausalLM

    trained = AutoModelForCausalLM.from_pretrained(finished / "0" / "policy").state_dict()
    before = AutoModelForCausalLM.from_pretrained(smollm2, dtype="float32").state_dict()
    moved = [float((trained[name] - before[name]).abs().max()) for name in before]
    assert 0 < max(moved) < 1e-4  # one update with a learning rate of 2e-6


def test_rewards_are_the_verifiers(finished: Path) -> None:
    reward = RolloutFile(finished / "0" / "credit.parquet").read().numbers("reward")
    assert ((reward >= 0) & (reward <= 1)).all()
    assert len(reward) == 12


def test_a_finished_run_is_not_repeated(smollm2: Path, finished: Path, cli: Callable[..., Result]) -> None:
    policy = finished / "0" / "policy" / "model.safetensors"
    written = policy.stat().st_mtime_ns
    sizes = ("rounds=1", "prompts=3", "n=4", "max_tokens=64", "eval_prompts=2", "eval_n=2", f"model={smollm2}")
    settings = [word for setting in sizes for word in ("--set", setting)]
    result = cli("run", "smollm2", "--dir", finished, "--dry-run", *settings)
    assert result.exit_code == 0, result.output
    assert "to run" not in result.output
    assert policy.stat().st_mtime_ns == written
