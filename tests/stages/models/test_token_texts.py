"""Every token's piece of the text, with real tokenizers of three kinds."""

from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.inspect.html import _vocabulary
from apportion.stages.models import policy
from apportion.stages.models.token_texts import CUT, TokenOffsets, TokenTexts
from apportion.stages.structure.prefix_tree import add_prefix_tree
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import Result

EMOJI = "🙂"  # four bytes


def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's, with a token for each byte and none for more."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return fast(tokenizer)


@pytest.fixture(scope="module")
def metaspace() -> PreTrainedTokenizerFast:
    """As SentencePiece's: a word has its space in front, which is lost at the beginning; unknown characters are bytes."""
    words = ["<unk>", "▁the", "▁cat", "s", "▁sat", ".", "▁"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary: list[tuple[str, float]] = [(word, -1.0) for word in words] + [(byte, -9.0) for byte in bytes_]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    return fast(tokenizer)


def encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_character_of_several_tokens_belongs_to_its_last(byte_level: PreTrainedTokenizerFast) -> None:
    pieces = TokenOffsets(byte_level).pieces(encoded(byte_level, f"a{EMOJI}b"))
    assert pieces == ["a", "", "", "", EMOJI, "b"]
    assert TokenOffsets(byte_level)(encoded(byte_level, f"{EMOJI}b"))[1].tolist() == [0, 0, 0, 0, 1]


def test_a_character_that_is_cut_off_shows_as_that(byte_level: PreTrainedTokenizerFast) -> None:
    ids = encoded(byte_level, f"a{EMOJI}")[:-1]
    assert TokenOffsets(byte_level).pieces(ids) == ["a", "", "", CUT]


def test_leading_spaces_are_kept(metaspace: PreTrainedTokenizerFast) -> None:
    ids = encoded(metaspace, "the cats sat.")
    assert metaspace.convert_ids_to_tokens(ids) == ["▁the", "▁cat", "s", "▁sat", "."]
    assert TokenOffsets(metaspace).pieces(ids) == ["the", " cat", "s", " sat", "."]


def test_bytes_among_words(metaspace: PreTrainedTokenizerFast) -> None:
    ids = encoded(metaspace, f"the {EMOJI} sat")
    assert len(ids) == 7
    assert TokenOffsets(metaspace).pieces(ids) == ["the", " ", "", "", "", EMOJI, " sat"]


def test_pieces_are_the_text_of_all(byte_level: PreTrainedTokenizerFast, metaspace: PreTrainedTokenizerFast) -> None:
    for tokenizer, text in ((byte_level, f" ä\n{EMOJI}{EMOJI} b"), (metaspace, f"cats é the{EMOJI}. sat")):
        ids = encoded(tokenizer, text)
        offsets = TokenOffsets(tokenizer)
        assert "".join(offsets.pieces(ids)) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert offsets.pieces(ids) == offsets.pieces(ids)  # nothing of the first time changes the second


def test_special_tokens_are_for_people_to_see(metaspace: PreTrainedTokenizerFast) -> None:
    ids = [*encoded(metaspace, "the cat"), metaspace.eos_token_id]
    assert TokenTexts(TokenOffsets(metaspace, keep_special=True))(ids) == ["the", " cat", "</s>"]
    assert TokenOffsets(metaspace).pieces(ids) == ["the", " cat", ""]


def test_without_a_tokenizer_there_are_numbers() -> None:
    assert TokenTexts.of(None, [Provenance()])([5, 7]) == ["5 ", "7 "]


def test_one_id_that_reads_in_two_ways_is_two_words_on_the_page(byte_level: PreTrainedTokenizerFast) -> None:
    ids = encoded(byte_level, "é")  # its second byte alone is nothing
    rollouts = rollouts_of([1.0, 0.0], tokens=[ids, ids[1:]])
    vocabulary, texts, codes = _vocabulary(rollouts, TokenTexts(TokenOffsets(byte_level, keep_special=True)))
    assert (vocabulary, texts) == ([ids[0], ids[1], ids[1]], ["", "é", CUT])
    assert codes.tolist() == [0, 1, 2]


def test_in_the_terminal(
    metaspace: PreTrainedTokenizerFast, tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "load_tokenizer", lambda spec, **_: metaspace)
    end = metaspace.eos_token_id
    tokens = [[*encoded(metaspace, text), end] for text in (f"the cat sat. {EMOJI}", "the cats.")]
    path = tmp_path / "a.parquet"
    history = (Record(stage="sample", version="0", parameters={"model": "builtin:tiny"}),)
    write_rollouts(path, [add_prefix_tree(rollouts_of([1.0, 0.0], tokens=tokens))], Provenance(history=history))
    shown = cli("inspect", path, "--no-stats").stdout
    assert f"  the cat sat. ···{EMOJI}</s>" in shown
    assert "  the cats.</s>" in shown
    assert f"├──  sat. {EMOJI}</s>  ×1" in shown  # a node of the tree: no dots inside of its text
