"""Sample with a `transformers` model, on CPU or CUDA."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import transformers

from ....formats.errors import ApportionError, UsageError
from ..engine import Completion, Request, Sampling, Usage
from ..policy import Policy
from ..stop import StopTexts
from ._cache import States
from ._decode import Places, Room, Row
from ._kept import KeptStates
from ._prefixes import CHUNK, Tokens, Trunk, trunks_of
from ._record import bytes_kept, nothing

CACHE_BYTES = 2 << 30  # keys and values of one batch on the CPU; on CUDA, a share of the free memory
KEPT_BYTES = 1 << 30  # keys and values kept of continued rows that ended, on the CPU; on CUDA as above
LOGIT_BYTES = 1 << 30  # logits of one step and what is computed from them
PREFILL_TOKENS = 16_384
MAX_ROWS = 1024
# On the CPU more rows at once are slower once a step's numbers no longer fit the processor's caches. All 1,024 rows of a
# queue at once reached 0.8 times the tokens/s of 256 (builtin:tiny); all 128 reached 0.8 times those of 64 (SmolLM2-135M).
CPU_LOGIT_BYTES = 50 << 20
CPU_MAX_ROWS = 256
COLDEST = 1e-6  # below this, logits may exceed the range of float32
MEMORY_FAULTS = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


class TransformersEngine:
    """Samples many rows side by side. When one ends, the next takes its place.

    The longest rows come first. If memory allows only a few of them at a time, more run at once when shorter ones
    follow. Common beginnings of prefixes are computed once, long ones in chunks. What continued requests computed is
    kept, as far as there is room, for requests that begin with it. A row draws its uniform numbers from its own seed
    (Philox), so the rest of the batch changes a sample only through floating-point rounding. If memory runs out, the
    unfinished rows start over with half of it.
    """

    name = "transformers"
    row_seeds = True
    can_fail = False
    tokens_exact = True

    def __init__(self, policy: Policy):
        self.version = transformers.__version__
        self.identity = policy.identity
        self._model, self._tokenizer = policy.model, policy.tokenizer
        self._device = next(policy.model.parameters()).device
        self._config = policy.model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(self._config, "max_position_embeddings", None)
        self._is_end = torch.zeros(self._config.vocab_size, dtype=torch.bool, device=self._device)
        self._is_end[end_ids(policy)] = True
        self._kept = KeptStates()
        self.usage = Usage()

    def forget(self) -> None:
        """Drop what is kept of earlier requests."""
        self._kept.clear()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. UsageError for a prefix beyond the model's context, ApportionError for NaN logits.

        A response that reaches the end of the model's context also finishes with "length".
        """
        if 0 < sampling.temperature < COLDEST:
            raise UsageError(f"--temperature must be 0 (greedy) or at least {COLDEST:g}, got {sampling.temperature}")
        prefixes = [np.asarray(request.prefix_ids, np.int64) for request in requests]
        limits = [self._limit(request, sampling) for request in requests]
        found = {
            (index, sample): nothing(sampling)
            for index, (request, limit) in enumerate(zip(requests, limits, strict=True))
            for sample in range(len(request.seeds))
            if limit < 1
        }
        wanted = [(index, sample) for index, request in enumerate(requests) for sample in range(len(request.seeds))]
        room, computed = self._room(sampling), 0

        def note(row: Row, completion: Completion) -> None:
            found[row.request, row.sample] = completion
            if on_progress is not None:
                on_progress(1)

        if found and on_progress is not None:
            on_progress(len(found))
        self._kept.begin()
        while missing := [each for each in wanted if each not in found]:
            room = replace(room, rows=min(room.rows, len(missing)))
            tokens, room = self._decode(self._rows(missing, requests, prefixes, limits), room, sampling, note)
            computed += tokens
            if self._device.type == "cuda":  # here no frame and no exception holds on to the batch
                torch.cuda.empty_cache()
        given = sum(len(prefixes[index]) for index, _ in wanted if limits[index] > 0)
        self.usage += Usage(given, max(0, given - computed), sum(len(completion.ids) for completion in found.values()))
        return [
            [found[index, sample] for sample in range(len(request.seeds))] for index, request in enumerate(requests)
        ]

    @torch.inference_mode()
    def _decode(
        self, rows: Sequence[Row], room: Room, sampling: Sampling, note: Callable[[Row, Completion], None]
    ) -> tuple[int, Room]:
        """Generate as many rows as the memory allows, and `note` each as it ends.

        Returns the number of prefix tokens computed for them, and the room for the rows that remain.
        """
        places = Places(
            self._model, self._is_end, lambda: StopTexts(self._tokenizer, sampling.stop), sampling, rows, room,
            self._tokens_at_once(), self._keep,
        )  # fmt: skip
        ended = 0
        try:
            for row, completion in places.run():
                note(row, completion)
                ended += 1
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            half = places.halved()
            if half is None and not self._kept.bytes:
                raise ApportionError(
                    f"out of memory on {self._device} with a single rollout; lower --max-tokens or use a smaller model"
                ) from error
            self._kept.clear()
            room = half or room
        return places.computed + ended, room  # including every row's last token, from which it continues

    def _rows(
        self,
        wanted: Sequence[tuple[int, int]],
        requests: Sequence[Request],
        prefixes: Sequence[Tokens],
        limits: Sequence[int],
    ) -> list[Row]:
        """The rows in the order in which they enter: rows of one trunk together, the widest trunk first."""
        counts = Counter(index for index, _ in wanted)
        indices = sorted(counts)
        trunks = dict(
            zip(
                indices,
                trunks_of([prefixes[index][:-1] for index in indices], [counts[index] for index in indices]),
                strict=True,
            )
        )
        self._kept.begin_trunks(list(trunks.values()))
        rows = [
            Row(
                index, sample, requests[index].seeds[sample], limits[index], int(prefixes[index][-1]),
                len(prefixes[index]) - 1, trunks[index], requests[index].continued,
            )
            for index, sample in wanted
        ]  # fmt: skip
        widest: dict[Trunk, int] = {}
        for row in rows:
            widest[row.trunk] = max(row.width, widest.get(row.trunk, 0))
        order = {trunk: number for number, trunk in enumerate(widest)}
        return sorted(rows, key=lambda row: (-widest[row.trunk], order[row.trunk], -row.width, row.request, row.sample))

    def _limit(self, request: Request, sampling: Sampling) -> int:
        if len(request.prefix_ids) == 0:
            raise UsageError("an empty prefix: a model needs at least one token to continue")
        limit = sampling.max_tokens if request.max_tokens is None else min(request.max_tokens, sampling.max_tokens)
        if self.context is None:
            return limit
        if len(request.prefix_ids) >= self.context:
            raise UsageError(
                f"a prompt of {len(request.prefix_ids):,} tokens does not fit the model's context of {self.context:,}"
            )
        return min(limit, self.context - len(request.prefix_ids))

    def _room(self, sampling: Sampling) -> Room:
        on_cpu = self._device.type == "cpu"
        by_logits = (CPU_LOGIT_BYTES if on_cpu else LOGIT_BYTES) // (16 * self._config.vocab_size)
        most = min(MAX_ROWS, CPU_MAX_ROWS) if on_cpu else MAX_ROWS
        return Room(max(1, min(most, by_logits)), self._cache_bytes(), self._bytes_per_token(), bytes_kept(sampling))

    def _tokens_at_once(self) -> int:
        """Prefix tokens to compute in one pass."""
        return max(CHUNK, min(PREFILL_TOKENS, self._cache_bytes() // (4 * self._bytes_per_token())))

    def _keep(self, tokens: Tokens, states: States) -> None:
        room = KEPT_BYTES
        if self._device.type == "cuda":
            room = _share(self._kept.bytes, torch.cuda.mem_get_info(self._device)[0])
        try:
            self._kept.add(tokens, states, room)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            self._kept.clear()

    def _cache_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0] // 3
        return CACHE_BYTES

    def _bytes_per_token(self) -> int:
        config = self._config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * next(self._model.parameters()).element_size()


def end_ids(policy: Policy) -> list[int]:
    """The tokens that end a response: those named by the generation config, the model's config or the tokenizer, if the
    model's vocabulary has them."""
    found: set[int] = set()
    for owner in (getattr(policy.model, "generation_config", None), policy.model.config, policy.tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    size = policy.model.config.get_text_config(decoder=True).vocab_size
    found = {token for token in found if 0 <= token < size}
    if not found:
        raise UsageError(
            f"model {policy.spec!r}: no end-of-sequence token; name one of its vocabulary in its config or tokenizer"
        )
    return sorted(found)


def _share(kept: int, free: int) -> int:
    """Bytes that may be kept of earlier requests: a third of what would be free if none were kept."""
    return (kept + free) // 3


def _out_of_memory(error: RuntimeError) -> bool:
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(each in words for each in MEMORY_FAULTS)
