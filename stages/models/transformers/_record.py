"""What is recorded of each place of a batch while its row is generated."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine import Alternatives, Completion, Sampling
from ._draw import draw, most_likely, uniforms_of


class Kept(NamedTuple):
    """One recorded array: its name, and what it holds per token."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...] = ()


class Samples:
    """Uniform numbers, ids and log-probabilities [places, columns], and the most likely tokens if they are asked for.

    columns: the largest token budget among the rows of the batch.
    """

    def __init__(self, sampling: Sampling, device: torch.device):
        self._sampling = sampling
        self._held = {
            kept.name: torch.zeros(0, 0, *kept.shape, dtype=kept.dtype, device=device)
            for kept in kept_numbers(sampling)
        }

    def fit(self, places: int, columns: int) -> None:
        """Make room for `places` of `columns` tokens, and keep what the first ones hold. Frees much larger arrays."""
        rows, held = self._held["ids"].shape[:2]
        if rows >= places and columns <= held <= 2 * columns:
            return
        kept, rows = min(held, columns), min(rows, places)
        for name, old in self._held.items():
            self._held[name] = old.new_zeros(places, columns, *old.shape[2:])
            self._held[name][:rows, :kept] = old[:rows, :kept]

    def keep(self, places: Tensor) -> None:
        """Drop all places but these, and put them in this order."""
        self._held = {name: held[places] for name, held in self._held.items()}

    def begin(self, place: int, seed: int, limit: int) -> None:
        """Start a row in this place."""
        self._held["uniforms"][place, :limit] = torch.from_numpy(uniforms_of(seed, limit))

    def draw(self, logits: Tensor, made: np.ndarray) -> Tensor:
        """[B] int64: the next token of each place, drawn from logits [B, V] and recorded at index `made` [B]."""
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
        """The completions of the rows in these places, with their sizes and finish reasons."""
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
    """The arrays that a sampling needs."""
    found = [Kept("uniforms", torch.float64), Kept("ids", torch.int32), Kept("logprobs", torch.float32)]
    if not sampling.is_raw:
        found.append(Kept("raw", torch.float32))
    if sampling.alternatives:
        found.append(Kept("likely", torch.int32, (sampling.alternatives,)))
        found.append(Kept("likely_logprobs", torch.float32, (sampling.alternatives,)))
    return found


def bytes_kept(sampling: Sampling) -> int:
    """Bytes of all recorded arrays per token."""
    return sum(kept.dtype.itemsize * int(np.prod(kept.shape)) for kept in kept_numbers(sampling))


def nothing(sampling: Sampling) -> Completion:
    """The completion of a request without a budget."""
    record = Samples(sampling, torch.device("cpu"))
    record.fit(1, 1)
    return record.completions(np.zeros(1, np.int64), np.zeros(1, np.int64), ["length"])[0]
