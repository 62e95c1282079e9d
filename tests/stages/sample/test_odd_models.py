"""Policies that stop at once, never stop, or write what is no text: the rows are whole all the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from apportion.formats.invariants import broken_invariants
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.models.policy import load_policy, load_tokenizer
from apportion.stages.sample import sample
from apportion.stages.score import score


@contextmanager
def rigged(change: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """The built-in policy, with its logits [B, T, V] changed in place."""
    model = load_policy("builtin:tiny", device="cpu").model

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        change(output.logits)
        return output

    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Callable[[torch.Tensor], None]], Rollouts]:
    def run(change: Callable[[torch.Tensor], None]) -> Rollouts:
        with rigged(change):
            sample(prompts=3, n=2, max_tokens=12, device="cpu", out=tmp_path / "made")
        score(tmp_path / "made", out=tmp_path / "scored")
        rollouts = RolloutFile(tmp_path / "scored").read()
        assert list(broken_invariants(rollouts)) == []
        assert len(rollouts) == 6
        return rollouts

    return run


Made = Callable[[Callable[[torch.Tensor], None]], Rollouts]
TOKENIZER = load_tokenizer("builtin:tiny")


def only(token: int) -> Callable[[torch.Tensor], None]:
    def change(logits: torch.Tensor) -> None:
        logits.fill_(-30.0)
        logits[..., token] = 30.0

    return change


def test_one_that_stops_at_once(made: Made) -> None:
    rollouts = made(only(TOKENIZER.eos_token_id))
    assert rollouts.tokens.sizes.tolist() == [1] * 6
    assert set(rollouts.strings("finish_reason")) == {"stop"}
    assert set(rollouts.strings("text")) == {""}
    assert not rollouts.numbers("reward").any()


def test_one_that_never_stops(made: Made) -> None:
    def change(logits: torch.Tensor) -> None:
        logits[..., TOKENIZER.eos_token_id] = -torch.inf

    rollouts = made(change)
    assert rollouts.tokens.sizes.tolist() == [12] * 6
    assert set(rollouts.strings("finish_reason")) == {"length"}
    assert rollouts.flagged("truncated").all()


def test_one_that_writes_the_padding_token(made: Made) -> None:
    rollouts = made(only(TOKENIZER.pad_token_id))
    assert rollouts.token_ids.values.tolist() == [TOKENIZER.pad_token_id] * 72
    assert rollouts.mask.all(), "a token the policy wrote is a token, whatever it is"


def test_one_that_writes_halves_of_characters(made: Made) -> None:
    """A token of one byte of a longer character: the text has marks in its place, the ids are the truth."""
    half = next(token for token in range(len(TOKENIZER)) if TOKENIZER.decode([token]) == "\ufffd")
    rollouts = made(only(half))
    assert set(rollouts.token_ids.values.tolist()) == {half}
    assert set("".join(rollouts.strings("text"))) == {"\ufffd"}


@pytest.mark.parametrize(
    ("strategy", "settings", "rows"),
    [
        ("branch_schedule", {"factors": [2, 2], "length": "ROOM"}, 2),
        ("truncate", {"k": 2, "budget": 3, "step_tokens": "ROOM", "stop": ["zzz"]}, 2),
        ("mcts", {"rounds": 4, "step_tokens": "ROOM", "stop": ["zzz"], "enough": 0}, 3),
    ],
    ids=str,
)
def test_one_whose_step_ends_just_where_its_context_does(
    strategy: str, settings: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    """Nothing follows, and nobody asks for it: what is there is cut, as by any other limit."""
    options: dict[str, Any] = {
        "prompts": 1,
        "n": 1,
        "seed": 3,
        "device": "cpu",
        "force": True,
        "out": tmp_path / "made",
    }
    sample(**options, max_tokens=1)
    room = 512 - len(RolloutFile(tmp_path / "made").read().ragged("prompt_ids")[0])
    given = {name: room if value == "ROOM" else value for name, value in settings.items()}

    def change(logits: torch.Tensor) -> None:
        logits[..., TOKENIZER.eos_token_id] = -torch.inf

    with rigged(change):
        sample(**options, max_tokens=600, strategy=strategy, settings=given)
    rollouts = RolloutFile(tmp_path / "made").read()
    assert rollouts.tokens.sizes.tolist() == [room] * rows
    assert rollouts.flagged("truncated").all()
    assert not rollouts.flagged("partial").any()
