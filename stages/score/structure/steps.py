"""Steps: where one piece of reasoning ends and the next begins, in tokens."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from ....formats.errors import DataError, UsageError
from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ....formats.segments import Array, Segments
from ...core.progress import progress
from ...core.ranges import AtLeast
from ...models.recorded import RECORDED
from ...models.token_texts import TokenOffsets
from ..kind import scorer

By = Literal["newline", "blank-line", "sentence", "regex", "tag", "turn", "entropy"]
ENDS = {
    "newline": r"\n+",
    "blank-line": r"\n[ \t]*\n\s*",
    "sentence": r"[.!?][\"'”’)\]]*\s+|\n+",
    "tag": r"(?=<[A-Za-z][\w-]*>)|</[A-Za-z][\w-]*>",
}  # fmt: skip


@scorer(
    needs=("token.id", "token.mask"),
    needs_with=lambda *, by, **_: ("token.entropy",) if by == "entropy" else (),
    granularity="step",
    source="ours",
    makes=("step.start", "step.end", "step.kind"),
)
def steps(
    rollouts: Rollouts,
    *,
    by: By = "newline",
    pattern: str | None = None,
    min_tokens: Annotated[int, AtLeast(1)] = 1,
    above: float = 1.0,
    model: str = RECORDED,
) -> Mapping[str, Any]:
    """Cut every response into steps: the step ruler that step methods, `vine` and step scorers work on.

    Boundaries are found in the decoded text and moved to tokens: a token belongs to the step its first character is
    in, and one without a character of its own (an end of sequence, the first byte of a character) to the step of the
    next one, at the end to the last. Every token of the policy is in exactly one step; what an environment wrote is
    in none and ends one. Earlier steps are replaced.

    Args:
        by: a step ends after "newline" (one or more), "blank-line", "sentence" (. ! ? and space, or a newline); with
            "regex" after every match of `pattern`; with "tag" before `<name>` and after `</name>`; with "entropy"
            before each token whose `token.entropy` is `above` or more.
        pattern: for by="regex", in Python's syntax; `(?=Step \\d)` cuts before what it matches.
        min_tokens: shorter steps are joined with the one after them, the last with the one before.
        above: entropy, nat, for by="entropy".
        model: whose tokenizer decodes the tokens; "recorded" is the model that sampled the file. Not used by="entropy" and
            by="turn".

    Returns:
        {"step.start", "step.end": [start, end) in response tokens, "step.kind": "step", or "turn"}.

    Raises:
        UsageError: no pattern for by="regex", or one elsewhere; a pattern that is none. DataError: no token.entropy;
        signals that stand on earlier steps.
    """
    if (pattern is not None) != (by == "regex"):
        raise UsageError("scorer steps: pattern goes with by=regex, and only with it")
    stale = [
        path
        for path in rollouts.paths
        if path.startswith("step.") and path not in ("step.start", "step.end", "step.kind")
    ]
    if stale:
        raise DataError(f"column {stale[0]!r} stands on steps the file has already; split a file without it")
    if by == "entropy":
        begins = _uncertain(rollouts, above)
    elif by == "turn":
        begins = np.zeros(rollouts.num_tokens, bool)
    else:
        begins = _begins(rollouts, _compile(pattern if pattern is not None else ENDS[by]), model, tags=by == "tag")
    starts, ends, sizes = _spans(rollouts, begins, min_tokens)
    offsets = Segments.of_sizes(sizes).offsets
    kinds = [["turn" if by == "turn" else "step"] * size for size in sizes.tolist()]
    return {
        "step.start": Ragged(starts.astype(np.int32), offsets),
        "step.end": Ragged(ends.astype(np.int32), offsets),
        "step.kind": kinds,
    }


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"scorer steps: pattern {pattern!r}: {error}") from error


def _uncertain(rollouts: Rollouts, above: float) -> Array:
    """[T] bool, a step begins at the token."""
    entropy = rollouts.ragged("token.entropy")
    if entropy.present is not None and not entropy.present.all():
        row = int(np.flatnonzero(~entropy.present)[0])
        raise DataError(f"row {row}, column 'token.entropy': missing, expected a value per token")
    return entropy.values >= above


def _begins(rollouts: Rollouts, ends: re.Pattern[str], model: str, *, tags: bool) -> Array:
    """[T] bool, a step begins at the token: the first whose first character is at or after a boundary."""
    from ...models.policy import load_tokenizer

    texts = TokenOffsets(load_tokenizer(model), keep_special=tags)
    begins = np.zeros(rollouts.num_tokens, bool)
    with progress(len(rollouts), "steps") as advance:
        for row, first in enumerate(rollouts.tokens.starts.tolist()):
            text, starts = texts(rollouts.token_ids[row].tolist())
            boundaries = [match.end() for match in ends.finditer(text)]
            places = np.searchsorted(starts, [each for each in boundaries if 0 < each < len(text)], side="left")
            begins[first + places[places < len(starts)]] = True
            advance(1)
    return begins


def _spans(rollouts: Rollouts, begins: Array, min_tokens: int) -> tuple[Array, Array, Array]:
    """(starts [S], ends [S], steps of each rollout [R]). begins: [T] bool. Steps end where the policy's part does."""
    tokens, mask = rollouts.tokens, rollouts.mask
    head = tokens.positions == 0
    before = np.concatenate(([False], mask[:-1])) & ~head
    begins = mask & (begins | ~before)
    after = np.concatenate((mask[1:], [False]))
    last = np.concatenate((head[1:], [True]))[: len(mask)]
    closes = mask & (last | ~after)
    if min_tokens > 1:
        begins = _join_steps(begins, mask & ~before, closes, min_tokens)
    ends = closes | (mask & ~last & np.concatenate((begins[1:], [False])))[: len(mask)]
    starts, stops = np.flatnonzero(begins), np.flatnonzero(ends)
    rows = tokens.ids[starts]
    return tokens.positions[starts], tokens.positions[stops] + 1, np.bincount(rows, minlength=len(rollouts))


def _join_steps(begins: Array, opens: Array, closes: Array, min_tokens: int) -> Array:
    """[T] bool `begins` without those that would make a step shorter than `min_tokens` in its stretch."""
    kept = np.zeros(len(begins), bool)
    places = np.flatnonzero(begins)
    stops = np.flatnonzero(closes)
    stop_of = stops[np.searchsorted(stops, places)] if len(places) else places
    previous = 0
    for place, stop, is_open in zip(places.tolist(), stop_of.tolist(), opens[places].tolist(), strict=True):
        if is_open or (place - previous >= min_tokens and stop + 1 - place >= min_tokens):
            kept[place] = True
            previous = place
    return kept
