"""Checkpoints that always want the same: to stop, not to stop, to pad, to write half a character. On both engines."""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Engine, Request, Sampling
from apportion.stages.models.policy import ModelSource, load_policy, load_tokenizer
from apportion.stages.models.vllm.engine import close_loaded

TOKENIZER = load_tokenizer("builtin:tiny")
STRONG = 30.0
VLLM = pytest.param(
    "vllm",
    marks=[pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")],
)
# Of the same prefix and of others, with budgets of their own: rows end while their neighbours go on.
REQUESTS = [Request([1, 20, 21], [1, 2], max_tokens=3), Request([1, 30], [3], max_tokens=40), Request([1], [4, 5])]
BUDGETS = [3, 3, 40, 12, 12]

Opened = Callable[[Mapping[int, float]], Engine]


@pytest.fixture(scope="module", autouse=True)
def freed() -> Iterator[None]:
    yield
    if find_spec("vllm") is not None:
        close_loaded()


@pytest.fixture(params=["transformers", VLLM])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """opened({token: logit}) → an engine of a policy that gives every other token the logit 0, whatever it reads."""

    def run(logits: Mapping[int, float]) -> Engine:
        policy = load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False)
        model = policy.model
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.fill_(1.0)
            model.model.norm.weight.fill_(1.0)  # what comes out of it is 1 everywhere
            head = torch.zeros_like(model.lm_head.weight)
            for token, logit in logits.items():
                head[token] = logit / head.shape[1]
            model.lm_head.weight = torch.nn.Parameter(head)
        model.config.tie_word_embeddings = False
        policy.save(tmp_path / "odd")
        options = {"kv_cache_gib": 0.25} if request.param == "vllm" else {}
        return open_engine(request.param, ModelSource(str(tmp_path / "odd"), "cpu", "float32"), options=options)

    return run


def generated(engine: Engine, **sampling: object) -> tuple[list[list[int]], list[str], list[np.ndarray]]:
    """Ids, finish reasons and log-probabilities of all samples of REQUESTS."""
    found = [each for group in engine.generate(REQUESTS, Sampling(**{"max_tokens": 12} | sampling)) for each in group]  # type: ignore[arg-type]
    logprobs = [each.logprobs for each in found if each.logprobs is not None]
    assert [len(each) for each in logprobs] == [len(each.ids) for each in found]
    return [each.ids.tolist() for each in found], [each.finish_reason for each in found], logprobs


def test_one_that_stops_at_once(opened: Opened) -> None:
    end = TOKENIZER.eos_token_id
    ids, reasons, logprobs = generated(opened({end: STRONG}), max_tokens=40)
    assert ids == [[end]] * 5
    assert reasons == ["stop"] * 5
    np.testing.assert_allclose(np.concatenate(logprobs), 0, atol=1e-6)


def test_one_that_never_stops(opened: Opened) -> None:
    end = TOKENIZER.eos_token_id
    engine = opened({end: -STRONG})
    ids, reasons, logprobs = generated(engine, max_tokens=40)
    assert [len(each) for each in ids] == [3, 3, 40, 40, 40]
    assert reasons == ["length"] * 5
    assert not any(end in each for each in ids)
    # All others are alike, in all of the vocabulary's places.
    np.testing.assert_allclose(np.concatenate(logprobs), -np.log(len(TOKENIZER) - 1), atol=1e-4)
    [[whole]] = engine.generate([Request([1, 20], [0])], Sampling(max_tokens=10_000))
    assert (len(whole.ids), whole.finish_reason) == (510, "length"), "the context ends it"


def test_one_that_writes_the_padding_token(opened: Opened) -> None:
    pad = TOKENIZER.pad_token_id
    ids, reasons, logprobs = generated(opened({pad: STRONG}), max_tokens=40)
    assert ids == [[pad] * size for size in (3, 3, 40, 40, 40)]
    assert reasons == ["length"] * 5
    np.testing.assert_allclose(np.concatenate(logprobs), 0, atol=1e-6)


@pytest.mark.parametrize("stop", [(), ("€", "x")], ids=str)
def test_one_that_writes_halves_of_characters(opened: Opened, stop: tuple[str, ...]) -> None:
    """Bytes that are no UTF-8, in any order: the ids are what was drawn, and no stop text is found in them."""
    halves = [token for token in range(len(TOKENIZER)) if TOKENIZER.decode([token]) == "\ufffd"][:3]
    ids, reasons, _ = generated(opened(dict.fromkeys(halves, STRONG)), max_tokens=12, stop=stop)
    assert [len(each) for each in ids] == [min(size, 12) for size in BUDGETS]
    assert set().union(*ids) == set(halves)
    assert reasons == ["length"] * 5


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_where_vllms_cache_is_full_rows_wait_and_are_the_same() -> None:
    source, requests = ModelSource("builtin:tiny", "cpu", "float32"), [Request([1, 20, 21, 22], range(64))]
    sampling = Sampling(max_tokens=100, temperature=1.5)
    found: list[list[list[int]]] = []
    for gib in (0.25, 0.0045):  # that of one sequence as long as the context is 0.002
        engine = open_engine("vllm", source, options={"kv_cache_gib": gib})
        found.append([completion.ids.tolist() for completion in engine.generate(requests, sampling)[0]])
    assert sum(map(len, found[0])) > 1200, "more than fits at a time"
    assert found[0] == found[1]
