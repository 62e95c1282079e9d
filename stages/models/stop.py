"""Texts that end a completion."""

from collections import deque
from typing import Any

from ...formats.errors import UsageError


class StopTexts:
    """Which rows have just completed a stop text. Only the end of a row is decoded, so a step costs the same anywhere.

    A token is a byte of text or more, special tokens (which the text leaves out) apart; so the tokens that hold the end
    of a stop text are no more than its bytes. As many again as a character has bytes are decoded before them, so that
    no character is cut.
    """

    MARGIN = 4

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]):
        if "" in stop:
            raise UsageError("stop: an empty text, which every completion would end with")
        self._tokenizer, self._stop = tokenizer, stop
        self._special = set(tokenizer.all_special_ids)
        self._count = max((len(text.encode()) for text in stop), default=0) + self.MARGIN
        self._tails: dict[int, deque[int]] = {}

    def completed(self, rows: list[int], drawn: list[int]) -> list[bool]:
        """[B] whether the text of a row, with the token drawn now, ends it."""
        if not self._stop:
            return [False] * len(rows)
        for row, token in zip(rows, drawn, strict=True):
            if token not in self._special:
                self._tails.setdefault(row, deque(maxlen=self._count)).append(token)
        texts = self._tokenizer.batch_decode([list(self._tails.get(row, ())) for row in rows])
        return [any(stop in text for stop in self._stop) for text in texts]

    def keep(self, rows: list[int]) -> None:
        """Only these stay, and are counted anew."""
        self._tails = {new: self._tails[old] for new, old in enumerate(rows) if old in self._tails}

    def forget(self, row: int) -> None:
        """The row has ended."""
        self._tails.pop(row, None)
