"""Rollouts of --from that the policy is asked about, and what is made of its answers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ....formats.rollouts import Rollouts
from ....formats.schema import FIELDS
from ...core.wording import filled
from ...models.token_texts import TokenOffsets
from ...tasks import Message, Problem


def parts(batch: Rollouts, rows_at_once: int) -> Iterator[tuple[Rollouts, slice]]:
    """The batch in parts of whole groups with at most so many rows each (or one group), and which groups they are."""
    first = 0
    offsets = batch.groups.offsets
    while first < len(batch.groups):
        last = int(np.searchsorted(offsets, offsets[first] + max(1, rows_at_once), side="right")) - 1
        last = max(last, first + 1)
        yield batch.slice(int(offsets[first]), int(offsets[last])), slice(first, last)
        first = last


def with_known(batch: Rollouts, name: str, kind: pa.DataType, told: dict[int, Any]) -> Rollouts:
    """The batch with a rollout column that has the values told of its rows, and elsewhere what it had."""
    known: list[Any] = batch.strings(name) if name in batch else [None] * len(batch)
    return batch.with_columns({name: pa.array([told.get(row, each) for row, each in enumerate(known)], kind)})


def asking(problem: Problem, template: str, **values: str) -> list[Message]:
    """The problem's messages, the last of them made by the template; {question} is what it said."""
    *before, last = problem.prompt
    return [*before, {**last, "content": filled(template, question=last["content"], **values)}]


def step_texts(tokenizer: Any, batch: Rollouts, row: int) -> list[str]:
    """The texts of a row's steps; a turn's with what was answered to it."""
    starts, ends, ids = batch.ragged("step.start")[row], batch.ragged("step.end")[row], batch.token_ids[row]
    spans = [ids[start:end].tolist() for start, end in zip(starts, [*starts[1:], *ends[-1:]], strict=True)]
    return tokenizer.batch_decode(spans, skip_special_tokens=True) if spans else []


def numbered(steps: Sequence[str], first: int) -> str:
    """The steps, a line each where they have one.

    >>> numbered(["7+10=17\\n", "17-12=5"], first=0)
    '0. 7+10=17\\n1. 17-12=5'
    """
    return "\n".join(f"{number}. {text.strip()}" for number, text in enumerate(steps, first))


class Spelling:
    """A response's text and its tokens' borders. bounds: [T + 1] the character each token begins at, and the end."""

    def __init__(self, offsets: TokenOffsets, ids: Sequence[int]):
        self.ids = list(ids)
        self.text, starts = offsets(self.ids)
        self.bounds = np.append(starts, len(self.text))

    def tokens_before(self, place: int) -> int:
        """How many tokens hold nothing of the text from the character `place` on: those before the token in which it
        lies. An end of sequence is not before the end."""
        count = int(np.searchsorted(self.bounds, place, side="left"))
        if self.bounds[count] == place:
            return count
        return int(np.searchsorted(self.bounds, self.bounds[count - 1], side="left"))


def spelled(tokenizer: Any, before: Sequence[int], text: str) -> list[int] | None:
    """Token ids that read `text` behind the tokens `before`; None where the tokenizer has none that do.

    A tokenizer that writes a space before the first word is asked behind a newline.
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


def names_of(texts: Sequence[str | None]) -> pa.Array:
    """Strings as Arrow has them."""
    return pa.array(texts, pa.string())


def forks_of(forks: Sequence[int]) -> pa.Array:
    """Forks as Arrow has them."""
    return pa.array(forks, FIELDS["fork"].type)
