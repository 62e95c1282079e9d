"""Steps as a sequence of decisions: rewards on them, returns over them, and comparison among those that met."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...formats.errors import DataError
from ...formats.segments import Array, Segments
from . import state_groups
from .baseline import Singleton
from .batch import Credit
from .steps import Steps, on_tokens, steps_of

Rewards = Literal["outcome", "steps", "both"]
MADE_BY = {
    "step.reward": "score the steps, or --set rewards=outcome",
    "step.state": "run `apportion score IN --with states -o OUT` first",
}


@dataclass(frozen=True, eq=False)
class Decisions:
    """S steps of R rollouts in G groups, with who decided them.

    own: [S] bool, at least one token of the step was written by the policy; a step without takes part in no statistics.
    groups: steps [S] of each group. rows: steps [S] of each rollout.
    """

    steps: Steps
    own: Array
    groups: Segments

    @classmethod
    def of(cls, credit: Credit, steps: Steps) -> "Decisions":
        own = steps.end > steps.start
        if not credit.mask.all():
            written = np.concatenate(([0], np.cumsum(credit.mask, dtype=np.int64)))
            first = credit.tokens.starts[steps.rows.ids]
            own = written[first + steps.end] > written[first + steps.start]
        return cls(steps, own, steps.rows.joined(credit.groups))

    @property
    def rows(self) -> Segments:
        return self.steps.rows

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

    def handed_back(self, values: Array) -> Array:
        """[S] what fell to a step without a decision, added to the policy's step before it; 0 where there is none."""
        owner = np.maximum.accumulate(np.where(self.own, np.arange(len(values)), -1))
        decided = owner >= self.rows.spread(self.rows.starts)
        return np.bincount(owner[decided], weights=values[decided], minlength=len(values))


def on_own_tokens(credit: Credit, steps: Steps, values: Array) -> Array:
    """[T] the value of each token's step; 0 for a token in none, and for one an environment wrote. values: [S]."""
    spread = on_tokens(credit, steps, values)
    return spread if credit.mask.all() else np.where(credit.mask, spread, 0.0)


def step_column(credit: Credit, steps: Steps, path: str, remedy: str = "") -> Array:
    """[S] float64, a column on the step ruler. DataError when it is missing or of other length."""
    if path not in credit.rollouts:
        raise DataError(f"no column {path!r}; {remedy or MADE_BY.get(path, 'score the steps')}")
    values = credit.rollouts.ragged(path)
    _same_length(credit, steps, values.segments, path)
    return values.values.astype(np.float64)


def rewards_of(credit: Credit, steps: Steps, rewards: Rewards) -> Array:
    """[S] float64: the rollout's reward on its last step ("outcome"), `step.reward` ("steps"), or both added."""
    paid = np.zeros(len(steps.start))
    if rewards != "outcome":
        paid += step_column(credit, steps, "step.reward")
        if not np.isfinite(paid).all():
            row = int(steps.rows.ids[np.flatnonzero(~np.isfinite(paid))[0]])
            raise DataError(f"row {row}, column 'step.reward': expected finite numbers; score the steps again")
    if rewards != "steps":
        filled = steps.rows.sizes > 0
        paid[steps.rows.offsets[1:][filled] - 1] += credit.reward[filled]
    return paid


def token_rewards(credit: Credit, inside: Segments, rewards: Rewards) -> Array:
    """[N] float64 reward of every policy token; `inside`: the policy tokens [N] of each rollout.

    "outcome" is the rollout's reward on its last policy token; "steps" is `step.reward` on the last policy token of each
    step (of a step without one, on the last before it; on the first where there is none); "both" adds them.
    """
    out = np.zeros(int(inside.offsets[-1]))
    filled = inside.sizes > 0
    if rewards != "steps":
        out[inside.offsets[1:][filled] - 1] += credit.reward[filled]
    if rewards != "outcome":
        if "step.reward" not in credit.rollouts:  # nor, perhaps, steps
            raise DataError(f"no column 'step.reward'; {MADE_BY['step.reward']}")
        steps = steps_of(credit)
        paid, rows = rewards_of(credit, steps, "steps"), steps.rows.ids
        before = np.concatenate(([0], np.cumsum(credit.mask)))  # policy tokens before each place of the flat axis
        upto = before[credit.tokens.starts[rows] + steps.end] - before[credit.tokens.starts[rows]]
        place, live = inside.starts[rows] + np.maximum(upto - 1, 0), filled[rows]
        np.add.at(out, place[live], paid[live])
    return out


def states_of(credit: Credit, steps: Steps) -> tuple[Array, list[str]]:
    """`step.state` as [S] int64 codes, and the texts they stand for. DataError for a step without one."""
    if "step.state" not in credit.rollouts:
        raise DataError(f"no column 'step.state'; {MADE_BY['step.state']}")
    codes, texts = state_groups.states_of(credit.rollouts)
    _same_length(credit, steps, codes.segments, "step.state")
    return codes.values, texts


def _same_length(credit: Credit, steps: Steps, found: Segments, path: str) -> None:
    wrong = np.flatnonzero(found.sizes != steps.rows.sizes)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"row {row}, column {path!r}: {found.sizes[row]} values for {steps.rows.sizes[row]} steps; score it again"
        )


def remark_on_length(credit: Credit, *, rewards: Rewards = "both", **_: Any) -> str | None:
    """What to tell where the number of turns decides over the sum of a judge's rewards, with rewards="both".

    A rollout of c turns has the sum Σ r = r̄ · c + Σ (r - r̄), with r̄ the mean over all turns. It is told of where, within
    groups, the std of the first part is half that of the second at least.
    """
    if rewards != "both" or "step.reward" not in credit.rollouts:
        return None
    steps = steps_of(credit)
    decisions, reward = Decisions.of(credit, steps), step_column(credit, steps, "step.reward")
    judged = decisions.own & np.isfinite(reward)
    if not judged.any():
        return None
    mean = float(reward[judged].mean())
    length = mean * steps.rows.sum(judged)
    rest = steps.rows.sum(np.where(judged, reward - mean, 0.0))
    of_length, of_rest = (
        float(np.square(part - credit.groups.spread(credit.groups.mean(part))).sum()) for part in (length, rest)
    )
    if of_length <= 1e-12 * mean * mean or of_length < of_rest / 4:
        return None
    return (
        f"step.reward averages {mean:.3g} a turn and rollouts of a prompt differ in their number of turns, so longer ones get "
        f"{'more' if mean > 0 else 'less'} credit whatever they are worth; take the mean off step.reward first"
    )


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

    def compared(
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
