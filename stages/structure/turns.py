"""Steps as a sequence of decisions: rewards on them, returns over them, and comparison among those that met."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array, Segments
from ..core.remedies import remedy
from .baseline import Singleton
from .steps import Steps

Rewards = Literal["outcome", "steps", "both"]


@dataclass(frozen=True, eq=False)
class Decisions:
    """S steps of R rollouts in G groups, with who decided them.

    own: [S] bool, at least one token of the step was written by the policy; a step without takes part in no statistics.
    groups: rollouts [R] of each group. tokens: response tokens [T] of each rollout. mask: [T] bool, the policy wrote it.
    """

    steps: Steps
    own: Array
    groups: Segments
    tokens: Segments
    mask: Array

    @classmethod
    def of(cls, steps: Steps, groups: Segments, tokens: Segments, mask: Array) -> "Decisions":
        own = steps.end > steps.start
        if not mask.all():
            written = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))
            first = tokens.starts[steps.rows.ids]
            own = written[first + steps.end] > written[first + steps.start]
        return cls(steps, own, groups, tokens, mask)

    @classmethod
    def of_sizes(cls, sizes: Sequence[Sequence[int]], groups: Segments | None = None) -> "Decisions":
        """Steps that the policy wrote, by hand. sizes: tokens of each step, a list for each rollout. groups: one, if None."""
        steps, lengths = Steps.of_sizes(sizes), np.array([sum(row) for row in sizes], np.int64)
        groups = Segments.of_sizes(np.array([len(sizes)])) if groups is None else groups
        return cls.of(steps, groups, Segments.of_sizes(lengths), np.ones(int(lengths.sum()), bool))

    @property
    def rows(self) -> Segments:
        return self.steps.rows

    @property
    def group(self) -> Array:
        """[S] the group of each step."""
        return self.groups.ids[self.rows.ids]

    @cached_property
    def index(self) -> Array:
        """[S] int64: how many steps of the policy's came before in the rollout."""
        return (self.rows.cumsum(self.own) - self.own).astype(np.int64)

    def discounts(self, gamma: float) -> Array:
        """[S] the factor from a step to the next: gamma where the policy decides again, 1 where it only looks on."""
        return np.where(np.append(self.own[1:], True), gamma, 1.0)

    def returns(self, rewards: Array, gamma: float) -> Array:
        """[S] Σ_{k>=t} gamma^(k-t) r_k inside the rollout, k counted in steps of the policy's. rewards: [S]."""
        return self.rows.discounted(rewards, self.discounts(gamma))

    def hand_back(self, values: Array) -> Array:
        """[S] what fell to a step without a decision, added to the policy's step before it; 0 where there is none."""
        owner = np.maximum.accumulate(np.where(self.own, np.arange(len(values)), -1))
        decided = owner >= self.rows.spread(self.rows.starts)
        return np.bincount(owner[decided], weights=values[decided], minlength=len(values))

    def on_tokens(self, values: Array, steps: Steps | None = None) -> Array:
        """[T] the value of each token's step; 0 for a token in none, and for one an environment wrote. values: [S].

        steps: where the steps' own tokens are, if not all of them are theirs.
        """
        spread = (steps or self.steps).on_tokens(self.tokens, values)
        return spread if self.mask.all() else np.where(self.mask, spread, 0.0)


def step_rewards(steps: Steps, reward: Array, step_reward: Array | None, rewards: Rewards) -> Array:
    """[S] float64: the rollout's reward [R] on its last step ("outcome"), `step_reward` [S] ("steps"), or both added.

    >>> step_rewards(Steps.of_sizes([[1, 1], [1]]), np.array([1.0, 2.0]), np.array([0.5, 0.0, 0.25]), "both").tolist()
    [0.5, 1.0, 2.25]
    """
    paid = np.zeros(len(steps.start))
    if rewards != "outcome":
        if step_reward is None:
            raise DataError(f"no column 'step.reward'; {remedy('step.reward')}")
        paid += step_reward
        if not np.isfinite(paid).all():
            row = int(steps.rows.ids[np.flatnonzero(~np.isfinite(paid))[0]])
            raise DataError(f"row {row}, column 'step.reward': expected finite numbers; score the steps again")
    if rewards != "steps":
        filled = steps.rows.sizes > 0
        paid[steps.rows.offsets[1:][filled] - 1] += reward[filled]
    return paid


def token_rewards(
    reward: Array, tokens: Segments, mask: Array, steps: Steps | None, step_reward: Array | None, rewards: Rewards
) -> tuple[Array, Segments]:
    """[N] float64 reward of every token that the policy wrote, and those tokens of each rollout.

    "outcome" is the rollout's reward [R] on its last policy token; "steps" is `step_reward` [S] on the last policy token of
    each step (of a step without one, on the last before it; on the first where there is none); "both" adds them.
    """
    inside = tokens if mask.all() else Segments.of_sizes(tokens.sum(mask))
    out = np.zeros(int(inside.offsets[-1]))
    filled = inside.sizes > 0
    if rewards != "steps":
        out[inside.offsets[1:][filled] - 1] += reward[filled]
    if rewards != "outcome":
        if steps is None:
            raise DataError(f"no column 'step.start'; {remedy('step.start')}")
        paid, rows = step_rewards(steps, reward, step_reward, "steps"), steps.rows.ids
        before = np.concatenate(([0], np.cumsum(mask)))  # policy tokens before each place of the flat axis
        upto = before[tokens.starts[rows] + steps.end] - before[tokens.starts[rows]]
        place, live = inside.starts[rows] + np.maximum(upto - 1, 0), filled[rows]
        np.add.at(out, place[live], paid[live])
    return out, inside


def reward_columns(*, rewards: str, **_: Any) -> tuple[str, ...]:
    """What a method needs for its option `rewards`, beside the rollouts' own rewards."""
    return ("step.start", "step.end", "step.reward") if rewards in ("steps", "both") else ()


@dataclass(frozen=True, eq=False)
class Siblings:
    """N values sorted into sets of which each is compared with the others of its own. keys: [N] equal in one set."""

    order: Array
    sets: Segments

    @classmethod
    def of(cls, *keys: Array) -> "Siblings":
        """The sets of those that agree in every key, wherever they stand."""
        order = np.lexsort(keys)
        changed = np.zeros(len(order), bool)
        for key in keys:
            changed[1:] |= np.diff(key[order]) != 0
        return cls(order, Segments.of_runs(np.cumsum(changed)))

    def compare(
        self,
        values: Array,
        scale: Literal["std", "none"],
        ddof: int,
        eps: float,
        singleton: Singleton = "zero",
        owner: Array | None = None,
    ) -> Array:
        """[N] value - mean of its set, over its std + eps with scale="std"; exactly 0 in a set of equal values.

        owner: [N] whose value it is; the mean is then over the values that others have in the set (leave-one-out). A value
        without any other to be compared with gets 0, itself or a DataError, as `singleton` says.
        """
        values = values[self.order]
        sets = self.sets
        mean, alone = sets.spread(sets.mean(values)), sets.spread(sets.sizes == 1)
        if owner is not None:
            mean, alone = self._of_others(values, owner[self.order])
        result = np.where(sets.spread(sets.constant(values)) | alone, 0.0, values - mean)
        if scale == "std":
            result = result / (sets.spread(sets.std(values, ddof=ddof)) + eps)
        if singleton != "zero" and alone.any():
            if singleton == "error":
                raise DataError("a step or rollout has no sibling to be compared with; sample more, or singleton=zero")
            result = np.where(alone, values, result)
        out = np.empty(len(values))
        out[self.order] = result
        return out

    def _of_others(self, values: Array, owner: Array) -> tuple[Array, Array]:
        """([N] mean of what others have in the set, [N] bool whether there is nothing), both in sorted order."""
        sets = self.sets
        own = np.unique(sets.ids * (owner.max(initial=0) + 1) + owner, return_inverse=True)[1]
        total = sets.spread(sets.sum(values)) - np.bincount(own, weights=values)[own]
        count = sets.spread(sets.sizes) - np.bincount(own)[own]
        return total / np.maximum(count, 1), count == 0


def selection_probabilities(advantage: Array, eta: float = 0.7) -> Array:
    """[k] the chance of each candidate to be the one that is continued: softmax(advantage / eta).

    advantage: [k], in standard deviations. eta: temperature; 0 or less always takes the best, of equal ones the first.

    >>> selection_probabilities(np.array([1.0, 1.0, -1.0])).round(4).tolist()
    [0.486, 0.486, 0.0279]
    >>> selection_probabilities(np.array([0.0, 1.0, 1.0]), eta=0.0).tolist()
    [0.0, 1.0, 0.0]
    """
    if eta <= 0:
        return (np.arange(len(advantage)) == np.argmax(advantage)).astype(np.float64)
    weight = np.exp((advantage - advantage.max()) / eta)
    return weight / weight.sum()
