"""Token ids as text: each token with its piece of the decoded text."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ...formats.errors import ApportionError
from ...formats.provenance import Provenance
from ...formats.segments import Array

CUT = "\ufffd"  # a tokenizer writes this for an incomplete character


class TokenOffsets:
    """Decodes token ids to text, and finds where each token begins in it."""

    def __init__(self, tokenizer: Any, *, keep_special: bool = False):
        self._tokenizer = tokenizer
        self._keep = keep_special
        self._alone: dict[int, str] = {}
        self._behind: dict[int, str] = {}
        self._anchor: int | None = None

    def __call__(self, ids: Sequence[int]) -> tuple[str, Array]:
        """(text, [T] int64 first character of each token, ascending). A token that completes no character has no text of
        its own and begins where the next one does."""
        pieces = self.pieces(ids)
        starts = np.fromiter(accumulate(map(len, pieces), initial=0), np.int64, len(pieces) + 1)
        return "".join(pieces), starts[:-1]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, empty if it completes no character; joined, they are the whole text.

        Tokens are decoded one by one if that gives the whole text. If not, they are decoded one by one after another
        token (needed for a leading space that appears only there, as with SentencePiece), and otherwise in context.
        """
        text = self._decode(ids)
        pieces = [self._piece(token) for token in ids]
        if "".join(pieces) == text:
            return pieces
        pieces[1:] = [self._piece_behind(token) for token in ids[1:]]
        return pieces if "".join(pieces) == text else self._pieces_in_context(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=not self._keep, clean_up_tokenization_spaces=False)

    def _piece(self, token: int) -> str:
        if token not in self._alone:
            self._alone[token] = self._decode([token])
            if self._anchor is None and self._alone[token].isalnum():
                self._anchor = token
        return self._alone[token]

    def _piece_behind(self, token: int) -> str:
        if self._anchor is None:
            return self._piece(token)
        if token not in self._behind:
            self._behind[token] = self._decode([self._anchor, token]).removeprefix(self._alone[self._anchor])
        return self._behind[token]

    def _pieces_in_context(self, ids: Sequence[int]) -> list[str]:
        """Each token's text after the tokens before it, decoded in a moving window."""
        pieces: list[str] = []
        begin = read = 0
        known = ""  # the text of the window up to the token being decoded
        for end in range(1, len(ids) + 1):
            seen = self._decode(ids[begin:end])
            if len(seen) <= len(known) or (seen.endswith(CUT) and end < len(ids)):
                pieces.append("")
                continue
            pieces.append(seen[len(known) :])
            begin, read = read, end
            known = self._decode(ids[begin:read])
        return pieces


@dataclass(frozen=True)
class TokenTexts:
    """The text of each token for people to read, special tokens included; its number if no tokenizer is available."""

    offsets: TokenOffsets | None = None

    @classmethod
    def of(cls, model: str | None, histories: Iterable[Provenance]) -> "TokenTexts":
        """Token texts from the tokenizer of `model`, or of the first model or tokenizer the histories name, if it is here and has no
        code of its own. Otherwise prints a line on standard error, and shows tokens as numbers."""
        from .policy import check_recorded, load_tokenizer

        if model is not None:
            return cls(TokenOffsets(load_tokenizer(model), keep_special=True))
        records = (record for each in histories for record in each.history)
        named = (record.parameters.get("model") or record.parameters.get("tokenizer") for record in records)
        recorded = next((str(each) for each in named if each), None)
        if recorded is None:
            return cls()
        try:
            check_recorded(recorded)
            return cls(TokenOffsets(load_tokenizer(recorded, look_up=False), keep_special=True))
        except ApportionError as error:
            print(f"tokens are shown as numbers: {error}; name a model with --model", file=sys.stderr)
            return cls()

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One piece for each id of a text; see `TokenOffsets.pieces`."""
        return [f"{token} " for token in ids] if self.offsets is None else self.offsets.pieces(ids)


def mark_ends(piece: str) -> str:
    """A token's piece for a terminal, where every token must be visible: line ends are marked, an empty piece is a dot.

    >>> [mark_ends(piece) for piece in ("one", ".\\n", "")]
    ['one', '.⏎\\n', '·']
    """
    return piece.replace("\n", "⏎\n") or "·"


def join_marked(pieces: Iterable[str]) -> str:
    """The text of the pieces, with line ends marked.

    >>> join_marked([" so", ":\\n", "", "é"])
    ' so:⏎é'
    """
    return "".join(pieces).replace("\n", "⏎")
