"""States: what a step began from, as a key that is equal where two rollouts stand at the same point."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ....formats.errors import DataError
from ....formats.rollouts import Rollouts
from ...models.recorded import RECORDED
from ..kind import scorer


@scorer(
    needs=("step.start", "token.id"),
    granularity="step",
    source="ours; anchor states of arXiv:2505.10978",
    evidence="code",
    makes=("step.state",),
)
def states(
    rollouts: Rollouts, *, window: Literal["prefix", "line", "tokens"] = "prefix", model: str = RECORDED
) -> Mapping[str, pa.Array]:
    """The state every step began in: the response so far, or its last line.

    Rollouts of a group whose steps have the same state can be compared there (`assign-credit --method gigpo`). A file
    with an environment brings `step.state` along; this is for responses in which the text is the state.

    Args:
        window: "prefix" is a digest of the whole text before the step; "line" the last line of it that is not blank, as
            it stands, so that rollouts which came to the same line by different ways meet again; "tokens" a digest of
            the token ids before it, which are not decoded.
        model: whose tokenizer decodes the tokens; "recorded" is the model that sampled the file. Not used by
            window="tokens".

    Returns:
        {"step.state": one text a step; a step before which there is nothing has the empty text}.

    Raises:
        DataError: rollouts without steps (`score --with steps` makes them); a tokenizer that does not give the column
            `text`.
    """
    starts = rollouts.ragged("step.start")
    pieces = _pieces(rollouts, None if window == "tokens" else model)
    found: list[list[str] | None] = []
    for row, (low, high) in enumerate(pairwise(starts.offsets.tolist())):
        if starts.present is not None and not starts.present[row]:
            found.append(None)
            continue
        own = [next(pieces) for _ in range(high - low)]
        found.append(_lines(own) if window == "line" else _digests(own))
    return {"step.state": pa.array(found, pa.list_(pa.string()))}


def _pieces(rollouts: Rollouts, model: str | None) -> Iterator[bytes]:
    """For every step, what lies between the one before it began and it begins: token ids, or their text."""
    starts = rollouts.ragged("step.start")
    ends = starts.values.astype(np.int64) + rollouts.tokens.starts[starts.segments.ids]
    begins = np.concatenate(([0], ends[:-1]))[: len(ends)]
    heads = starts.segments.positions == 0
    begins[heads] = rollouts.tokens.starts[starts.segments.ids[heads]]
    if (ends < begins).any():
        row = int(starts.segments.ids[np.flatnonzero(ends < begins)[0]])
        raise DataError(f"row {row}, column 'step.start': not ascending; run `apportion score IN --with steps` again")
    ids = rollouts.token_ids.values
    bounds = zip(begins.tolist(), ends.tolist(), strict=True)
    if model is None:
        content = ids.astype("<i4").tobytes()
        return (content[4 * begin : 4 * end] for begin, end in bounds)
    from ...models.policy import load_tokenizer

    tokenizer = load_tokenizer(model)
    _check_text(rollouts, tokenizer, model)
    texts = tokenizer.batch_decode([ids[begin:end].tolist() for begin, end in bounds], skip_special_tokens=True)
    return (text.encode() for text in texts)


def _check_text(rollouts: Rollouts, tokenizer: Any, model: str) -> None:
    """DataError when the first response does not decode to its column `text`: the file is of another model."""
    text = rollouts.arrow("text")[0].as_py() if "text" in rollouts and len(rollouts) else None
    if text is not None and tokenizer.decode(rollouts.token_ids[0].tolist(), skip_special_tokens=True) != text:
        raise DataError(
            f"row 0: the tokenizer of {model} does not give column 'text'; --set model=THE MODEL THAT SAMPLED"
        )


def _digests(pieces: list[bytes]) -> list[str]:
    found, digest, empty = [], blake2b(digest_size=16), True
    for piece in pieces:
        digest.update(piece)
        empty = empty and not piece
        found.append("" if empty else digest.hexdigest())
    return found


def _lines(pieces: list[bytes]) -> list[str]:
    found, line, current = [], "", ""
    for piece in pieces:
        *whole, current = (current + piece.decode()).split("\n")
        line = next((each.strip() for each in reversed(whole) if each.strip()), line)
        found.append(current.strip() or line)
    return found
