"""What adapters of trainers with tensors share: rows without padding and back, their credit, and the figures for a log.

A row is a 1-D array or tensor of one response, from its first token after the prompt on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...formats.segments import Array
from ..assign_credit import CreditInfo, TokenCredit


def unpad(values: Any, inside: Any) -> list[Any]:
    """A CPU tensor for each row of values [B, L]: those of its places that lie inside [B, L]."""
    return [row[chosen] for row, chosen in zip(values.detach().cpu(), inside.cpu(), strict=True)]


def repad(rows: Sequence[Any], inside: Any) -> Any:
    """float32 [B, L] with the rows' values in the places inside, 0 in the others."""
    import torch

    padded = torch.zeros(inside.shape, dtype=torch.float32, device=inside.device)
    padded[inside] = torch.cat([*rows]).to(padded)
    return padded


def credit_rows(credit: TokenCredit, ids: Sequence[Any], own: Sequence[Any], **batch: Any) -> tuple[Any, CreditInfo]:
    """`TokenCredit.with_info` of rows that have no padding, whatever their lengths and whoever wrote their first tokens."""
    sizes = {len(row) for row in ids}
    # Rows of one length are read as padded on the right, unless it is said that they are not.
    lengths = [len(row) for row in ids] if len(sizes) == 1 else None
    return credit.with_info(token_ids=ids, mask=own, lengths=lengths, **batch)


def paid_in_turns(paid: Array, own: Array) -> list[float]:
    """What was paid [T] in each run of own [T] tokens and behind it; what was paid before the first belongs to that."""
    heads = np.flatnonzero(own & ~np.append(False, own[:-1]))
    return np.add.reduceat(paid, [0, *heads[1:]]).tolist() if len(heads) else []


def shares(info: CreditInfo) -> dict[str, float]:
    """The figures for a log: of groups that are dead, of groups of one, and of the policy's tokens with a credit other than 0."""
    groups, tokens = max(info.groups, 1), max(info.tokens, 1)
    return {
        "credit/dead_groups": info.dead_groups / groups,
        "credit/singletons": info.singletons / groups,
        "credit/tokens": info.credited / tokens,
    }
