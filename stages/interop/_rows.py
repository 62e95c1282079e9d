"""Rows that an adapter takes from a trainer's own objects, one after the other, and the credit of their tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...formats.errors import DataError, UsageError
from ..assign_credit import TokenCredit
from ._seam import credit_rows

SPANS = ("step.start", "step.end")


def credit_for(
    trainer: str, method: str, preset: str | None, options: Mapping[str, Any], *, has: Sequence[str]
) -> TokenCredit:
    """The method with its options. has: the columns that the trainer can fill; "rewards." stands for all that begin so.

    UsageError for a method that needs another.
    """
    credit = TokenCredit(method, preset=preset, **options)
    any_of = ("node.", *(path for path in has if path.endswith(".")))
    lacking = [path for path in credit.needs if path not in has and not path.startswith(any_of)]
    if lacking:
        raise UsageError(f"credit method {method} needs {lacking[0]!r}, which {trainer} does not have")
    return credit


def as_numpy(values: Any) -> Any:
    """A tensor from wherever it is, a list or an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


@dataclass
class Rows:
    """Responses for one call of a credit method.

    A row whose reward is None or NaN takes no part: it counts nowhere and gets 0.
    """

    credit: TokenCredit
    ids: list[list[int]] = field(default_factory=list[list[int]])
    own: list[list[bool]] = field(default_factory=list[list[bool]])
    rewards: list[float] = field(default_factory=list[float])
    skipped: list[bool] = field(default_factory=list[bool])
    groups: list[str] = field(default_factory=list[str])
    episodes: list[str] = field(default_factory=list[str])
    spans: list[list[tuple[int, int]]] = field(default_factory=list[list[tuple[int, int]]])
    signals: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    def add(
        self,
        ids: Sequence[int],
        own: Sequence[bool],
        *,
        reward: float | None,
        group: object,
        episode: object = None,
        spans: Sequence[tuple[int, int]] = (),
        skip: bool = False,
        signals: Mapping[str, Sequence[Any] | None] | None = None,
    ) -> int:
        """Takes a row and gives its place.

        ids, own: the response's tokens, and whether the policy wrote each. episode: equal for rows that are parts of one. spans:
        its steps; without any in the batch, each run of the policy's tokens is one. signals: more columns, of which those are
        read that the method needs.
        """
        place = len(self.ids)
        self.ids.append(list(ids))
        self.own.append(list(own))
        unknown = reward is None or math.isnan(reward)
        self.skipped.append(skip or unknown)
        self.rewards.append(0.0 if reward is None or unknown else float(reward))
        self.groups.append(str(group))
        self.episodes.append(f"row {place}" if episode is None else f"episode {episode}")
        self.spans.append(list(spans))
        for path, values in (signals or {}).items():
            if path in self.credit.needs or path == "token.trainable":
                if values is None:
                    raise DataError(f"credit method {self.credit.method.name} needs {path!r}, and row {place} has none")
                self.signals.setdefault(path, []).append(list(values))
        return place

    def found(self) -> list[list[float]]:
        """The credit of every token of every row."""
        if not self.ids:
            return []
        steps: Any = None
        if "step.start" in self.credit.needs:
            steps = self.spans if any(self.spans) else "mask"
        found, _ = credit_rows(
            self.credit,
            self.ids,
            self.own,
            reward=self.rewards,
            group=self.groups,
            steps=steps,
            skip=self.skipped,
            episode=self.episodes,
            signals=self.signals,
        )
        return found
