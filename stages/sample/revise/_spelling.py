"""Match a response's text with its tokens, and find tokens that spell a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...models.token_texts import TokenOffsets


class Spelling:
    """A response's text and token borders. bounds: [T + 1] the character where each token begins, and the end."""

    def __init__(self, offsets: TokenOffsets, ids: Sequence[int]):
        self.ids = list(ids)
        self.text, starts = offsets(self.ids)
        self.bounds = np.append(starts, len(self.text))

    def tokens_before(self, place: int) -> int:
        """How many tokens contain none of the text from the character `place` on: those before the token that contains it.
        The end-of-sequence token does not count as before the end."""
        count = int(np.searchsorted(self.bounds, place, side="left"))
        if self.bounds[count] == place:
            return count
        return int(np.searchsorted(self.bounds, self.bounds[count - 1], side="left"))


def spell(tokenizer: Any, before: Sequence[int], text: str) -> list[int] | None:
    """Token ids that spell `text` after the tokens `before`; None if the tokenizer has none.

    With a tokenizer that writes a space before the first word, the text is encoded after a newline.
    """

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    wanted = decode(before) + text
    for ids in (encode(text), encode("\n" + text)[len(encode("\n")) :]):
        if decode([*before, *ids]) == wanted:
            return ids
    return None
