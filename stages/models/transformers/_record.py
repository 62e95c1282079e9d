"""What is kept of every place of a batch while its row is made."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine import Alternatives, Completion, Sampling
from ._draw import draw, most_likely, uniforms_of


class Kept(NamedTuple):
    """One array: what it holds of a token, and its name."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...] = ()


class Samples:
    """Uniform numbers, ids and log-probabilities [places, columns], and the most likely tokens where they are asked for.

    columns: as many as the row of the batch with the largest budget may have tokens.
    """

    def __init__(self, sampling: Sampling, device: torch.device):
        self._sampling = sampling
        self._held = {
            kept.name: torch.zeros(0, 0, *kept.shape, dtype=kept.dtype, device=device)
            for kept in kept_numbers(sampling)
        }

    def fit(self, places: int, columns: int) -> None:
        """Room for so many places of so many tokens; what the first ones hold stays. Much more than that is given back."""
        rows, held = self._held["ids"].shape[:2]
        if rows >= places and columns <= held <= 2 * columns:
            return
        kept, rows = min(held, columns), min(rows, places)
        for name, old in self._held.items():
            self._held[name] = old.new_zeros(places, columns, *old.shape[2:])
            self._held[name][:rows, :kept] = old[:rows, :kept]

    def keep(self, places: Tensor) -> None:
        """Only these stay, in this order."""
        self._held = {name: held[places] for name, held in self._held.items()}

    def begin(self, place: int, seed: int, limit: int) -> None:
        """A row begins here."""
        self._held["uniforms"][place, :limit] = torch.from_numpy(uniforms_of(seed, limit))

    def draw(self, logits: Tensor, made: np.ndarray) -> Tensor:
        """[B] int64: the next token of every place, from logits [B, V], kept as the one after `made` [B]."""
        held, device = self._held, logits.device
        at = torch.from_numpy(np.minimum(made, held["ids"].shape[1] - 1)).to(device)
        every = torch.arange(len(at), device=device)
        drawn, held["logprobs"][every, at] = draw(logits, held["uniforms"][every, at], self._sampling)
        held["ids"][every, at] = drawn.int()
        if "raw" in held:
            held["raw"][every, at] = torch.log_softmax(logits, -1).gather(1, drawn[:, None])[:, 0]
        if "likely" in held:
            ids, held["likely_logprobs"][every, at] = most_likely(logits, self._sampling.alternatives)
            held["likely"][every, at] = ids.int()
        return drawn

    def completions(self, places: np.ndarray, sizes: np.ndarray, reasons: list[str]) -> list[Completion]:
        """The rows of these places, of so many tokens, that ended so."""
        index = torch.from_numpy(places).to(self._held["ids"].device)
        held = {
            name: values[index, : int(sizes.max())].cpu().numpy()
            for name, values in self._held.items()
            if name != "uniforms"
        }
        found: list[Completion] = []
        for number, (size, reason) in enumerate(zip(sizes.tolist(), reasons, strict=True)):
            own = {name: values[number, :size].copy() for name, values in held.items()}
            likely = Alternatives(own["likely"], own["likely_logprobs"]) if "likely" in own else None
            found.append(Completion(own["ids"], own["logprobs"], reason, own.get("raw"), likely))
        return found


def kept_numbers(sampling: Sampling) -> list[Kept]:
    """The arrays that such a sampling needs."""
    found = [Kept("uniforms", torch.float64), Kept("ids", torch.int32), Kept("logprobs", torch.float32)]
    if not sampling.is_raw:
        found.append(Kept("raw", torch.float32))
    if sampling.alternatives:
        found.append(Kept("likely", torch.int32, (sampling.alternatives,)))
        found.append(Kept("likely_logprobs", torch.float32, (sampling.alternatives,)))
    return found


def bytes_kept(sampling: Sampling) -> int:
    """Bytes of all of them for one token."""
    return sum(kept.dtype.itemsize * int(np.prod(kept.shape)) for kept in kept_numbers(sampling))


def nothing(sampling: Sampling) -> Completion:
    """What a request without a budget gets."""
    record = Samples(sampling, torch.device("cpu"))
    record.fit(1, 1)
    return record.completions(np.zeros(1, np.int64), np.zeros(1, np.int64), ["length"])[0]
