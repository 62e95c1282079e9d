"""What `diff` finds: credits of the same rollouts, in numbers and in the rollouts where two differ most."""

from dataclasses import dataclass

from .agreement import Agreement


@dataclass(frozen=True)
class Disagreement:
    """A rollout in which two credits differ: its tokens with both. None: not assigned, or not the policy's token.

    mean_difference: over its compared tokens, of the credits as scaled over the whole file.
    """

    rollout_id: str
    group_id: str
    reward: float | None
    mean_difference: float
    same_sign: float
    ids: list[int]
    texts: list[str]
    first: list[float | None]
    second: list[float | None]


@dataclass(frozen=True)
class Difference:
    """What two credits of the same rollouts differ in. first_unassigned, second_unassigned: tokens of the policy without credit on that side."""

    first: str
    second: str
    columns: tuple[str, str]
    rollouts: int
    only_first: int
    only_second: int
    first_unassigned: int
    second_unassigned: int
    tokens: Agreement
    by_rollout: Agreement
    most: list[Disagreement]
    scales: tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two columns of one file, compared where both assign credit."""

    columns: tuple[str, str]
    tokens: Agreement
    by_rollout: Agreement


@dataclass(frozen=True)
class Differences:
    """What the columns of one file differ in, every pair of them. unassigned: tokens of the policy without credit, of each column."""

    file: str
    columns: list[str]
    rollouts: int
    unassigned: list[int]
    pairs: list[Pair]
