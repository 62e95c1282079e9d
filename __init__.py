"""apportion: divide the reward of a language model's rollouts among the tokens, steps and branches that earned it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .formats.reading import RolloutSet

__version__ = "0.1.0"


def open(path: "str | Path") -> "RolloutSet":
    """The rollouts of a file, or of all files of a directory: `apportion.open("rollouts.parquet")` (docs/python.md).

    UsageError for a path that is not there, DataError for what is no rollout file.
    """
    from .formats.reading import open_rollouts

    return open_rollouts(path)
