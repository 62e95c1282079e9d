"""Rows decoded side by side; where one has ended, the next of the queue takes its place."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...formats.errors import ApportionError
from ._cache import RowCache, States
from ._draw import draw, most_likely, uniforms_of
from ._prefixes import Trunk, compute
from ._stop import StopTexts
from .engine import Alternatives, Completion, Sampling

REFILL_ABOVE = 1 / 8  # share of the places that are free when new rows come in
SHRINK_BELOW = 0.75  # with no row left to come, places leave when fewer than this share of them is live


@dataclass(frozen=True, eq=False)
class Row:
    """One sample to make. last: the prefix's last token; trunk: what begins with all before it. limit: tokens it may
    have."""

    request: int
    sample: int
    seed: int
    limit: int
    last: int
    length: int
    trunk: Trunk


class Places:
    """B places of a batch, what is sampled in them, and the queue they are filled from.

    All that is kept by place is [B, longest limit]: ids, log-probabilities, uniform numbers.
    """

    def __init__(
        self, model: Any, is_end: Tensor, texts: Callable[[], StopTexts], sampling: Sampling, rows: Sequence[Row],
        count: int, tokens_at_once: int,
    ):  # fmt: skip
        self._model, self._is_end, self._sampling = model, is_end, sampling
        self._texts, self._tokens_at_once = texts(), tokens_at_once
        self._queue, self._count = deque(rows), count
        self._cache = RowCache(model)
        self._rows: list[Row | None] = [None] * count
        longest, device, kept = max(row.limit for row in rows), is_end.device, sampling.alternatives
        self._made = np.zeros(count, np.int64)  # tokens of each place so far
        self._next = torch.zeros(count, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(count, longest, dtype=torch.float64, device=device)
        self._ids = torch.zeros(count, longest, dtype=torch.int32, device=device)
        self._logprobs = torch.zeros(count, longest, device=device)
        self._raw = None if sampling.is_raw else torch.zeros(count, longest, device=device)
        self._likely = torch.zeros(count, longest, kept, dtype=torch.int32, device=device) if kept else None
        self._likely_logprobs = torch.zeros(count, longest, kept, device=device) if kept else None

    def run(self) -> Iterator[tuple[Row, Completion]]:
        """Every row with its completion, as they end."""
        while True:
            self._fill()
            live = self._live()
            if not live.any():
                return
            if not self._queue and live.mean() < SHRINK_BELOW:
                self._keep(np.flatnonzero(live))
                live = self._live()
            logits = self._cache.forward(self._next[:, None])
            if not bool(torch.isfinite(logits.amax(-1))[torch.from_numpy(live).to(logits.device)].all()):
                raise ApportionError("the model's logits are not finite: its weights or its dtype are broken")
            drawn = self._record(logits)
            yield from self._ended(live, drawn)

    def _live(self) -> np.ndarray:
        return np.array([row is not None for row in self._rows], bool)

    def _fill(self) -> None:
        """Rows of the queue come in, if there are enough free places."""
        free = [place for place, row in enumerate(self._rows) if row is None]
        if not self._queue or len(free) < max(1, len(self._rows) * REFILL_ABOVE):
            return
        coming = [(place, self._queue.popleft()) for place, _ in zip(free, range(len(self._queue)), strict=False)]
        compute(
            self._model, [row.trunk for _, row in coming], tokens_at_once=self._tokens_at_once,
            rows_at_once=self._count,
        )  # fmt: skip
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
            self._uniforms[place, : row.limit] = torch.from_numpy(uniforms_of(row.seed, row.limit))

    def _keep(self, places: np.ndarray) -> None:
        """Only these stay."""
        self._cache.keep(places)
        self._texts.keep(places.tolist())
        index = torch.from_numpy(places).to(self._next.device)
        self._rows = [self._rows[place] for place in places.tolist()]
        self._made = self._made[places]
        for name in ("_next", "_uniforms", "_ids", "_logprobs", "_raw", "_likely", "_likely_logprobs"):
            if (held := getattr(self, name)) is not None:
                setattr(self, name, held[index])

    def _record(self, logits: Tensor) -> Tensor:
        """[B] int64 one token for every place; in those without a row it means nothing."""
        device = logits.device
        at = torch.from_numpy(np.minimum(self._made, self._uniforms.shape[1] - 1)).to(device)
        every = torch.arange(len(at), device=device)
        drawn, logprobs = draw(logits, self._uniforms[every, at], self._sampling)
        self._next = drawn
        self._ids[every, at] = drawn.int()
        self._logprobs[every, at] = logprobs
        if self._raw is not None:
            self._raw[every, at] = torch.log_softmax(logits, -1).gather(1, drawn[:, None])[:, 0]
        if self._likely is not None and self._likely_logprobs is not None:
            ids, values = most_likely(logits, self._sampling.alternatives)
            self._likely[every, at], self._likely_logprobs[every, at] = ids.int(), values
        self._made += 1
        return drawn

    def _ended(self, live: np.ndarray, drawn: Tensor) -> Iterator[tuple[Row, Completion]]:
        by_token = self._is_end[drawn].cpu().numpy()
        by_text = np.zeros(len(live), bool)
        if self._sampling.stop:
            by_text[live] = self._texts.completed(np.flatnonzero(live).tolist(), drawn.cpu().numpy()[live].tolist())
        limits = np.array([0 if row is None else row.limit for row in self._rows])
        ended = np.flatnonzero(live & (by_token | by_text | (self._made >= limits)))
        if not len(ended):
            return
        longest = int(self._made[ended].max())
        index = torch.from_numpy(ended).to(drawn.device)
        held = [
            None if each is None else each[index, :longest].cpu().numpy()
            for each in (self._ids, self._logprobs, self._raw, self._likely, self._likely_logprobs)
        ]
        for number, place in enumerate(ended.tolist()):
            row, size = self._rows[place], int(self._made[place])
            assert row is not None
            reason = "stop" if by_token[place] else "stop_text" if by_text[place] else "length"
            ids, logprobs, raw, likely, values = (each if each is None else each[number, :size].copy() for each in held)
            known = None if likely is None or values is None else Alternatives(likely, values)
            self._rows[place] = None
            self._texts.forget(place)
            assert ids is not None
            yield row, Completion(ids, logprobs, reason, raw, known)
        self._cache.forget(ended)
