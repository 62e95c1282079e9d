"""Decode rows side by side. When one ends, the next in the queue takes its place."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....formats.errors import ApportionError
from ..engine import Completion, Sampling
from ..stop import StopTexts
from ._cache import RowCache, States
from ._prefixes import Tokens, Trunk, compute
from ._record import Samples

REFILL_ABOVE = 1 / 8  # refill when more than this share of the rows that fit is missing
SHRINK_BELOW = 0.75  # drop ended places when less than this share is live


@dataclass(frozen=True, eq=False)
class Row:
    """One sample to generate. last: the prefix's last token. trunk: a trunk that begins with everything before it. limit:
    the most tokens to generate. continued: see `Request`.
    """

    request: int
    sample: int
    seed: int
    limit: int
    last: int
    length: int
    trunk: Trunk
    continued: bool = False

    @property
    def width(self) -> int:
        """The most columns of the cache that it may need."""
        return max(self.length + self.limit, len(self.trunk.tokens))


@dataclass(frozen=True)
class Room:
    """How much a batch may take up: rows, and bytes. Every row takes up as much as the largest.

    per_column: bytes of one token's keys and values. per_token: bytes recorded for one generated token.
    """

    rows: int
    bytes: int
    per_column: int
    per_token: int

    def rows_of(self, width: int, limit: int) -> int:
        """How many rows fit if the widest may need `width` columns and the longest generates `limit` tokens; at least
        one."""
        return max(1, min(self.rows, self.bytes // max(1, self._bytes_of(width, limit))))

    def halved(self, rows: int, width: int, limit: int) -> "Room":
        """Half of the memory that a batch of `rows` such rows took; of smaller rows, more than before may fit."""
        return replace(self, bytes=min(self.bytes, rows * self._bytes_of(width, limit)) // 2)

    def _bytes_of(self, width: int, limit: int) -> int:
        return width * self.per_column + limit * self.per_token


class Places:
    """The places of a batch, what is sampled in them, and the queue that fills them.

    The size of the rows decides how many places there are: few while a long row is in, more once it has ended. keep:
    receives tokens and states of continued rows as they end. computed: prefix tokens put through the model so far.
    """

    def __init__(
        self, model: Any, is_end: Tensor, texts: Callable[[], StopTexts], sampling: Sampling, rows: Sequence[Row],
        room: Room, tokens_at_once: int, keep: Callable[[Tokens, States], None],
    ):  # fmt: skip
        self._model, self._is_end, self._sampling = model, is_end, sampling
        self._texts, self._tokens_at_once, self._to_keep = texts(), tokens_at_once, keep
        self._queue, self._room = deque(rows), room
        self._cache = RowCache(model)
        self._record = Samples(sampling, is_end.device)
        self._rows: list[Row | None] = []
        self._made = np.zeros(0, np.int64)  # tokens generated in each place so far
        self._next = torch.zeros(0, dtype=torch.int64, device=is_end.device)
        self._width = self._limit = 0  # the largest of the rows that are in or about to enter
        self.computed = 0

    def run(self) -> Iterator[tuple[Row, Completion]]:
        """Yield every row with its completion as it ends."""
        while True:
            self._fill()
            live = self._live()
            if not live.any():
                return
            if live.mean() < SHRINK_BELOW:
                self._keep(np.flatnonzero(live))
                live = self._live()
            logits = self._cache.forward(self._next[:, None])
            if not bool(torch.isfinite(logits.amax(-1))[torch.from_numpy(live).to(logits.device)].all()):
                raise ApportionError("the model's logits are not finite; its weights or its dtype are broken")
            self._next = self._record.draw(logits, self._made)
            self._made += 1
            yield from self._ended(live)

    def halved(self) -> Room | None:
        """Half of the room that the batch takes up now; None for a single row."""
        return self._room.halved(len(self._rows), self._width, self._limit) if len(self._rows) > 1 else None

    def _live(self) -> np.ndarray:
        return np.array([row is not None for row in self._rows], bool)

    def _coming(self) -> list[Row]:
        """The rows of the queue that fit now; none while too little room is free."""
        if not self._queue:
            return []
        live = [row for row in self._rows if row is not None]
        width = max((row.width for row in live), default=0)
        limit = max((row.limit for row in live), default=0)
        coming: list[Row] = []
        while self._queue:
            row = self._queue[0]
            wider, longer = max(width, row.width), max(limit, row.limit)
            most = self._room.rows_of(wider, longer)
            free = most - len(live) - len(coming)
            if free < (1 if coming else max(1, most * REFILL_ABOVE)):
                break
            coming.append(self._queue.popleft())
            width, limit = wider, longer
        self._width, self._limit = width, limit
        return coming

    def _fill(self) -> None:
        """Bring in rows from the queue."""
        rows = self._coming()
        if not rows:
            return
        free = [place for place, row in enumerate(self._rows) if row is None]
        if len(free) > len(rows):
            self._keep(np.flatnonzero(self._live()))
            free = []
        added = len(rows) - len(free)
        coming = list(zip([*free, *range(len(self._rows), len(self._rows) + added)], rows, strict=True))
        self._rows += [None] * added
        self._made = np.pad(self._made, (0, added))
        self._next = torch.nn.functional.pad(self._next, (0, added))
        self._record.fit(len(self._rows), self._limit)
        self.computed += compute(
            self._model, [row.trunk for row in rows], tokens_at_once=self._tokens_at_once, rows_at_once=len(rows)
        )
        places: list[list[int]] = []
        states: list[States] = []
        lengths: list[int] = []
        for (trunk, length), alike in groupby(coming, key=lambda each: (each[1].trunk, each[1].length)):
            members = list(alike)
            places.append([place for place, _ in members])
            states.append([(keys[:, :length], values[:, :length]) for keys, values in trunk.states or []])
            lengths.append(length)
            trunk.release(len(members))
        self._cache.put(places, states, lengths)
        for place, row in coming:
            self._rows[place] = row
            self._made[place] = 0
            self._next[place] = row.last
            self._record.begin(place, row.seed, row.limit)

    def _keep(self, places: np.ndarray) -> None:
        """Drop all places but these."""
        self._cache.keep(places)
        self._texts.keep(places.tolist())
        index = torch.from_numpy(places).to(self._next.device)
        self._rows = [self._rows[place] for place in places.tolist()]
        self._made, self._next = self._made[places], self._next[index]
        self._record.keep(index)

    def _ended(self, live: np.ndarray) -> Iterator[tuple[Row, Completion]]:
        by_token = self._is_end[self._next].cpu().numpy()
        by_text = np.zeros(len(live), bool)
        if self._sampling.stop:
            drawn = self._next.cpu().numpy()
            by_text[live] = self._texts.completed(np.flatnonzero(live).tolist(), drawn[live].tolist())
        limits = np.array([0 if row is None else row.limit for row in self._rows])
        ended = np.flatnonzero(live & (by_token | by_text | (self._made >= limits)))
        if not len(ended):
            return
        reasons = np.where(by_token, "stop", np.where(by_text, "stop_text", "length"))[ended].tolist()
        made = self._record.completions(ended, self._made[ended], reasons)
        for place, completion in zip(ended.tolist(), made, strict=True):
            row = self._rows[place]
            assert row is not None
            self._rows[place] = None
            self._texts.forget(place)
            if row.continued:
                tokens = np.concatenate((row.trunk.tokens[: row.length], [row.last], completion.ids[:-1]))
                self._to_keep(tokens, self._cache.states(place, len(tokens), 0))
            yield row, completion
        self._cache.forget(ended)
