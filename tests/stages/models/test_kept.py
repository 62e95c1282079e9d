"""What continued requests computed, found again by later calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.parquet import RolloutFile
from apportion.stages.models.engine import Completion, Request, Sampling
from apportion.stages.models.policy import Policy, load_policy
from apportion.stages.models.transformers import _engine as transformers_engine
from apportion.stages.models.transformers._engine import TransformersEngine
from apportion.stages.models.transformers._kept import KeptStates
from apportion.stages.models.transformers._prefixes import trunks_of
from typer.testing import Result

COLUMN = 2 * 3 * 4  # bytes of one token in `states_of`: keys and values of one layer, one head, three float32
LARGE = 1 << 20


def states_of(tokens: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of one layer; each column says which token it is, and at which place."""
    column = torch.tensor([[token, place, 0.0] for place, token in enumerate(tokens)])[None]
    return [(column, -column)]


def sequence(*parts: tuple[int, int]) -> list[int]:
    """(token, how often) one after another."""
    return [token for token, count in parts for _ in range(count)]


def added(kept: KeptStates, tokens: list[int], room: int = LARGE) -> None:
    kept.add(np.array(tokens, np.int64), states_of(tokens), room)


def found(kept: KeptStates, tokens: list[int]) -> int:
    """How many of the tokens are found; checks their states."""
    trunk = kept.find(np.array(tokens, np.int64))
    if trunk is None:
        return 0
    size = len(trunk.tokens)
    assert trunk.tokens.tolist() == tokens[:size]
    assert trunk.states is not None
    [(keys, values)] = trunk.states
    assert torch.equal(keys, states_of(tokens[:size])[0][0])
    assert torch.equal(values, -keys)
    return size


def test_the_longest_beginning_is_found() -> None:
    kept = KeptStates()
    added(kept, sequence((1, 40), (2, 10)))
    added(kept, sequence((1, 60), (3, 10)))
    assert found(kept, sequence((1, 40), (2, 5), (9, 50))) == 45
    assert found(kept, sequence((1, 40), (2, 20))) == 50
    assert found(kept, sequence((1, 60), (2, 20))) == 60
    assert found(kept, sequence((1, 45))) == 45
    assert found(kept, sequence((1, 40), (1_000_000, 3))) == 40, "tokens are compared as numbers, not byte by byte"
    assert found(kept, sequence((1, 31), (7, 60))) == 0, "too short to be worth it"
    assert found(kept, sequence((7, 60))) == 0


def test_none_begins_another() -> None:
    kept = KeptStates()
    added(kept, sequence((1, 40)))
    added(kept, sequence((1, 40), (2, 10)))
    assert (len(kept), kept.bytes) == (1, 50 * COLUMN)
    added(kept, sequence((1, 40), (2, 3)))
    assert (len(kept), kept.bytes) == (1, 50 * COLUMN)
    added(kept, sequence((1, 40), (3, 3)))
    assert (len(kept), kept.bytes) == (2, 93 * COLUMN)
    added(kept, sequence((8, 31)))
    assert len(kept) == 2, "it would never be found"
    kept.clear()
    assert (len(kept), kept.bytes, found(kept, sequence((1, 40)))) == (0, 0, 0)


def test_what_was_not_used_for_longest_makes_room() -> None:
    kept, room = KeptStates(), 100 * COLUMN
    kept.begin()
    added(kept, sequence((1, 50)), room)
    kept.begin()
    added(kept, sequence((2, 50)), room)
    kept.begin()
    assert found(kept, sequence((1, 50), (5, 5))) == 50
    added(kept, sequence((3, 50)), room)
    assert [found(kept, sequence((token, 50))) for token in (1, 2, 3)] == [50, 0, 50]
    assert kept.bytes == room


def test_the_present_call_keeps_what_it_uses_and_takes_no_more_than_fits() -> None:
    kept, room = KeptStates(), 120 * COLUMN
    kept.begin()
    for token in (1, 2, 3):
        added(kept, sequence((token, 50)), room)
    assert [found(kept, sequence((token, 50))) for token in (1, 2, 3)] == [50, 50, 0]
    kept.begin()
    assert found(kept, sequence((1, 50), (4, 9))) == 50
    added(kept, sequence((1, 50), (4, 60)), room)  # the first is no longer needed, the second may go
    assert (found(kept, sequence((1, 50), (4, 60))), kept.bytes) == (110, 110 * COLUMN)
    added(kept, sequence((1, 50), (4, 80)), room)
    assert (found(kept, sequence((1, 50), (4, 80))), kept.bytes) == (110, 110 * COLUMN), "what was there stays"


def test_trunks_begin_with_what_is_more_than_they_share() -> None:
    kept = KeptStates()
    prefixes = [np.array(sequence((1, 40), (token, 20))) for token in (2, 3, 4)]
    added(kept, prefixes[0].tolist())  # whole
    added(kept, [*prefixes[1][:55].tolist(), 9])  # five tokens are missing
    trunks = trunks_of(prefixes, [1, 1, 1])
    stem = trunks[2].stem
    assert stem is not None
    assert len(stem.tokens) == 40
    kept.begin_trunks(trunks)
    assert trunks[0].states is not None
    assert [trunk.computed_before for trunk in trunks] == [60, 55, 40]
    assert trunks[2].stem is stem, "it has no more than all have"
    assert stem.waiting == 1
    assert stem.computed_before == 40, "and that is known"


@pytest.fixture(scope="module")
def policy() -> Policy:
    """In float64, so that what is left of a difference is no rounding."""
    policy = load_policy("builtin:tiny", device="cpu", dtype="float32", shared=False)
    policy.model.double()
    return policy


SAMPLING = Sampling(max_tokens=12, temperature=1.5)


def turns(
    engine: TransformersEngine, prompts: list[list[int]], count: int, *, continued: bool = True
) -> tuple[list[Completion], int]:
    """Two samples of each prompt go on for some turns, each answered by ten tokens; and the last tokens of prefixes."""
    rows = [list(prompt) for prompt in prompts for _ in range(2)]
    made: list[Completion] = []
    for turn in range(count):
        requests = [
            Request(prefix, [100 * turn + place], continued=continued) for place, prefix in enumerate(rows)
        ]  # fmt: skip
        answers = [each for (each,) in engine.generate(requests, SAMPLING)]
        made += answers
        rows = [[*row, *each.ids.tolist(), *([20 + turn] * 10)] for row, each in zip(rows, answers, strict=True)]
    return made, len(rows) * count


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(3)
    begin = rng.integers(20, 300, 40).tolist()
    return [[1, *begin, *rng.integers(20, 300, size).tolist()] for size in (3, 17, 30)]


def same(one: list[Completion], other: list[Completion]) -> None:
    assert [each.ids.tolist() for each in one] == [each.ids.tolist() for each in other]
    for first, second in zip(one, other, strict=True):
        assert first.logprobs is not None
        assert second.logprobs is not None
        np.testing.assert_allclose(first.logprobs, second.logprobs, rtol=0, atol=1e-6)


def test_turns_are_the_same_and_cost_only_what_is_new(policy: Policy, prompts: list[list[int]]) -> None:
    anew, kept = TransformersEngine(policy), TransformersEngine(policy)
    before, _ = turns(anew, prompts, 4, continued=False)
    after, calls = turns(kept, prompts, 4)
    same(before, after)
    first = 41 + sum(len(prompt) - 42 for prompt in prompts)  # what all begin with once, without each prompt's last
    # Of every later turn: the last token of the answer before it, and nine of what answered that.
    later = 6 * 3 * 10
    usage = kept.usage
    assert usage.cached_tokens is not None
    assert usage.prompt_tokens - usage.cached_tokens == first + later + calls
    assert anew.usage.prompt_tokens == usage.prompt_tokens
    assert anew.usage.cached_tokens is not None
    assert anew.usage.cached_tokens < usage.cached_tokens / 2
    assert anew._kept.bytes == 0, "nobody asked for it"


def test_little_room_changes_no_sample(
    policy: Policy, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = turns(TransformersEngine(policy), prompts, 4, continued=False)
    engine = TransformersEngine(policy)
    room = 150 * engine._bytes_per_token()
    monkeypatch.setattr(transformers_engine, "KEPT_BYTES", room)
    after, _ = turns(engine, prompts, 4)
    same(before, after)
    assert 0 < engine._kept.bytes <= room


def test_branches_of_what_was_made_before(policy: Policy, prompts: list[list[int]]) -> None:
    """Prefixes that end within an earlier response, several samples from each."""

    def grown(engine: TransformersEngine, continued: bool) -> list[Completion]:
        first = engine.generate([Request(each, [5, 6], continued=continued) for each in prompts], SAMPLING)
        forks = [
            Request([*prompt, *each.ids[:cut].tolist()], [7, 8, 9], continued=continued)
            for prompt, group in zip(prompts, first, strict=True)
            for each in group
            for cut in (1, 2)
            if cut < len(each.ids)
        ]
        return [each for group in (*first, *engine.generate(forks, SAMPLING)) for each in group]

    anew, kept = TransformersEngine(policy), TransformersEngine(policy)
    same(grown(anew, False), grown(kept, True))
    assert kept.usage.cached_tokens is not None
    assert anew.usage.cached_tokens is not None
    assert kept.usage.cached_tokens > anew.usage.cached_tokens
    kept.forget()
    assert kept._kept.bytes == 0


def test_memory_that_runs_out_takes_what_is_kept(policy: Policy, prompts: list[list[int]]) -> None:
    engine = TransformersEngine(policy)
    before, _ = turns(TransformersEngine(policy), prompts, 2, continued=False)
    held: list[int] = []

    def hook(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape == (6, 1) and engine._kept.bytes and len(held) < 1:
            held.append(engine._kept.bytes)
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = policy.model.register_forward_pre_hook(hook, with_kwargs=True)
    clear, cleared = engine._kept.clear, list[int]()
    engine._kept.clear = lambda: (cleared.append(engine._kept.bytes), clear())[1]
    try:
        after, _ = turns(engine, prompts, 2)
    finally:
        handle.remove()
    assert held
    assert cleared == held
    same(before, after)


def test_a_single_rollout_gets_the_memory_of_what_is_kept(policy: Policy, prompts: list[list[int]]) -> None:
    """Where nothing else can be given up."""
    engine, plain = TransformersEngine(policy), TransformersEngine(policy)
    engine.generate([Request(prompt, [1], continued=True) for prompt in prompts], SAMPLING)
    assert engine._kept.bytes > 0

    def hook(*_: object) -> None:
        if engine._kept.bytes:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = policy.model.register_forward_pre_hook(hook)
    try:
        [after] = engine.generate([Request([1, 30, 31], [2])], SAMPLING)
    finally:
        handle.remove()
    same(plain.generate([Request([1, 30, 31], [2])], SAMPLING)[0], after)
    assert engine._kept.bytes == 0


def test_what_cannot_be_copied_is_not_kept_and_fails_no_rollout(
    policy: Policy, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = turns(TransformersEngine(policy), prompts, 3, continued=False)
    engine, stack, tried = TransformersEngine(policy), torch.stack, list[int]()

    def refused(tensors: Any, *given: Any, **named: Any) -> torch.Tensor:
        if tensors[0].ndim == 3:
            tried.append(engine._kept.bytes)
            if len(tried) % 5 == 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return stack(tensors, *given, **named)

    monkeypatch.setattr(torch, "stack", refused)
    after, _ = turns(engine, prompts, 3)
    same(before, after)
    assert max(tried) > 0
    assert len(tried) <= 2 * len(after), "keys and values of each row once: none was made twice"


def test_what_is_kept_never_takes_more_than_a_third_of_the_memory() -> None:
    """As more comes in, less is free: a share of what is free alone would end with nothing free."""
    memory, each, kept = 3_000, 10, 0
    while kept + each <= transformers_engine._share(kept, memory - kept):
        kept += each
    assert kept == 1_000


LAKE = (
    "sample", "--task", "env/frozen_lake", "--task-set", "size=3", "--task-set", "render=compact", "--task-set",
    "actions=modulo", "--task-set", "turn_tokens=1", "--prompts", 4, "-n", 3, "--max-tokens", 200, "--temperature", 2,
    "--device", "cpu", "--json",
)  # fmt: skip


def test_games_are_played_on_with_what_is_kept(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forget, generate = TransformersEngine.forget, TransformersEngine.generate

    def counted(engine: TransformersEngine, *given: Any) -> Any:
        calls.append(engine._kept.bytes)
        return generate(engine, *given)

    monkeypatch.setattr(TransformersEngine, "generate", counted)
    with monkeypatch.context() as patch:
        patch.setattr(transformers_engine, "KEPT_BYTES", 0)
        assert cli(*LAKE, "--set", "rows_at_once=6", "-o", tmp_path / "anew").exit_code == 0
    assert not any(calls)
    calls.clear()
    ends: list[int] = []
    monkeypatch.setattr(TransformersEngine, "forget", lambda engine: (ends.append(len(calls)), forget(engine))[1])
    assert cli(*LAKE, "--set", "rows_at_once=6", "-o", tmp_path / "kept").exit_code == 0
    anew, kept = (RolloutFile(tmp_path / name).read() for name in ("anew", "kept"))
    assert [ids.tolist() for ids in kept.token_ids] == [ids.tolist() for ids in anew.token_ids]
    np.testing.assert_allclose(kept.ragged("token.logprob").values, anew.ragged("token.logprob").values, atol=1e-4)
    assert len(ends) == 2
    begins = [0, ends[0]]
    assert [calls[begin] for begin in begins] == [0, 0], "each part of the file begins without, as one that is resumed"
    assert all(calls[end - 1] for end in ends), "the last turns go on from what was kept"
