"""Texts that end a completion."""

from collections import deque
from typing import Any

from ...formats.errors import UsageError


class StopTexts:
    """Which rows have just completed a stop text. Only the end of a row is decoded, so each step costs the same.

    Every token is at least one byte of text, except special tokens, which the text leaves out. So the end of a stop
    text spans no more tokens than it has bytes. As many tokens again as a character has bytes are decoded before them,
    so that no character is cut.
    """

    MARGIN = 4

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]):
        if "" in stop:
            raise UsageError("stop: a text must not be empty, since every completion would end with it")
        self._tokenizer, self._stop = tokenizer, stop
        self._special = set(tokenizer.all_special_ids)
        self._count = max((len(text.encode()) for text in stop), default=0) + self.MARGIN
        self._tails: dict[int, deque[int]] = {}

    def completed(self, rows: list[int], drawn: list[int]) -> list[bool]:
        """[B] whether a row's text ends with a stop text now that this token is drawn."""
        if not self._stop:
            return [False] * len(rows)
        for row, token in zip(rows, drawn, strict=True):
            if token not in self._special:
                self._tails.setdefault(row, deque(maxlen=self._count)).append(token)
        texts = self._tokenizer.batch_decode([list(self._tails.get(row, ())) for row in rows])
        return [any(stop in text for stop in self._stop) for text in texts]

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, and renumber them."""
        self._tails = {new: self._tails[old] for new, old in enumerate(rows) if old in self._tails}

    def forget(self, row: int) -> None:
        """Forget a row that has ended."""
        self._tails.pop(row, None)
