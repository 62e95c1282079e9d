from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.models import policy
from apportion.stages.models.token_texts import TokenOffsets
from apportion.stages.score import score
from apportion.stages.score.kind import SCORERS, score_batch
from apportion.stages.score.structure.steps import steps


class Bytes:
    """A tokenizer whose tokens are single bytes of UTF-8 (under 256) or words of a list; 999 is special and 998 is a tag."""

    words = ("Hello", " world", ". ", "Next", "!\n\n", "tail", "3.5", ".\n")

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        special = b"" if skip_special_tokens else b"<end>"
        names = {999: special, 998: b"</think>"}
        pieces = [names[t] if t in names else bytes([t]) if t < 256 else self.words[t - 256].encode() for t in ids]
        return b"".join(pieces).decode("utf-8", errors="replace")


@pytest.fixture
def byte_model(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(policy, "load_tokenizer", lambda spec: Bytes())
    return "bytes"


def cut(
    tokens: list[Any], model: str, mask: list[list[bool]] | None = None, **options: Any
) -> list[list[tuple[int, int]]]:
    ids = [[*row.encode()] if isinstance(row, str) else row for row in tokens]
    found = steps(rollouts_of([0.0] * len(ids), tokens=ids, mask=mask), model=model, **options)
    starts, ends = found["step.start"], found["step.end"]
    return [list(zip(starts[row].tolist(), ends[row].tolist(), strict=True)) for row in range(len(ids))]


@pytest.mark.parametrize(
    ("text", "options", "pieces"),
    [
        ("a\nbc\n\nd", {}, ["a\n", "bc\n\n", "d"]),
        ("a\nbc\n\nd", {"by": "blank-line"}, ["a\nbc\n\n", "d"]),
        ("\n\na\n", {}, ["\n\n", "a\n"]),
        ("One is 3.5. Two!  (Three?) four\nfive", {"by": "sentence"}, ["One is 3.5. ", "Two!  ", "(Three?) ", "four\n", "five"]),
        ("x Step 1: a Step 2: b", {"by": "regex", "pattern": r"(?=Step \d)"}, ["x ", "Step 1: a ", "Step 2: b"]),
        ("a;b;c", {"by": "regex", "pattern": ";"}, ["a;", "b;", "c"]),
        ("hm<think>so</think>42", {"by": "tag"}, ["hm", "<think>so</think>", "42"]),
        ("a\nb\nccc\nd\n", {"min_tokens": 3}, ["a\nb\n", "ccc\nd\n"]),
        ("plain", {}, ["plain"]),
        ("", {}, []),
        ("é\nü", {}, ["é\n", "ü"]),
    ],
    ids=str,
)  # fmt: skip
def test_where_steps_end(byte_model: str, text: str, options: dict[str, Any], pieces: list[str]) -> None:
    [spans] = cut([text], byte_model, **options)
    assert [text.encode()[start:end].decode() for start, end in spans] == pieces


def test_a_token_belongs_to_the_step_its_first_character_is_in(byte_model: str) -> None:
    # "Hello", " world", ". ", "Next", "!\n\n", "tail", end: the boundary after "!\n\n" is where "tail" begins.
    assert cut([[256, 257, 258, 259, 260, 261, 999]], byte_model, by="sentence") == [[(0, 3), (3, 5), (5, 7)]]
    # A boundary inside the token "!\n\n": what follows begins with the next token.
    assert cut([[256, 260, 261]], byte_model, by="regex", pattern="!") == [[(0, 2), (2, 3)]]


def test_bytes_of_one_character_stay_together(byte_model: str) -> None:
    ids = [*b"a\n", *"é".encode(), *b"b"]
    assert cut([ids], byte_model) == [[(0, 2), (2, 5)]]


def test_tags_may_be_special_tokens(byte_model: str) -> None:
    assert cut([[256, 998, 257]], byte_model, by="tag") == [[(0, 2), (2, 3)]]


def test_what_an_environment_wrote_is_in_no_step(byte_model: str) -> None:
    mask = [[True, True, True, False, False, True, True]]
    assert cut(["a\nbX\nc\n"], byte_model, mask=mask) == [[(0, 2), (2, 3), (5, 7)]]
    assert cut(["ab", "ab"], byte_model, mask=[[False, False], [False, True]]) == [[], [(1, 2)]]
    assert cut(["a\nbX\nc\n"], byte_model, mask=mask, min_tokens=9) == [[(0, 3), (5, 7)]]


def test_a_turn_is_what_the_policy_wrote_in_one_go() -> None:
    tokens, mask = [[1, 2, 90, 3, 4], [90, 5]], [[True, True, False, True, True], [False, True]]
    found = steps(rollouts_of([0.0] * 2, tokens=tokens, mask=mask), by="turn", model="none is loaded")
    assert found["step.start"].values.tolist() == [0, 3, 1]
    assert found["step.end"].values.tolist() == [2, 5, 2]
    assert found["step.kind"] == [["turn", "turn"], ["turn"]]


def test_uncertain_tokens_begin_steps() -> None:
    batch = rollouts_of([0.0, 0.0], tokens=[[1, 2, 3, 4], [5, 6]])
    batch = batch.with_columns({"token.entropy": Ragged.from_lists([[0.1, 0.2, 1.5, 0.3], [2.0, 1.0]], np.float32)})
    found = steps(batch, by="entropy", above=1.0)
    assert [found["step.start"][row].tolist() for row in range(2)] == [[0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "regex"}, "pattern goes with by=regex"),
        ({"pattern": "x"}, "pattern goes with by=regex"),
        ({"by": "regex", "pattern": "("}, "missing"),
        ({"min_tokens": 0}, "min_tokens must be at least 1"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        steps(rollouts_of([0.0]), **SCORERS.settle("steps", {"model": "builtin:tiny"} | options))


def test_missing_entropy_and_signals_on_earlier_steps_are_named() -> None:
    with pytest.raises(DataError, match="--with entropy"):
        score_batch(rollouts_of([0.0]), "steps", {"by": "entropy"})
    batch = rollouts_of([0.0]).with_columns({"step.reward": [[1.0]]})
    with pytest.raises(DataError, match=r"step\.reward"):
        steps(batch, model="builtin:tiny")


@pytest.mark.parametrize("seed", range(10))
def test_every_policy_token_is_in_exactly_one_step(byte_model: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = [
        rng.choice([10, 46, 32, 97, 195, 169, 999, *range(256, 264)], rng.integers(0, 40)).tolist() for _ in range(9)
    ]
    mask = [(rng.random(len(row)) < 0.8).tolist() for row in tokens]
    for least in (1, 3):
        spans = cut(tokens, byte_model, mask=mask, by="sentence", min_tokens=least)
        for row, own in enumerate(mask):
            covered = np.zeros(len(own), int)
            for start, end in spans[row]:
                covered[start:end] += 1
            assert covered.tolist() == [int(each) for each in own]


@pytest.mark.parametrize("seed", range(10))
def test_offsets_of_tokens_agree_with_decoding_every_prefix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("aé→😀 \n"), 30))
    ids, tokenizer = [*text.encode()], Bytes()
    found, starts = TokenOffsets(tokenizer)(ids)
    assert found == text
    for place in range(len(ids)):
        seen = tokenizer.decode(ids[:place]).rstrip("\ufffd")
        assert starts[place] == len(seen)


def test_a_file_is_split_by_the_model_it_names(tmp_path: Path, chain: Path) -> None:
    out = tmp_path / "steps.parquet"
    score(chain / "rollouts.parquet", scorer="steps", out=out)
    found = RolloutFile(out).read()
    ends = found.ragged("step.end")
    for row, text in enumerate(found.strings("text")):
        assert len(ends[row]) == len(text.rstrip("\n").split("\n")) if text else len(found.token_ids[row]) > 0
        assert ends[row][-1] == len(found.token_ids[row])


def test_a_file_that_names_no_model_needs_one(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    write_rollouts(source, [Rollouts(rollouts_of([0.0]).table)], Provenance())
    with pytest.raises(UsageError, match="--set model=MODEL"):
        score(source, scorer="steps", out=tmp_path / "out.parquet")
    score(source, scorer="steps", settings={"model": "builtin:tiny"}, out=tmp_path / "out.parquet")
