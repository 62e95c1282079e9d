"""Texts as token ids, where a source has none: with a model's tokenizer, or one id for each character."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array
from ..models.characters import CHARACTERS
from ..models.policy import load_tokenizer, render_prompt


class Encoder:
    """Makes ids of texts. They are not those that a policy sampled: a file of them has the fact `tokens_exact: false`."""

    def __init__(self, tokenizer: str | None = None):
        self.spec = tokenizer or CHARACTERS
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """Loaded when the first text needs it."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.spec)
        return self._tokenizer

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self.tokenizer.encode(whole_characters(text), add_special_tokens=False)

    def encode_pieces(self, pieces: Sequence[tuple[str, bool]]) -> tuple[Array, Array, tuple[list[int], list[int]]]:
        """(ids [T], mask [T], (first, end) tokens of each piece that the policy wrote)."""
        encoded = [self.encode(text) for text, _ in pieces]
        ends = np.cumsum([len(ids) for ids in encoded], dtype=np.int64)
        owns = np.array([own for _, own in pieces], bool)
        sizes = np.diff(ends, prepend=0)
        starts = ends - sizes
        ids = np.fromiter(chain.from_iterable(encoded), np.int32, int(sizes.sum()))
        return ids, np.repeat(owns, sizes), (starts[owns].tolist(), ends[owns].tolist())

    def encode_prompt(self, messages: Sequence[Mapping[str, str]] | None) -> list[int]:
        """The ids of a prompt's messages: with the model's chat template, or as lines `role: content` without one."""
        if not messages:
            return []
        if getattr(self.tokenizer, "chat_template", None):
            try:
                return render_prompt(self.tokenizer, [dict(each) for each in messages])
            except Exception as error:  # a template is a program of its own
                raise DataError(f"prompt: the chat template of {self.spec} refuses it ({error!s:.120})") from error
        if len(messages) == 1:
            return self.encode(messages[0]["content"])
        return self.encode("".join(f"{each['role']}: {each['content']}\n" for each in messages))


def whole_characters(value: Any) -> Any:
    """The value with ? for each half of a surrogate pair in its texts, which no file can hold.

    >>> whole_characters({"content": "a\\ud800"})
    {'content': 'a?'}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list | tuple):
        return [whole_characters(each) for each in value]
    if isinstance(value, Mapping):
        return {key: whole_characters(each) for key, each in value.items()}
    return value
