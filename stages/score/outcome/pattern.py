"""Format reward: whether a response looks as it should."""

import re
from collections.abc import Mapping

import numpy as np

from ....formats.errors import UsageError
from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ..kind import reward_column, scorer


@scorer(needs=("text",), granularity="rollout", source="ours", makes=("rewards.format",))
def pattern(
    rollouts: Rollouts,
    *,
    regex: str,
    whole: bool = True,
    reward: float = 1.0,
    otherwise: float = 0.0,
    column: str = "rewards.format",
) -> Mapping[str, Array]:
    """A reward for responses whose text matches a regular expression: a format reward beside the outcome.

    Methods that keep rewards apart (`gdpo`) read every `rewards.NAME`.

    Args:
        regex: in Python's syntax; `.` matches newlines too.
        whole: the whole text has to match; otherwise it is searched.
        reward: of a response that matches.
        otherwise: of one that does not.
        column: `rewards.NAME`, or `reward` to have no other.

    Returns:
        {column: [R] float64}.

    Raises:
        UsageError: no regular expression, or a column of another kind.
    """
    try:
        compiled = re.compile(regex, re.DOTALL)
    except re.error as error:
        raise UsageError(f"scorer pattern: regex {regex!r}: {error}") from error
    match = compiled.fullmatch if whole else compiled.search
    found = np.array([match(text or "") is not None for text in rollouts.strings("text")], bool)
    return {reward_column(column, "pattern"): np.where(found, reward, otherwise)}
