"""Play rollouts of --from on from one of their turns, in a restored environment."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ....formats.errors import DataError
from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ...models.engine import Completion
from ...tasks import Message, Problem
from ...tasks.played import EnvironmentTask
from ...tasks.played.chat import Chat
from ..kind import SamplingContext
from ..rows import sampled_columns
from ._interact import Play, Rollout, columns_of

NEEDS = ("environment_seed", "step.start", "step.end")


class Replay:
    """Restores the environments of a batch's rollouts to the start of a turn, and plays on from there.

    An environment begins as it did the first time, and receives the policy's turns again. It must answer, token for
    token, what is in the rollout. What it later draws by chance is what it would have drawn then.
    """

    def __init__(self, context: SamplingContext, task: EnvironmentTask, batch: Rollouts):
        for path in NEEDS:
            if path not in batch:
                raise DataError(f"no column {path!r}, which is needed to restore an environment; sample again")
        self._context, self._task, self._batch = context, task, batch
        self._chat = Chat(context.tokenizer, task.role, task.tools)
        self._names = batch.strings("rollout_id")
        self._begun = batch.arrow("environment_seed").to_pylist()
        self._starts, self._ends, self._mask = (batch.ragged(path) for path in ("step.start", "step.end", "token.mask"))
        self._signals = {
            name: batch.ragged(path) if path in batch else None
            for name, path in (("logprobs", "token.logprob"), ("raw", "token.raw_logprob"))
        }

    def play_on(
        self, rows: Sequence[int], forks: Sequence[int], seeds: Sequence[int], problems: Sequence[Problem],
        prompts: Sequence[Sequence[int]],
    ) -> list[Rollout]:  # fmt: skip
        """[M] each row's rollout up to its token `fork`, where a turn begins, continued as the policy plays it now.

        problems, prompts: [M] the row's problem, and what the policy reads before the response. DataError if an
        environment answers differently than before.
        """
        found = [
            self._at(row, fork, place, seed, problem)
            for place, (row, fork, seed, problem) in enumerate(zip(rows, forks, seeds, problems, strict=True))
        ]
        Play(self._context, self._task, self._chat, prompts, found).play(lambda _: None)
        return found

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of other messages for the policy to read first."""
        return self._chat.prompt(messages)[1]

    def _at(self, row: int, fork: int, place: int, seed: int, problem: Problem) -> Rollout:
        begun, name = self._begun[row], self._names[row]
        if begun is None:
            raise DataError(f"rollout {name!r}, column 'environment_seed': missing; sample the rollout again")
        ids = self._batch.token_ids[row].tolist()
        starts, ends = self._starts[row].tolist(), self._ends[row].tolist()
        if fork not in starts:
            raise DataError(
                f"rollout {name!r}: no turn begins at token {fork}, and an environment can be left only between turns"
            )
        found = Rollout(place, seed, self._task.environment(problem), int(begun))
        found.reset()
        for turn in range(starts.index(fork)):
            said, answered = ids[starts[turn] : ends[turn]], ids[ends[turn] : starts[turn + 1]]
            closed = self._chat.is_closed(said, answered)
            outcome = found.act(self._chat.action(said, closed=closed))
            seen = [] if outcome is None else self._chat.added(outcome.observation, closed=True)
            if outcome is None or outcome.done or answered[len(answered) - len(seen) :] != seen:
                why = found.error or "it answers differently than in the file"
                raise DataError(f"rollout {name!r}: its environment cannot be restored to turn {turn + 1} ({why})")
            found.ids = ids[: ends[turn]]
            found.turn(starts[turn], found.state, outcome)
            found.state = outcome.state
        found.ids, found.mask = [], []
        found.write(ids[:fork], own=True)
        found.mask = self._mask[row][:fork].tolist()
        for name, signal in self._signals.items():
            known = signal is not None and (signal.present is None or signal.present[row])
            setattr(found, name, signal[row][:fork].tolist() if signal is not None and known else None)
        return found


def reward_of(rollout: Rollout) -> float:
    """The total reward of its turns, including those before the fork."""
    return math.fsum(outcome.reward for outcome in rollout.outcomes)


def completion_after(rollout: Rollout, fork: int) -> Completion:
    """The response from its token `fork` on, including what the environment wrote."""
    whole = rollout.completion
    logprobs, raw = (None if each is None else each[fork:] for each in (whole.logprobs, whole.raw_logprobs))
    return Completion(whole.ids[fork:], logprobs, whole.finish_reason, raw, error=whole.error)


def observed_after(played: Sequence[Rollout], forks: Sequence[int]) -> dict[str, pa.Array]:
    """{path: [M]} what is known of continued rollouts besides their samples: steps, rewards, errors.

    The mask is false before the fork and on the environment's tokens.
    """
    columns = columns_of(played)
    mask = Ragged.from_arrow(columns["token.mask"])
    after = mask.segments.positions >= mask.segments.spread(np.asarray(forks, np.int64))
    return columns | {"token.mask": mask.with_values(mask.values & after).to_arrow()}


def columns_after(
    context: SamplingContext,
    played: Sequence[Rollout],
    forks: Sequence[int],
    *,
    purpose: str,
    flags: tuple[str, ...] = (),
) -> dict[str, pa.Array]:
    """{path: [M]} of continued rollouts. Before the fork, the mask is false and log-probabilities are 0. A fork of 0 leaves
    nothing out."""
    made = [completion_after(rollout, fork) for rollout, fork in zip(played, forks, strict=True)]
    prefixes = [rollout.ids[:fork] for rollout, fork in zip(played, forks, strict=True)]
    seeds = [rollout.seed for rollout in played]
    columns = sampled_columns(context, prefixes, made, seeds, purpose=purpose, flags=flags)
    return columns | observed_after(played, forks)
