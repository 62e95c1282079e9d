"""A credit method on what a trainer has in memory, without a file: padded tensors or ragged lists."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.digests import digest_of_tokens
from ...formats.errors import DataError, UsageError
from ...formats.invariants import lacking
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..structure.prefix_tree import add_prefix_tree
from ._apply import assign_whole
from ._responses import Responses, as_array, read_responses
from .kind import METHODS, Credit

PROBES = ("purpose", "parent_id")  # what only rows beside the rollouts could say


@dataclass(frozen=True)
class CreditInfo:
    """What a call of `TokenCredit` met. Rows that were skipped count nowhere else; groups are of episodes.

    dead_groups: groups of two or more whose rewards are all equal. tokens: that the policy wrote; credited: those of them
    with a credit other than 0. seconds: that the call took. digests: of every row given, as `digest_of_tokens` makes them of its
    prompt and response: what a file's row, or one of `apportion export --format flat`, is compared with.
    """

    rollouts: int
    episodes: int
    skipped: int
    groups: int
    dead_groups: int
    singletons: int
    tokens: int
    credited: int
    seconds: float
    digests: tuple[str, ...] = field(repr=False)


class TokenCredit:
    """A credit method with its options, checked once, for a training loop to call on every batch."""

    def __init__(self, method: str, *, preset: str | None = None, **options: Any):
        """UsageError for an unknown method, preset or option, and for a method that needs probes."""
        self.method = METHODS[method]
        self.options = METHODS.settle(method, options, preset)
        self.needs = self.method.needs_for(self.options)
        """The columns that the method reads with these options, by path."""
        probes = [path for path in PROBES if path in self.needs]
        if self.options.get("baseline") == "greedy":
            probes.append("greedy rollouts; or baseline=column")
        if probes:
            raise UsageError(
                f"credit method {method} needs probes ({', '.join(probes)}), which stand beside the rollouts in a file; use "
                "`apportion assign-credit`"
            )

    def __call__(self, **batch: Any) -> Any:
        """Credit of every token of a batch, which `with_info` takes in the same words; see `credit_tokens`."""
        return self.with_info(**batch)[0]

    def with_info(
        self,
        *,
        reward: Any,
        group: Any,
        token_ids: Any,
        mask: Any,
        attention_mask: Any = None,
        lengths: Any = None,
        steps: Any = None,
        skip: Any = None,
        episode: Any = None,
        part: Any = None,
        signals: Mapping[str, Any] | None = None,
        prompt_ids: Sequence[Any] | None = None,
    ) -> tuple[Any, CreditInfo]:
        """The credit, and what the batch was like. prompt_ids: the token ids of each row's prompt, for the digests alone."""
        begun = time.perf_counter()
        responses = read_responses(token_ids, mask, attention_mask, lengths)
        rows = len(responses.tokens)
        names = _per_row(group, "group", rows)
        left_out = np.zeros(rows, bool) if skip is None else _per_row(skip, "skip", rows).astype(bool)
        numbers = np.unique(names, return_inverse=True)[1].reshape(-1)
        kept = np.flatnonzero(~left_out)
        order = kept[np.argsort(numbers[kept], kind="stable")]
        values = np.zeros(int(responses.tokens.offsets[-1]))
        groups = Segments.of_runs(numbers[order])
        dead = 0
        if len(order):
            columns = _columns(responses, reward, steps, signals or {})
            if episode is not None:
                columns["episode_id"] = np.unique(_per_row(episode, "episode", rows), return_inverse=True)[1].astype(
                    str
                )
                columns["part"] = np.arange(rows) if part is None else _per_row(part, "part", rows).astype(np.int64)
            batch = _rollouts(responses, numbers, order, columns)
            if any(path.startswith("node.") for path in self.needs) and "node.id" not in batch:
                batch = add_prefix_tree(batch)
            self._check(batch)
            assigned = assign_whole(self.method, Credit(batch), self.options)
            found = assigned.values
            if not np.isfinite(found).all():
                raise DataError(f"{self.method.name} gave credit that is not finite; check its reward and options")
            inside = Segments.of_sizes(responses.tokens.sizes[order])
            values[inside.positions + inside.spread(responses.tokens.starts[order])] = found
            groups = assigned.credit.groups
            if "reward" in self.needs:
                dead = int(assigned.dead_groups.sum())
        info = CreditInfo(
            rollouts=len(order),
            episodes=len(groups.ids),
            skipped=rows - len(order),
            groups=len(groups),
            dead_groups=dead,
            singletons=int((groups.sizes == 1).sum()),
            tokens=int(responses.tokens.sum(responses.own)[kept].sum()),
            credited=int(np.count_nonzero(values)),
            seconds=time.perf_counter() - begun,
            digests=_digests(responses, prompt_ids),
        )
        return responses.like_given(values.astype(np.float32)), info

    def _check(self, batch: Rollouts) -> None:
        for path in lacking(batch.paths, self.needs):
            if path in ("step.start", "step.end"):
                raise UsageError(
                    f"credit method {self.method.name} needs steps; give steps=, as spans, as a step index per token, or as "
                    "'mask'"
                )
            way_around = self.method.ways_around(self.options)[path]
            raise DataError(
                f"credit method {self.method.name} needs {path!r}, which is not among the signals"
                + (f"; give it, or {way_around}" if way_around else "; give it")
            )


def credit_tokens(
    method: str,
    *,
    reward: Any,
    group: Sequence[Any] | Any,
    token_ids: Any,
    mask: Any,
    attention_mask: Any = None,
    lengths: Any = None,
    steps: Any = None,
    skip: Any = None,
    episode: Any = None,
    part: Any = None,
    signals: Mapping[str, Any] | None = None,
    prompt_ids: Sequence[Any] | None = None,
    return_info: bool = False,
    preset: str | None = None,
    **options: Any,
) -> Any:
    """Credit of every token of a batch of responses, as `assign-credit` gives it on a file of them.

    For a trainer that has its rollouts in memory: the numbers are computed on the CPU in float64, in NumPy, wherever the
    tensors are, and come back where `token_ids` is. The prefix tree is built where the method needs one. In a loop,
    `TokenCredit(method, **options)` checks the options once.

    Args:
        method: a registered credit method.
        reward: [B], reward units; or of each token, in the shape of `token_ids`: their sum is the rollout's reward, and the
            sum inside a step is `step.reward`.
        group: [B] what rollouts of one prompt have in common: numbers or names, in any order.
        token_ids: responses without their prompts: [B, L], or a list of B sequences of different lengths.
        mask: true where the policy wrote the token, in the shape of `token_ids`; false on an environment's and on padding.
        attention_mask: [B, L] true on the response, an environment's tokens included, false on padding, which may be on
            either side. Without it, and without `lengths`, a row ends with its last policy token.
        lengths: [B] response tokens of each row, where the padding is on the right.
        steps: the steps, for methods that need them: for each row a list of (start, end) in response tokens; or the index of
            each token's step in the shape of `token_ids`, -1 in none; or "mask", by which each run of the policy's tokens is
            one.
        episode: [B] numbers or names, equal where rows are parts of one run of an agent: it counts once in its group, and all its
            parts have its reward.
        part: [B] the place of each row in its episode; None takes them in the order given.
        skip: [B] true for rows that take no part (failed, not scored): out of all statistics, with credit 0.
        signals: more columns by their path: `token.logprob` in the shape of `token_ids`, `rewards.format` [B],
            `step.reward` or `step.state` as a list for each row …
        prompt_ids: the token ids of each row's prompt, without padding; only the digests of a `CreditInfo` need them.
        return_info: also give a `CreditInfo`: dead groups, groups of one, tokens with credit, a digest of each row's tokens.
        preset: conventions of a library.
        options: of the method.

    Returns:
        float32 in the shape and kind of `token_ids`: [B, L], or a list of B; 0 on padding and where the mask is false. With
        return_info, (that, CreditInfo).

    Raises:
        UsageError: an unknown method, preset or option, a method that needs probes, or steps that are not given. DataError:
            shapes that do not fit, rows padded on the left without an attention_mask, a missing signal, what the method
            refuses.

    >>> ids = np.array([[5, 7, 0], [5, 8, 9]])
    >>> credit_tokens("rloo", reward=[1.0, 0.0], group=["a", "a"], token_ids=ids, mask=ids > 0).tolist()
    [[1.0, 1.0, 0.0], [-1.0, -1.0, -1.0]]
    """
    credit, info = TokenCredit(method, preset=preset, **options).with_info(
        reward=reward, group=group, token_ids=token_ids, mask=mask, attention_mask=attention_mask, lengths=lengths,
        steps=steps, skip=skip, episode=episode, part=part, signals=signals, prompt_ids=prompt_ids,
    )  # fmt: skip
    return (credit, info) if return_info else credit


def _digests(responses: Responses, prompt_ids: Sequence[Any] | None) -> tuple[str, ...]:
    """Of each row's prompt, empty where none is given, and response."""
    rows = np.split(responses.ids, responses.tokens.offsets[1:-1]) if len(responses.tokens) else []
    prompts = [()] * len(rows) if prompt_ids is None else [as_array(each) for each in prompt_ids]
    if len(prompts) != len(rows):
        raise DataError(f"prompt_ids: {len(prompts)} prompts for {len(rows)} rollouts")
    return tuple(digest_of_tokens(prompt, row) for prompt, row in zip(prompts, rows, strict=True))


def _per_row(values: Any, name: str, rows: int) -> Array:
    found = as_array(values) if not isinstance(values, Sequence) else np.array(list(values))
    if found.shape != (rows,):
        got = f"{len(found)} values" if found.ndim == 1 else f"shape {found.shape}"
        raise DataError(f"{name}: {got} for {rows} rollouts")
    return found


def _columns(
    responses: Responses, reward: Any, steps: Any, signals: Mapping[str, Any]
) -> dict[str, Ragged | pa.Array | Array]:
    """Every column of all rows [B], in their order."""
    columns: dict[str, Ragged | pa.Array | Array] = {}
    spans = None if steps is None else _spans(responses, steps)
    if spans is not None:
        rows, start, end = spans
        columns["step.start"] = Ragged(start.astype(np.int32), rows.offsets)
        columns["step.end"] = Ragged(end.astype(np.int32), rows.offsets)
    per_token = responses.per_token_or_none(reward)
    if per_token is None:
        columns["reward"] = _numbers(reward, "reward", len(responses.tokens))
    else:
        paid = np.where(np.isnan(per_token) & ~responses.own, 0.0, per_token)
        columns["reward"] = responses.tokens.sum(paid)
        if spans is not None and "step.reward" not in signals:
            columns["step.reward"] = Ragged(_sum_in_steps(responses.tokens, paid, *spans), spans[0].offsets)
    for path, given in signals.items():
        if path.startswith("token."):
            columns[path] = Ragged(responses.per_token(given, f"signal {path!r}"), responses.tokens.offsets)
        elif path.startswith("step."):
            if spans is None:
                raise UsageError(f"signal {path!r} stands on steps; give steps=")
            columns[path] = _per_step(given, path, spans[0])
        else:
            columns[path] = _numbers(given, path, len(responses.tokens))
    return columns


def _numbers(values: Any, path: str, rows: int) -> Array:
    found = as_array(values)
    if found.shape != (rows,):
        raise DataError(f"signal {path!r} of shape {found.shape}, expected ({rows},)")
    return found.astype(np.float64)


def _per_step(given: Any, path: str, rows: Segments) -> Ragged | pa.Array:
    lists = [as_array(row) if not isinstance(row, list | tuple) else row for row in given]
    sizes = np.array([len(row) for row in lists], np.int64)
    if len(sizes) != len(rows):
        raise DataError(f"signal {path!r}: {len(sizes)} lists for {len(rows)} rollouts")
    wrong = np.flatnonzero(sizes != rows.sizes)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"signal {path!r}, row {row}: {sizes[row]} values for {rows.sizes[row]} steps")
    flat = [value for row in lists for value in (row.tolist() if isinstance(row, np.ndarray) else row)]
    if any(isinstance(value, str) for value in flat):
        return pa.ListArray.from_arrays(pa.array(rows.offsets.astype(np.int32)), pa.array(flat, pa.string()))
    return Ragged(np.array(flat, np.float64), rows.offsets)


def _spans(responses: Responses, steps: Any) -> tuple[Segments, Array, Array]:
    """(steps [S] of each row, start [S], end [S] in response tokens). DataError for spans that are none of a row's."""
    tokens = responses.tokens
    if isinstance(steps, str):
        if steps != "mask":
            raise UsageError(f"steps must be spans, a step index per token, or 'mask', got {steps!r}")
        return _runs(tokens, np.where(responses.own, 0, -1))
    index = responses.per_token_or_none(steps)
    if index is not None:
        rows, start, end = _runs(tokens, index.astype(np.int64))
        flat = index[tokens.starts[rows.ids] + start]
        again = np.flatnonzero((rows.positions > 0) & (np.diff(flat, prepend=-1) <= 0))
        if len(again):
            row = int(rows.ids[again[0]])
            raise DataError(
                f"steps, row {row}: step {int(flat[again[0]])} is not one run of tokens behind the step before it"
            )
        return rows, start, end
    pairs = [np.asarray(row, np.int64).reshape(-1, 2) for row in steps]
    if len(pairs) != len(tokens):
        raise DataError(f"steps: {len(pairs)} lists for {len(tokens)} rollouts")
    rows = Segments.of_sizes(np.array([len(row) for row in pairs], np.int64))
    start, end = np.concatenate([*pairs, np.empty((0, 2), np.int64)]).T
    before = np.where(rows.positions > 0, np.concatenate(([0], end[:-1])), 0)
    wrong = np.flatnonzero((start < before) | (end < start) | (end > tokens.sizes[rows.ids]))
    if len(wrong):
        row = int(rows.ids[wrong[0]])
        span = (int(start[wrong[0]]), int(end[wrong[0]]))
        raise DataError(
            f"steps, row {row}: {span} must lie in its {tokens.sizes[row]} response tokens, behind the step before it"
        )
    return rows, start, end


def _runs(tokens: Segments, index: Array) -> tuple[Segments, Array, Array]:
    """The runs of equal index [T] in each row, those below 0 left out."""
    heads = np.flatnonzero((tokens.positions == 0) | (np.diff(index, prepend=index[:1]) != 0))
    tails = np.append(heads[1:], len(index))
    own = index[heads] >= 0
    heads, tails = heads[own], tails[own]
    row = tokens.ids[heads]
    rows = Segments.of_sizes(np.bincount(row, minlength=len(tokens)))
    return rows, heads - tokens.starts[row], tails - tokens.starts[row]


def _sum_in_steps(tokens: Segments, values: Array, rows: Segments, start: Array, end: Array) -> Array:
    """[S] the sum of values [T] in each step; of tokens in none, in the step before, or the row's first."""
    first = tokens.starts[rows.ids]
    owner = np.searchsorted(first + start, np.arange(len(values)), "right") - 1
    head = rows.starts[tokens.ids]
    filled = rows.sizes[tokens.ids] > 0
    owner = np.maximum(owner, head)
    return np.bincount(owner[filled], weights=values[filled], minlength=len(start))


def _rollouts(
    responses: Responses, numbers: Array, order: Array, columns: Mapping[str, Ragged | pa.Array | Array]
) -> Rollouts:
    """The rows `order` as a file would hold them, groups together."""
    tokens = responses.tokens
    held: dict[str, Any] = {
        "rollout_id": [f"r{row}" for row in order.tolist()],
        "group_id": [f"g{number}" for number in numbers[order].tolist()],
    }
    rulers: dict[str, Any] = {
        "token.id": Ragged(responses.ids, tokens.offsets).take(order),
        "token.mask": Ragged(responses.own, tokens.offsets).take(order),
    }
    for path, values in columns.items():
        if isinstance(values, Ragged):
            rulers[path] = values.take(order)
        elif isinstance(values, pa.Array):
            rulers[path] = values.take(pa.array(order))
        else:
            held[path] = values[order]
    return Rollouts(pa.table(held)).with_columns(rulers)
