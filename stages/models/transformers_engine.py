"""Sampling with a `transformers` model, on CPU or CUDA: each prefix is computed once for all its samples."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ...formats.errors import ApportionError, UsageError
from . import ENGINES, EngineEntry
from ._draw import draw, most_likely, uniforms_of
from ._stop import StopTexts
from .engine import Alternatives, Completion, Request, Sampling
from .policy import ModelSource, Policy

CACHE_BYTES = 2 << 30  # keys and values of one batch, on the CPU; on CUDA it is a share of the free memory
LOGIT_BYTES = 1 << 30  # logits of one step and what is computed from them
MAX_ROWS = 1024
SHRINK_BELOW = 0.75  # finished rows leave the batch when fewer than this share of it is live


class GrowingLayer(DynamicLayer):
    """A layer's keys and values [rows, heads, tokens, head_dim], kept at the front of buffers with room to grow.

    The stock layer copies everything at every token; this one does when the buffer is full.
    """

    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._buffers = (self._grown(self.keys, key_states, end), self._grown(self.values, value_states, end))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, length:end] = states
        self._show(end)
        return self.keys, self.values  # pyright: ignore[reportReturnType]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; a row may be asked for several times."""
        if self._buffers is not None:
            length = self.get_seq_length()
            self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
            self._show(length)

    def _show(self, length: int) -> None:
        assert self._buffers is not None
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    @staticmethod
    def _grown(old: Tensor | None, states: Tensor, needed: int) -> Tensor:
        rows, heads, _, width = states.shape
        buffer = states.new_empty(rows, heads, needed + max(32, needed // 2), width)
        if old is not None and old.numel():
            buffer[:, :, : old.shape[-2]] = old
        return buffer


@dataclass(frozen=True)
class _Row:
    """One sample to make: where it belongs, and how many tokens it may have."""

    request: int
    sample: int
    limit: int


class TransformersEngine:
    """Samples batch by batch: prefixes of like length together, finished rows leave.

    A row's uniform numbers come from its own seed (Philox), so what else is in the batch changes a sample only where
    floating-point rounding does. Where memory runs out, the batch is halved and made again.
    """

    name = "transformers"
    row_seeds = True
    tokens_exact = True

    def __init__(self, policy: Policy):
        self.version = transformers.__version__
        self.identity = policy.identity
        self._model, self._tokenizer = policy.model, policy.tokenizer
        self._device = next(policy.model.parameters()).device
        self._config = policy.model.config.get_text_config(decoder=True)
        self._context: int | None = getattr(self._config, "max_position_embeddings", None)
        self._is_end = torch.zeros(self._config.vocab_size, dtype=torch.bool, device=self._device)
        self._is_end[end_ids(policy)] = True

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. UsageError for a prefix beyond the model's context, ApportionError for NaN logits.

        A response ends with "length" where the model's context does, too.
        """
        rows = [
            _Row(index, sample, self._limit(request, sampling))
            for index, request in enumerate(requests)
            for sample in range(len(request.seeds))
        ]
        rows.sort(key=lambda row: (-len(requests[row.request].prefix_ids), row.request, row.sample))
        found: dict[tuple[int, int], Completion] = {}
        for batch in self._batches(rows, requests, sampling):
            for row, completion in zip(batch, self._complete(batch, requests, sampling), strict=True):
                found[row.request, row.sample] = completion
            if on_progress is not None:
                on_progress(len(batch))
        return [
            [found[index, sample] for sample in range(len(request.seeds))] for index, request in enumerate(requests)
        ]

    def _limit(self, request: Request, sampling: Sampling) -> int:
        if len(request.prefix_ids) == 0:
            raise UsageError("an empty prefix: a model needs at least one token to continue")
        limit = sampling.max_tokens if request.max_tokens is None else min(request.max_tokens, sampling.max_tokens)
        if self._context is None:
            return limit
        if len(request.prefix_ids) >= self._context:
            raise UsageError(
                f"a prompt of {len(request.prefix_ids):,} tokens does not fit the model's context of {self._context:,}"
            )
        return min(limit, self._context - len(request.prefix_ids))

    def _batches(
        self, rows: Sequence[_Row], requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[Sequence[_Row]]:
        """Rows, sorted by falling prefix length, in batches that fit the memory."""
        config, element = self._config, next(self._model.parameters()).element_size()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_token = 2 * config.num_hidden_layers * heads * width * element
        budget = CACHE_BYTES
        if self._device.type == "cuda":
            budget = torch.cuda.mem_get_info(self._device)[0] // 3
        by_logits = LOGIT_BYTES // (16 * config.vocab_size)
        first = 0
        while first < len(rows):
            longest = len(requests[rows[first].request].prefix_ids) + sampling.max_tokens
            size = max(1, min(MAX_ROWS, by_logits, budget // (per_token * longest)))
            yield rows[first : first + size]
            first += size

    def _complete(self, rows: Sequence[_Row], requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """The rows' completions; in two halves, and so on, where memory runs out."""
        try:
            with torch.inference_mode():
                return self._decode(rows, requests, sampling)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if len(rows) == 1:
                raise ApportionError(
                    f"out of memory on {self._device} with a single rollout; lower --max-tokens or use a smaller model"
                ) from error
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(rows) // 2
        return self._complete(rows[:half], requests, sampling) + self._complete(rows[half:], requests, sampling)

    def _decode(self, rows: Sequence[_Row], requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        device, steps = self._device, max(row.limit for row in rows)
        limits = torch.tensor([row.limit for row in rows], device=device)
        uniforms = torch.from_numpy(
            np.stack([uniforms_of(requests[row.request].seeds[row.sample], steps) for row in rows])
        ).to(device)
        ids = torch.zeros(len(rows), steps, dtype=torch.int32, device=device)
        logprobs = torch.zeros(len(rows), steps, dtype=torch.float32, device=device)
        raw = None if sampling.is_raw else torch.zeros_like(logprobs)
        alternatives: list[tuple[Tensor, Tensor, Tensor]] = []  # of each step: rows, ids [B, K], logprobs [B, K]
        lengths = torch.zeros(len(rows), dtype=torch.int64, device=device)
        reasons = ["length"] * len(rows)
        texts = StopTexts(self._tokenizer, sampling.stop)

        logits, cache, attention = self._prefill(rows, requests)
        place = torch.arange(len(rows), device=device)  # row of the batch → row of the output
        live = torch.ones(len(rows), dtype=torch.bool, device=device)
        for step in range(steps):
            drawn, logprob = draw(logits, uniforms[place, step], sampling)
            # Ended rows that are still in the batch draw too; their lengths say that it does not count.
            ids[place, step] = drawn.int()
            logprobs[place, step] = logprob
            if raw is not None:
                raw[place, step] = torch.log_softmax(logits, -1).gather(1, drawn[:, None])[:, 0]
            if sampling.alternatives:
                alternatives.append((place, *most_likely(logits, sampling.alternatives)))
            lengths[place] += live
            ended = self._is_end[drawn]
            for row in place[live & ended].tolist():
                reasons[row] = "stop"
            if sampling.stop:
                completed = texts.completed(place.tolist(), drawn.tolist())
                by_text = torch.tensor(completed, device=device) & live & ~ended
                for row in place[by_text].tolist():
                    reasons[row] = "stop_text"
                ended = ended | by_text
            live = live & ~ended & (limits[place] > step + 1)
            remaining = int(live.sum())
            if remaining == 0:
                break
            if remaining < SHRINK_BELOW * len(place):
                kept = live.nonzero()[:, 0]
                place, drawn, attention, live = place[kept], drawn[kept], attention[kept], live[kept]
                cache.batch_select_indices(kept)
            attention = torch.cat([attention, attention.new_ones(len(place), 1)], 1)
            logits = self._logits(drawn[:, None], attention, cache)
        others = self._alternatives(alternatives, len(rows), int(lengths.max()), sampling.alternatives)
        whole = [each if each is None else each.cpu().numpy() for each in (ids, logprobs, raw, *others)]

        def of(row: int, size: int) -> list[Any]:
            return [each if each is None else each[row, :size].copy() for each in whole]

        completions: list[Completion] = []
        for row, (size, reason) in enumerate(zip(lengths.tolist(), reasons, strict=True)):
            row_ids, row_logprobs, row_raw, likely, likely_logprobs = of(row, size)
            known = None if likely is None else Alternatives(likely, likely_logprobs)
            completions.append(Completion(row_ids, row_logprobs, reason, row_raw, known))
        return completions

    @staticmethod
    def _alternatives(
        steps: Sequence[tuple[Tensor, Tensor, Tensor]], rows: int, longest: int, count: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """(ids [rows, longest, K] int32, logprobs [rows, longest, K]) of what each step reported."""
        if not count:
            return None, None
        device = steps[0][1].device
        ids = torch.zeros(rows, longest, count, dtype=torch.int32, device=device)
        logprobs = torch.zeros(rows, longest, count, dtype=torch.float32, device=device)
        for step, (place, step_ids, step_logprobs) in enumerate(steps):
            ids[place, step] = step_ids.int()
            logprobs[place, step] = step_logprobs
        return ids, logprobs

    def _prefill(self, rows: Sequence[_Row], requests: Sequence[Request]) -> tuple[Tensor, DynamicCache, Tensor]:
        """Next-token logits [B, V], cache and attention mask [B, L] of all rows; each distinct prefix is run once."""
        distinct = list(dict.fromkeys(row.request for row in rows))
        prefixes = [np.asarray(requests[index].prefix_ids, np.int64) for index in distinct]
        longest = max(map(len, prefixes))
        ids = np.zeros((len(prefixes), longest), np.int64)
        attention = np.zeros((len(prefixes), longest), np.int64)
        for line, prefix in enumerate(prefixes):  # padded on the left, so that all rows go on at one position
            ids[line, longest - len(prefix) :] = prefix
            attention[line, longest - len(prefix) :] = 1
        cache = DynamicCache(config=self._config)
        cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        mask = torch.from_numpy(attention).to(self._device)
        logits = self._logits(torch.from_numpy(ids).to(self._device), mask, cache)
        line_of = {index: line for line, index in enumerate(distinct)}
        lines = torch.tensor([line_of[row.request] for row in rows], device=self._device)
        cache.batch_select_indices(lines)
        return logits[lines], cache, mask[lines]

    def _logits(self, ids: Tensor, attention: Tensor, cache: DynamicCache) -> Tensor:
        """[B, V] float32 logits after the last of `ids` [B, L]; the cache holds what came before."""
        padded = not bool(attention[:, 0].all())
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :] if padded else None
        output = self._model(
            input_ids=ids, attention_mask=attention if padded else None, position_ids=positions,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        logits = output.logits[:, -1].float()
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise ApportionError("the model's logits are not finite: its weights or its dtype are broken")
        return logits


def end_ids(policy: Policy) -> list[int]:
    """The tokens that end a response: those of the generation config, else of the model's, and the tokenizer's."""
    found: set[int] = set()
    for owner in (getattr(policy.model, "generation_config", None), policy.model.config, policy.tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    if not found:
        raise UsageError(f"model {policy.spec!r} names no end-of-sequence token, in config or tokenizer")
    return sorted(found)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _open(source: ModelSource, seed: int) -> TransformersEngine:
    return TransformersEngine(source.load())


ENGINES.add(EngineEntry("transformers", "A transformers model in this process, on CPU or CUDA", (), _open))
