"""A response as the messages it was made of: what the policy wrote at once, and what it read between."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ...models.policy import load_tokenizer


@dataclass(frozen=True)
class Piece:
    """Response tokens [start, end) that the policy wrote (a step), or that it read."""

    start: int
    end: int
    is_own: bool


def pieces_of(batch: Rollouts, row: int) -> list[Piece]:
    """The pieces of a row's response in order: its steps and what lies between; runs of the mask where there is no step."""
    mask = batch.mask[batch.tokens.offsets[row] : batch.tokens.offsets[row + 1]]
    cuts, owners = _runs(mask)
    spans = _steps(batch, row)
    inside = np.zeros(len(mask), bool)
    for start, end in spans:
        inside[start:end] = True
    found = [Piece(start, end, True) for start, end in spans if end > start]
    for start, end, is_own in zip(cuts[:-1], cuts[1:], owners, strict=True):
        outside = np.flatnonzero(~inside[start:end]) + start
        for run in np.split(outside, np.flatnonzero(np.diff(outside) > 1) + 1):
            if len(run):
                found.append(Piece(int(run[0]), int(run[-1]) + 1, bool(is_own)))
    return sorted(found, key=lambda piece: piece.start)


def _steps(batch: Rollouts, row: int) -> list[tuple[int, int]]:
    if "step.start" not in batch:
        return []
    starts, ends = (batch.arrow(path)[row].as_py() or [] for path in ("step.start", "step.end"))
    return list(zip(starts, ends, strict=True))


def _runs(mask: Array) -> tuple[list[int], list[bool]]:
    """(where the runs of equal values begin, with the end, their values)."""
    cuts = np.concatenate(([0], np.flatnonzero(np.diff(mask)) + 1, [len(mask)])) if len(mask) else np.zeros(1, int)
    return cuts.tolist(), mask[cuts[:-1]].tolist()


class Texts:
    """The texts of a row's pieces: decoded where a tokenizer is given; otherwise the whole text stands in the first own piece."""

    def __init__(self, tokenizer: str):
        self._tokenizer: Any = load_tokenizer(tokenizer) if tokenizer else None

    def of(self, batch: Rollouts, row: int, pieces: list[Piece]) -> list[str]:
        """One text for each piece."""
        if self._tokenizer is not None:
            ids = batch.token_ids[row].tolist()
            return self._tokenizer.batch_decode(
                [ids[each.start : each.end] for each in pieces], skip_special_tokens=True
            )
        whole = (batch.arrow("text")[row].as_py() if "text" in batch else None) or ""
        first = next((number for number, each in enumerate(pieces) if each.is_own), None)
        return [whole if number == first else "" for number in range(len(pieces))]
