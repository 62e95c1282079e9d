"""The keys and values of common beginnings of rows, computed once for all rows that share them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ._cache import RowCache, States

Tokens = np.ndarray[Any, np.dtype[np.int64]]
CHUNK = 512  # columns per pass over a long prefix
SHARED_AT_LEAST = 32  # common leading tokens of two prefixes from which these are computed separately


@dataclass(eq=False)
class Trunk:
    """A prefix that no other prefix extends. Prefixes it begins with need no computation of their own.

    stem: its beginning that it shares with others, computed before it. waiting: rows or trunks that still need it.
    """

    tokens: Tokens
    stem: "Trunk | None" = None
    waiting: int = 0
    states: States | None = None

    @property
    def computed_before(self) -> int:
        return 0 if self.stem is None else len(self.stem.tokens)

    def release(self, count: int = 1) -> None:
        """Record that `count` rows or trunks no longer need it."""
        self.waiting -= count
        if self.waiting == 0:
            self.states = None


def trunks_of(prefixes: Sequence[Tokens], rows: Sequence[int]) -> list[Trunk]:
    """The trunk that begins with each prefix; rows[i] rows continue from prefix i. Trunks with a common beginning share a
    stem."""
    order = sorted(range(len(prefixes)), key=lambda index: prefixes[index].tolist())
    found: list[Trunk] = [Trunk(np.zeros(0, np.int64))] * len(prefixes)
    # In sorted order, prefixes that begin with another one come right after it.
    for index, behind in pairwise([*order[::-1], -1]):
        trunk = found[index] if found[index].waiting else Trunk(prefixes[index])
        trunk.waiting += rows[index]
        found[index] = trunk
        if behind >= 0 and common(prefixes[behind], trunk.tokens) == len(prefixes[behind]):
            found[behind] = trunk
    _find_stems(list(dict.fromkeys(found[index] for index in order)))
    return found


def _find_stems(trunks: Sequence[Trunk]) -> None:
    """Give neighbours in sorted order that share many of their tokens a stem of what they share."""
    family, shared = [trunks[0]], len(trunks[0].tokens)
    for trunk in [*trunks[1:], None]:
        still = 0 if trunk is None else min(shared, common(family[-1].tokens, trunk.tokens))
        if trunk is not None and still >= max(SHARED_AT_LEAST, shared // 2):
            family.append(trunk)
            shared = still
            continue
        stem = Trunk(family[0].tokens[:shared], waiting=len(family)) if len(family) > 1 else None
        for member in family:
            member.stem = stem
        if trunk is not None:
            family, shared = [trunk], len(trunk.tokens)


def common(first: Tokens, second: Tokens) -> int:
    """The number of leading tokens that both share."""
    size = min(len(first), len(second))
    differ = np.flatnonzero(first[:size] != second[:size])
    return int(differ[0]) if len(differ) else size


def compute(model: Any, trunks: Sequence[Trunk], *, tokens_at_once: int, rows_at_once: int) -> int:
    """Fill in the missing states of the trunks, after those of their stems. Returns the number of tokens computed."""
    trunks = [trunk for trunk in dict.fromkeys(trunks) if trunk.states is None and len(trunk.tokens)]
    stems = [trunk.stem for trunk in trunks if trunk.stem is not None]
    computed = sum(len(trunk.tokens) - trunk.computed_before for trunk in trunks)
    if stems:
        computed += compute(model, stems, tokens_at_once=tokens_at_once, rows_at_once=rows_at_once)
    trunks.sort(key=lambda trunk: len(trunk.tokens) - trunk.computed_before)
    part: list[Trunk] = []
    for trunk in [*trunks, None]:
        full = trunk is not None and (
            len(part) == rows_at_once
            or (len(part) + 1) * min(CHUNK, len(trunk.tokens) - trunk.computed_before) > tokens_at_once
        )
        if part and (trunk is None or full):
            _compute_together(model, part)
            part = []
        if trunk is not None:
            part.append(trunk)
    return computed


def _compute_together(model: Any, trunks: Sequence[Trunk]) -> None:
    before = np.array([trunk.computed_before for trunk in trunks])
    lengths = np.array([len(trunk.tokens) for trunk in trunks])
    longest = int((lengths - before).max())
    ids = np.zeros((len(trunks), longest), np.int64)  # [trunks, tokens]: padded on the right, the stems on the left
    for row, trunk in enumerate(trunks):
        ids[row, : lengths[row] - before[row]] = trunk.tokens[before[row] :]
    cache = RowCache(model)
    stems = [(trunk.stem.states if trunk.stem is not None else None) or [] for trunk in trunks]
    cache.put([[row] for row in range(len(trunks))], stems, before.tolist())
    columns = torch.from_numpy(ids).to(model.device)
    for first in range(0, longest, CHUNK):
        cache.forward(columns[:, first : first + CHUNK], positions_below=lengths)
    for row, trunk in enumerate(trunks):
        trunk.states = cache.states(row, int(lengths[row]), longest - int(lengths[row] - before[row]))
        if trunk.stem is not None:
            trunk.stem.release()
