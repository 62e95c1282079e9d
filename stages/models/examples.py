"""Rollouts as a model reads them, in micro-batches: shared by training and by scoring with a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments

LOGIT_BUDGET = 1 << 28  # float32 logits a micro-batch may hold: 1 GiB


@dataclass(frozen=True, eq=False)
class Examples:
    """R rollouts to train on. sequences: prompt and response ids of each; prompt_sizes: [R] tokens before the response.

    Per response token [T]: mask (trained), old_logprob, advantage, reference_logprob (None if the objective needs
    none). Per rollout [R]: group, weight, temperature. For preference pairs, row 2p is the chosen half of the p-th pair
    and row 2p + 1 the rejected one.
    """

    sequences: Ragged
    prompt_sizes: Array
    mask: Ragged
    group: Array
    weight: Array
    temperature: Array
    old_logprob: Array | None = None
    advantage: Array | None = None
    reference_logprob: Array | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def responses(self) -> Segments:
        return self.mask.segments


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """B sequences, padded on the right to the longest, so that a causal model's attention needs no mask.

    ids: [B, L]. row, position: [N] where the trained tokens are. place: [N] their index on the examples' flat response
    axis. coefficient: [N]. rows: [B] of the examples."""

    ids: Array
    rows: Array
    row: Array
    position: Array
    place: Array
    coefficient: Array
    keep: int  # only the logits of the last `keep` positions are needed


def micro_batches(
    examples: Examples, rows: Array, coefficient: Array, budget: int, *, together: int = 1
) -> Iterator[MicroBatch]:
    """The given rows as micro-batches of at most `budget` padded tokens (or one unit), similar lengths together.

    coefficient: [T of rows]. together: rows per unit; they are adjacent and stay together (2 for a pair). Units whose
    coefficients are all zero are left out: they have no gradient.
    """
    responses = Segments.of_sizes(examples.responses.sizes[rows])
    live = np.flatnonzero(responses.any(coefficient != 0).reshape(-1, together).any(1))
    widths = examples.sequences.segments.sizes[rows].reshape(-1, together).max(1)
    order = live[np.argsort(-widths[live], kind="stable")]
    first = 0
    while first < len(order):
        width = int(widths[order[first]])
        count = max(1, budget // max(width * together, 1))
        chosen = (order[first : first + count, None] * together + np.arange(together)).ravel()
        yield _pad(examples, rows, chosen, width, coefficient, responses)
        first += count


def _pad(
    examples: Examples, rows: Array, chosen: Array, width: int, coefficient: Array, responses: Segments
) -> MicroBatch:
    sequences = examples.sequences.take(rows[chosen])
    inside = sequences.segments
    ids = np.zeros((len(chosen), width), np.int64)
    ids[inside.ids, inside.positions] = sequences.values

    prompts = examples.prompt_sizes[rows[chosen]]
    tokens = Segments.of_sizes(responses.sizes[chosen])
    weights = coefficient[tokens.positions + tokens.spread(responses.starts[chosen])]
    trained = weights != 0
    position = tokens.positions + tokens.spread(prompts)
    place = tokens.positions + tokens.spread(examples.responses.starts[rows[chosen]])
    return MicroBatch(
        ids, rows[chosen], tokens.ids[trained], position[trained], place[trained], weights[trained],
        keep=width - int(prompts.min()) + 1,
    )  # fmt: skip


def to_examples(rollouts: Rollouts, *, credit: str | None, old_logprobs: bool, tempered: bool = True) -> Examples:
    """All rollouts of a batch as examples: prompt_ids and response ids joined.

    tempered: log-probabilities are taken at the temperature at which a row was sampled; otherwise at temperature 1.
    """
    prompts, responses = rollouts.ragged("prompt_ids"), rollouts.token_ids
    sizes = prompts.segments.sizes + responses.segments.sizes
    joined = Segments.of_sizes(sizes)
    ids = np.empty(int(joined.offsets[-1]), np.int32)
    ids[prompts.segments.positions + prompts.segments.spread(joined.starts)] = prompts.values
    after = joined.starts + prompts.segments.sizes
    ids[responses.segments.positions + responses.segments.spread(after)] = responses.values

    def per_row(path: str, default: float) -> Array:
        if path not in rollouts:
            return np.full(len(rollouts), default)
        values = rollouts.numbers(path).astype(np.float64)
        return np.where(np.isnan(values), default, values)

    return Examples(
        sequences=Ragged(ids, joined.offsets),
        prompt_sizes=prompts.segments.sizes,
        mask=responses.with_values(rollouts.mask),
        group=rollouts.groups.ids,
        weight=per_row("weight", 1.0),
        temperature=per_row("temperature", 1.0) if tempered else np.ones(len(rollouts)),
        old_logprob=rollouts.ragged("token.logprob").values if old_logprobs else None,
        advantage=rollouts.ragged(credit).values if credit else None,
    )


def micro_budget(model: Any, wanted: int) -> int:
    """Padded tokens per micro-batch: as requested, or as many as LOGIT_BUDGET allows for this vocabulary."""
    return wanted or max(256, min(16384, LOGIT_BUDGET // int(model.config.vocab_size)))
