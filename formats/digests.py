"""What tells one rollout's tokens from another's, for joining credit back to a trainer's rows."""

import hashlib
from collections.abc import Sequence

import numpy as np

from .segments import Array


def digest_of_tokens(prompt_ids: Sequence[int] | Array, response_ids: Sequence[int] | Array) -> str:
    """32 hexadecimal digits (BLAKE2b) of a prompt's and a response's token ids, in this order.

    >>> digest_of_tokens([1, 2], [3]) == digest_of_tokens(np.array([1, 2]), (3,))
    True
    >>> digest_of_tokens([1, 2], [3]) == digest_of_tokens([1], [2, 3])
    False
    """
    hasher = hashlib.blake2b(len(prompt_ids).to_bytes(8, "little"), digest_size=16)
    for ids in (prompt_ids, response_ids):
        hasher.update(np.asarray(ids, "<i4").tobytes())
    return hasher.hexdigest()
