"""Keys and values of earlier calls, kept for later prefixes that begin with the same tokens."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ._cache import States
from ._prefixes import SHARED_AT_LEAST, Tokens, Trunk, common


@dataclass
class _Entry:
    tokens: Tokens
    states: States
    bytes: int
    used: int  # the latest call that found or added this


class KeptStates:
    """Sequences of tokens with their keys and values; none begins with another.

    When room runs out, the least recently used go first. What the present call used stays, since the next one will need
    it too. If nothing else is left to drop, nothing more is added.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._keys: list[bytes] = []  # sorted: sequences with the same beginning are adjacent
        self._entries: dict[bytes, _Entry] = {}  # the most recently used comes last
        self._call = 0

    def __len__(self) -> int:
        return len(self._keys)

    def begin(self) -> None:
        """Start a new call."""
        self._call += 1

    def begin_trunks(self, trunks: Sequence[Trunk]) -> None:
        """Start the trunks, or their stems, from kept states if those reach further than what they have in common."""
        trunks = list(dict.fromkeys(trunks))
        for trunk in trunks:
            self._begin_trunk(trunk)
        for stem in dict.fromkeys(trunk.stem for trunk in trunks):
            if stem is not None and stem.states is None:
                self._begin_trunk(stem)

    def _begin_trunk(self, trunk: Trunk) -> None:
        found = self.find(trunk.tokens)
        if found is None or len(found.tokens) <= trunk.computed_before:
            return
        if trunk.stem is not None:
            trunk.stem.release()
        trunk.stem = found
        if len(found.tokens) == len(trunk.tokens):
            trunk.states = found.states

    def find(self, tokens: Tokens) -> Trunk | None:
        """The longest kept beginning of the tokens, with its states; None if it is short."""
        place = bisect_left(self._keys, _key(tokens))
        near = [self._entries[key] for key in self._keys[max(0, place - 1) : place + 1]]
        shared = [common(each.tokens, tokens) for each in near]
        if max(shared, default=0) < SHARED_AT_LEAST:
            return None
        size, entry = max(zip(shared, near, strict=True), key=lambda each: each[0])
        self._touch(_key(entry.tokens))
        states = [(keys[:, :size], values[:, :size]) for keys, values in entry.states]
        return Trunk(entry.tokens[:size], waiting=1, states=states)

    def add(self, tokens: Tokens, states: States, room: int) -> None:
        """Copy the states [heads, T, head_dim] of T tokens, if they fit into `room` bytes."""
        if len(tokens) < SHARED_AT_LEAST:
            return
        key = _key(tokens)
        place = bisect_left(self._keys, key)
        if place < len(self._keys) and self._keys[place].startswith(key):
            self._touch(self._keys[place])
            return
        beginning = self._keys[place - 1] if place and key.startswith(self._keys[place - 1]) else None
        size = sum(each.numel() * each.element_size() for pair in states for each in pair)
        freed = 0
        if beginning is not None:
            self._touch(beginning)
            freed = self._entries[beginning].bytes
        if not self._make_room(room - size + freed):
            return
        if beginning is not None:
            self._drop(beginning)
        keys, values = (torch.stack(each) for each in zip(*states, strict=True))
        self._entries[key] = _Entry(tokens, list(zip(keys, values, strict=True)), size, self._call)
        self._keys.insert(bisect_left(self._keys, key), key)
        self.bytes += size

    def clear(self) -> None:
        """Drop everything."""
        self._keys.clear()
        self._entries.clear()
        self.bytes = 0

    def _make_room(self, bytes_left: int) -> bool:
        """Drop what can be dropped until at most `bytes_left` are held; returns whether that succeeded."""
        while self.bytes > bytes_left:
            oldest = next(iter(self._entries), None)
            if oldest is None or self._entries[oldest].used == self._call:
                return False
            self._drop(oldest)
        return True

    def _touch(self, key: bytes) -> None:
        entry = self._entries.pop(key)
        entry.used = self._call
        self._entries[key] = entry

    def _drop(self, key: bytes) -> None:
        self._keys.pop(bisect_left(self._keys, key))
        self.bytes -= self._entries.pop(key).bytes


def _key(tokens: Tokens) -> bytes:
    """Bytes that sort like the tokens; a key begins with another key exactly if its tokens begin with the other's."""
    return np.asarray(tokens, ">u4").tobytes()
