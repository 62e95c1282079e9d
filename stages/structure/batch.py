"""A batch as credit sees it: whole groups as flat arrays, and the probes that belong to them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...formats.errors import DataError
from ...formats.flags import ERROR, TRUNCATED
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..core.remedies import remedy
from .ancestry import Ancestry
from .nodes import Nodes, forks_of
from .prefixes import Prefixes
from .steps import Steps, StepTexts, encode_texts
from .turns import Decisions


@dataclass(frozen=True, eq=False)
class Credit:
    """What a method sees: whole groups as flat arrays. R rollouts, T response tokens, S steps, G groups.

    What stands for a column of its own is None where the file lacks the column; a method says in `needs` what it cannot do
    without.
    """

    rollouts: Rollouts
    probe_rollouts: Rollouts | None = None

    @property
    def paths(self) -> set[str]:
        """The columns of the rollouts and of their probes."""
        return {*self.rollouts.paths, *(self.probe_rollouts.paths if self.probe_rollouts is not None else ())}

    @property
    def groups(self) -> Segments:
        """Rollouts [R] of each group."""
        return self.rollouts.groups

    @property
    def tokens(self) -> Segments:
        """Response tokens [T] of each rollout."""
        return self.rollouts.tokens

    @property
    def mask(self) -> Array:
        """[T] bool, the policy wrote the token, and it is trained here."""
        return self.rollouts.trainable

    @property
    def truncated(self) -> Array:
        """[R] bool, the response ended at the token limit."""
        return self.rollouts.flagged(TRUNCATED)

    @property
    def length(self) -> Array:
        """[R] tokens of the response that the policy wrote."""
        return self.tokens.sum(self.mask)

    @cached_property
    def reward(self) -> Array:
        """[R] float64. DataError for a rollout without a (finite) reward."""
        reward = self.rollouts.numbers("reward").astype(np.float64)
        wrong = ~np.isfinite(reward)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            name = self.rollouts.arrow("rollout_id")[row].as_py()
            raise DataError(
                f"row {row}, column 'reward': {reward[row]} for rollout {name!r}; score it again, or drop it with its group"
            )
        return reward

    @cached_property
    def rewards(self) -> dict[str, Array]:
        """{NAME: [R] float64} of the columns rewards.NAME."""
        paths = [path for path in self.rollouts.paths if path.startswith("rewards.")]
        return {path.removeprefix("rewards."): self.rollouts.numbers(path).astype(np.float64) for path in paths}

    @cached_property
    def fork(self) -> Array:
        """[R] int64 response tokens that each rollout carries from the one it left; 0 where it left none."""
        return forks_of(self.rollouts)

    @cached_property
    def greedy(self) -> Array:
        """[R] mean reward of the probes of the same group that were sampled from the prompt at temperature 0; NaN where there
        are none. DataError for one without a reward."""
        return self.groups.spread(_greedy_rewards(self.rollouts, self.probe_rollouts))

    @cached_property
    def memory(self) -> dict[str, Array]:
        """{NAME: [R] float64} of the columns problem.NAME: what earlier iterations showed of the problem, NaN for nothing."""
        paths = [path for path in self.rollouts.paths if path.startswith("problem.")]
        return {
            path.removeprefix("problem."): self.rollouts.numbers(path).astype(np.float64)
            for path in paths
            if pa.types.is_floating(self.rollouts.arrow(path).type)
        }

    @cached_property
    def ancestry(self) -> Ancestry | None:
        """Which rollout each one left, and where."""
        return Ancestry.of(self.rollouts) if "parent_id" in self.rollouts and "fork" in self.rollouts else None

    @cached_property
    def probes(self) -> "Probes":
        """What was sampled only to estimate values and continues one of the R rollouts; never among them. DataError for one
        without a finite reward or a fork."""
        return Probes.of(self.rollouts, self.probe_rollouts)

    @cached_property
    def prefixes(self) -> Prefixes:
        """Which beginnings of a group's responses are the same."""
        return Prefixes(self.rollouts.token_ids.values, self.tokens, self.groups)

    @cached_property
    def nodes(self) -> Nodes:
        """The trees of the node ruler. DataError for a rollout without it."""
        return Nodes.of(self.rollouts)

    @cached_property
    def steps(self) -> Steps | None:
        """The step ruler. DataError for a rollout without steps."""
        return Steps.of(self.rollouts) if "step.start" in self.rollouts else None

    @cached_property
    def decisions(self) -> Decisions:
        """The steps, with who decided them. DataError for a file or a rollout without steps."""
        if self.steps is None:
            raise DataError(f"no column 'step.start'; {remedy('step.start')}")
        return Decisions.of(self.steps, self.groups, self.tokens, self.mask)

    @cached_property
    def step_reward(self) -> Array | None:
        """[S] float64, NaN for a step that was not judged."""
        return self.numbers("step.reward")

    @cached_property
    def step_valid(self) -> Array | None:
        """[S] float64, 1 for an action that was valid."""
        return self.numbers("step.valid")

    @cached_property
    def step_search_value(self) -> Array | None:
        """[S] what a tree search thought of each step."""
        return self.numbers("step.search_value")

    @cached_property
    def step_state(self) -> StepTexts | None:
        """The state that each step began in. DataError for a step without one."""
        return self._texts("step.state")

    @cached_property
    def step_kind(self) -> StepTexts | None:
        """What each step is: "turn", "step", "answer" … DataError for a step without one."""
        return self._texts("step.kind")

    @cached_property
    def logprob(self) -> Array | None:
        """[T] log-probability of the token when it was sampled, nat. DataError where one is missing."""
        return self.numbers("token.logprob")

    @cached_property
    def entropy(self) -> Array | None:
        """[T] entropy of the distribution that the token was drawn from, nat. DataError where one is missing."""
        return self.numbers("token.entropy")

    def numbers(self, path: str) -> Array | None:
        """A column as float64: [T] of the token ruler, [S] of the step ruler, else [R]. None where the file lacks it.

        DataError for a value that is missing or not finite, but on the step ruler, where NaN means that nothing is known.
        """
        if path not in self.rollouts:
            return None
        if path.startswith("token."):
            return token_signal(self.rollouts, path)
        if path.startswith("step."):
            return self.decisions.steps.column(self.rollouts, path)
        values = self.rollouts.numbers(path).astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(f"row {row}, column {path!r}: expected a finite number, got {values[row]}")
        return values

    def _texts(self, path: str) -> StepTexts | None:
        if path not in self.rollouts:
            return None
        codes, texts = encode_texts(self.rollouts, path)
        self.decisions.steps.check_length(codes.segments, path)
        return StepTexts(codes.values, texts)


def _greedy_rewards(rollouts: Rollouts, probes: Rollouts | None) -> Array:
    """[G] mean reward of each group's greedy rollouts, NaN where there are none."""
    groups = rollouts.groups
    if probes is None or "temperature" not in probes or "reward" not in probes:
        return np.full(len(groups), np.nan)
    greedy = probes.numbers("temperature").astype(np.float64) == 0
    if "parent_id" in probes:
        whole = np.asarray(probes.arrow("parent_id").is_null())
        greedy &= whole | (probes.arrow("fork").to_numpy(zero_copy_only=False) == 0) if "fork" in probes else whole
    heads, theirs = (each.arrow("group_id").cast(pa.string()) for each in (rollouts, probes))
    found = pc.call_function("index_in", [theirs], pc.SetLookupOptions(value_set=heads.take(pa.array(groups.starts))))
    group = found.fill_null(-1).to_numpy(zero_copy_only=False)
    chosen = np.flatnonzero(greedy & (group >= 0))
    reward = probes.numbers("reward").astype(np.float64)[chosen]
    if not np.isfinite(reward).all():
        name = probes.strings("rollout_id")[int(chosen[np.flatnonzero(~np.isfinite(reward))[0]])]
        raise DataError(f"greedy rollout {name!r}: no finite reward; score the file again")
    counts = np.bincount(group[chosen], minlength=len(groups))
    sums = np.bincount(group[chosen], weights=reward, minlength=len(groups))
    return sums / np.where(counts, counts, np.nan)


def token_signal(rollouts: Rollouts, path: str) -> Array:
    """[T] float64, a column of the token ruler. DataError where it is missing or not finite."""
    signal = rollouts.ragged(path)
    absent = np.zeros(len(signal), bool) if signal.present is None else ~signal.present
    if absent.any():
        raise DataError(f"row {int(np.flatnonzero(absent)[0])}, column {path!r}: missing, expected a value per token")
    if len(signal.values) != rollouts.num_tokens:
        raise DataError(f"column {path!r}: {len(signal.values)} values for {rollouts.num_tokens} tokens")
    values = signal.values.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) & rollouts.mask)
    if len(wrong):
        row = int(rollouts.tokens.ids[wrong[0]])
        raise DataError(f"row {row}, column {path!r}: expected a finite number, got {values[wrong[0]]}")
    return values


@dataclass(frozen=True, eq=False)
class Probes:
    """K continuations (`purpose: probe`), each from a prefix of one of the R rollouts.

    parent: [K] int, the rollout it continues. fork: [K] int, response tokens of the parent it begins with. reward: [K]
    float64. truncated: [K] bool, it ended at the token limit.
    """

    parent: Array
    fork: Array
    reward: Array
    truncated: Array

    @classmethod
    def of(cls, rollouts: Rollouts, probes: Rollouts | None) -> "Probes":
        """Matched by `parent_id`; probes of rollouts that are not there are left out."""
        if probes is None or len(probes) == 0:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, bool))
        for needed in ("parent_id", "fork", "reward"):
            if needed not in probes:
                raise DataError(f"column {needed!r}: missing, and rollouts whose purpose is probe need it")
        names, parents = (each.cast(pa.string()) for each in (rollouts.arrow("rollout_id"), probes.arrow("parent_id")))
        found = pc.call_function("index_in", [parents], pc.SetLookupOptions(value_set=names))
        parent = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        own = np.flatnonzero(parent >= 0)
        fork, reward = probes.numbers("fork")[own], probes.numbers("reward").astype(np.float64)[own]
        wrong = ~np.isfinite(reward) | ~np.isfinite(fork.astype(np.float64))
        if wrong.any():
            name = probes.strings("rollout_id")[int(own[np.flatnonzero(wrong)[0]])]
            raise DataError(f"probe {name!r}: no finite reward or no fork; score the file again")
        sizes = rollouts.tokens.sizes[parent[own]]
        if ((fork < 0) | (fork > sizes)).any():
            place = int(np.flatnonzero((fork < 0) | (fork > sizes))[0])
            name = probes.strings("rollout_id")[int(own[place])]
            raise DataError(
                f"probe {name!r}: fork {fork[place]:g} must be between 0 and {sizes[place]}, its parent's length"
            )
        return cls(parent[own], fork.astype(np.int64), reward, probes.flagged("truncated")[own])


def credit_of_batch(batch: Rollouts) -> tuple[Credit, Array]:
    """What a method sees of a batch, and the rows [R] bool that it is about: all but probes, evals and failed ones."""
    trained, probes = _by_purpose(batch)
    if trained is None:
        return Credit(batch), np.ones(len(batch), bool)
    own = batch.take(np.flatnonzero(trained))
    return Credit(own, batch.take(np.flatnonzero(probes))), trained


def _by_purpose(batch: Rollouts) -> tuple[Array | None, Array]:
    """[R] bool: rows to credit (None: all of them), and probes. Rows flagged `error` are neither."""
    failed = batch.flagged(ERROR)
    trained, probe = ~failed, np.zeros(len(batch), bool)
    if "purpose" in batch:
        purpose = batch.arrow("purpose").cast(pa.string())
        probe, evaluated = (
            pc.call_function("equal", [purpose, pa.scalar(each)]).fill_null(False).to_numpy(zero_copy_only=False)
            & ~failed
            for each in ("probe", "eval")
        )
        if (trained & ~evaluated).any():  # a file of nothing but evals was asked for by name
            trained = trained & ~(probe | evaluated)
    return (None if trained.all() else trained), probe
