"""Rollouts of environment tasks: the policy and an environment take turns, for many rollouts at once."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ....formats.schema import FIELDS, arrow_type
from ...core.seeds import derived_seed
from ...models.engine import Completion, Request
from ...tasks import Message, Problem
from ...tasks.played import Action, Environment, EnvironmentTask, Outcome
from ...tasks.played.chat import Chat
from .._steps import context_length
from ..kind import SamplingContext
from ..rows import row_seeds, to_rollouts

CUT = Outcome(observation="", valid=False)  # the outcome of a turn that was never played


class Advice(NamedTuple):
    """What the policy is told before it reads an observation. text: "" for nothing. names: for `step.advice`."""

    text: str = ""
    names: str | None = None


UNTOLD = Advice()
Advise = Callable[[str], Advice]  # from the key of the observed state


@dataclass
class Rollout:
    """One rollout while it is played. logprobs, raw: one per token, 0 for the environment's tokens; None if unknown.

    problem: index of its prompt among those played together. seed: of its samples. begun: the seed that its world was
    reset with. starts, ends, states, outcomes: one per turn, in response tokens. finish: "" while it goes on. told:
    what it was told before the coming turn. advice: the same, per turn. trace: a digest of the ids as they were
    written.
    """

    problem: int
    seed: int
    world: Environment
    begun: int
    state: str = ""
    ids: list[int] = field(default_factory=list)
    trace: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)
    raw: list[float] | None = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    told: Advice = UNTOLD
    advice: list[str | None] = field(default_factory=list)
    finish: str = ""
    error: str | None = None

    def reset(self) -> None:
        """Begin."""
        self.state = self.guarded(lambda: _key(self.world.reset(self.begun))) or ""

    def write(self, ids: Sequence[int], *, own: bool, logprobs: Any = None, raw: Any = None) -> None:
        """Append tokens. Those of the environment have log-probability 0."""
        self.ids += ids
        self.trace.update(np.asarray(ids, np.int32).tobytes())
        self.mask += [own] * len(ids)
        for name, given in (("logprobs", logprobs), ("raw", raw)):
            known = getattr(self, name)
            if known is not None and (given is not None or not own):
                known += [0.0] * len(ids) if given is None else given.tolist()
            else:
                setattr(self, name, None)

    def turn(self, start: int, state: str, outcome: Outcome) -> None:
        """Record the turn that ends with the last token."""
        self.starts.append(start)
        self.ends.append(len(self.ids))
        self.states.append(state)
        self.outcomes.append(outcome)
        self.advice.append(self.told.names)

    def guarded(self, act: Callable[[], Any]) -> Any:
        """What the environment answers; None if it raises, which ends the rollout."""
        try:
            return act()
        except Exception as error:  # an environment may raise anything; the other rollouts go on
            self.finish = "error"
            said = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            self.error = said.encode("utf-8", "backslashreplace").decode()
            return None

    def act(self, action: Action) -> Outcome | None:
        """The outcome of a turn; None if the environment raises or answers nonsense, which ends the rollout."""
        return self.guarded(lambda: _check_outcome(self.world.step(action)))

    @property
    def completion(self) -> Completion:
        """The response, including the environment's tokens."""
        logprobs, raw = (
            None if values is None else np.array(values, np.float32) for values in (self.logprobs, self.raw)
        )
        return Completion(np.array(self.ids, np.int32), logprobs, self.finish, raw, error=self.error)


def play_problems(
    context: SamplingContext, task: EnvironmentTask, *, rows_at_once: int, advise: Advise | None = None
) -> Iterator[Rollouts]:
    """n rollouts of every problem, each played until its environment is done.

    A rollout is truncated when it has used up its task's turns or the tokens of --max-tokens, which include
    observations. A turn cut off in this way is not played and earns nothing. An observation that would leave no token
    for an answer is left out. A turn that reaches the task's `turn_tokens` is ended for the policy and played.

    advise: what to tell the policy about each state; skipped if there is no room for it. The rows then have
    `step.advice`, and their prompt includes what they were told before the first turn.
    """
    chat = Chat(context.tokenizer, task.role, task.tools)
    for problems in context.portions(rows_at_once, context.n):
        yield _play_portion(context, task, chat, problems, advise)


def _play_portion(
    context: SamplingContext, task: EnvironmentTask, chat: Chat, problems: Sequence[Problem], advise: Advise | None
) -> Rollouts:
    """One group per problem, with steps, rewards and errors."""
    asked = [chat.prompt(problem.prompt) for problem in problems]
    rows: list[Rollout] = []
    for index, problem in enumerate(problems):
        for seed in row_seeds(context, problem):
            rows.append(Rollout(index, seed, _world(task, problem), derived_seed("environment", seed)))
            rows[-1].reset()
    read = asked if advise is None else _advise_first(chat, problems, asked, rows, advise, context_length(context))
    Play(context, task, chat, [ids for _, ids in read], rows, advise).play(context.meter)
    groups = [rows[first : first + context.n] for first in range(0, len(rows), context.n)]
    told = [replace(problem, prompt=messages) for problem, (messages, _) in zip(problems, asked, strict=True)]
    completions = [[rollout.completion for rollout in group] for group in groups]
    made = to_rollouts(context, told, [ids for _, ids in asked], completions).with_columns(columns_of(rows))
    if advise is not None:
        own = [read[rollout.problem] for rollout in rows]
        made = made.with_columns(
            {
                "prompt": pa.array([messages for messages, _ in own], FIELDS["prompt"].type),
                "prompt_ids": pa.array([ids for _, ids in own], FIELDS["prompt_ids"].type),
                "step.advice": pa.array([rollout.advice for rollout in rows], arrow_type("step.advice")),
            }
        )
    failed = np.array([rollout.error is not None for rollout in rows], bool)
    return made.with_flag("error", failed) if failed.any() else made


Asked = tuple[list[Message], list[int]]  # a prompt, as messages and as ids


def _advise_first(
    chat: Chat, problems: Sequence[Problem], asked: Sequence[Asked], rows: Sequence[Rollout], advise: Advise,
    context: float,
) -> list[Asked]:  # fmt: skip
    """The distinct prompts with what the rows are told; each row's `problem` becomes the index of its own prompt."""
    places: dict[tuple[int, str], int] = {}
    found: list[Asked] = []
    for rollout in rows:
        advice = advise(rollout.state)
        key = rollout.problem, advice.text
        if key not in places:
            places[key] = len(found)
            found.append(chat.prompt(problems[rollout.problem].prompt, advice.text))
            if len(found[-1][1]) >= context:
                found[-1] = asked[rollout.problem]
        if advice.text and found[places[key]] is not asked[rollout.problem]:
            rollout.told = advice
        rollout.problem = places[key]
    return found


class Play:
    """Plays rollouts side by side. prompts: what the policy reads first, one per problem."""

    def __init__(
        self, context: SamplingContext, task: EnvironmentTask, chat: Chat, prompts: Sequence[Sequence[int]],
        rows: Sequence[Rollout], advise: Advise | None = None,
    ):  # fmt: skip
        self._context, self._task, self._chat = context, task, chat
        self._context_length, self._turn_tokens = context_length(context), task.turn_tokens
        self._prompts, self._rows, self._advise = prompts, rows, advise

    def play(self, advance: Callable[[int], None]) -> None:
        """Play turn by turn, with one engine call for all rollouts that go on."""
        live = [rollout for rollout in self._rows if not rollout.finish]
        advance(len(self._rows) - len(live))
        while live:
            for rollout, completion in zip(live, self._generated(live), strict=True):
                self._take_turn(rollout, completion)
            rest = [rollout for rollout in live if not rollout.finish]
            advance(len(live) - len(rest))
            live = rest

    def _generated(self, live: Sequence[Rollout]) -> list[Completion]:
        """The next turn of each rollout. Equal prefixes, such as a group's prompt, share one request."""
        budget = self._context.sampling.max_tokens
        places: dict[tuple[int, bytes], list[int]] = {}
        for place, rollout in enumerate(live):
            places.setdefault((rollout.problem, rollout.trace.digest()), []).append(place)
        requests = [
            Request(
                prefix_ids=[*self._prompts[problem], *live[each[0]].ids],
                seeds=[self._turn_seed(live[place]) for place in each],
                max_tokens=min(budget - len(live[each[0]].ids), self._turn_tokens or budget),
                continued=True,
            )
            for (problem, _), each in places.items()
        ]
        found: dict[int, Completion] = {}
        made = self._context.engine.generate(requests, self._context.sampling)
        for each, completions in zip(places.values(), made, strict=True):
            found.update(zip(each, completions, strict=True))
        return [found[place] for place in range(len(live))]

    def _turn_seed(self, rollout: Rollout) -> int:
        turn = len(rollout.starts)
        return derived_seed(rollout.seed, turn) if turn else rollout.seed

    def _take_turn(self, rollout: Rollout, completion: Completion) -> None:
        start, state = len(rollout.ids), rollout.state
        if completion.finish_reason == "error":
            rollout.finish, rollout.error = "error", completion.error or "no completion"
            return
        rollout.write(
            completion.ids.tolist(), own=True, logprobs=completion.logprobs, raw=completion.raw_logprobs
        )  # fmt: skip
        closed = completion.finish_reason == "stop"
        ended = self._turn_tokens is not None and len(completion.ids) >= self._turn_tokens
        if completion.finish_reason == "length" and not ended:
            rollout.turn(start, state, CUT)
            rollout.finish = "length"
            return
        outcome = rollout.act(self._chat.action(rollout.ids[start:], closed=closed))
        rollout.turn(start, state, outcome or CUT)
        if outcome is None:
            return
        rollout.state = outcome.state
        if outcome.done:
            rollout.finish = "stop"
        elif len(rollout.starts) >= self._task.max_turns:
            rollout.finish = "length"
        else:
            self._answer(rollout, outcome.observation, closed=closed)

    def _answer(self, rollout: Rollout, observation: str, *, closed: bool) -> None:
        """Append what the policy reads next, without advice if there is no room for it."""
        prompt = len(self._prompts[rollout.problem])
        advice = UNTOLD if self._advise is None else self._advise(rollout.state)
        for told in (advice, UNTOLD):
            added = self._chat.added(observation, closed=closed, advice=told.text)
            length = len(rollout.ids) + len(added)
            if length < self._context.sampling.max_tokens and prompt + length < self._context_length:
                rollout.write(added, own=False)
                rollout.told = told
                return
        rollout.finish = "length"


def columns_of(rows: Sequence[Rollout]) -> dict[str, Any]:
    """{path: [R]} what is known of played rollouts besides their samples."""

    def steps(values: Callable[[Rollout], Sequence[Any]], kind: pa.DataType) -> pa.Array:
        return pa.array([list(values(rollout)) for rollout in rows], pa.list_(kind))

    rewards = [[outcome.reward for outcome in rollout.outcomes] for rollout in rows]
    return {
        "token.mask": Ragged.from_lists([rollout.mask for rollout in rows], np.bool_).to_arrow(),
        "reward": pa.array([math.fsum(each) for each in rewards], pa.float64()),
        "environment_seed": pa.array([rollout.begun for rollout in rows], pa.int64()),
        "step.start": steps(lambda rollout: rollout.starts, pa.int32()),
        "step.end": steps(lambda rollout: rollout.ends, pa.int32()),
        "step.kind": steps(lambda rollout: [outcome.kind for outcome in rollout.outcomes], pa.string()),
        "step.state": steps(lambda rollout: rollout.states, pa.string()),
        "step.reward": pa.array(rewards, pa.list_(pa.float64())),
        "step.valid": steps(lambda rollout: [outcome.valid for outcome in rollout.outcomes], pa.bool_()),
        "error": pa.array([rollout.error for rollout in rows], pa.string()),
    }


@dataclass(frozen=True)
class NoWorld:
    """Stands in for an environment that could not be made: reset raises the error again."""

    why: Exception

    def reset(self, seed: int) -> str:
        raise self.why

    def step(self, action: Action) -> Outcome:
        raise self.why


def _world(task: EnvironmentTask, problem: Problem) -> Environment:
    try:
        return task.environment(problem)
    except Exception as error:  # as in `guarded`, the other rollouts go on
        return NoWorld(error)


def _key(state: Any) -> str:
    if not isinstance(state, str):
        raise TypeError(f"reset must return the key of a state, a string, got {state!r:.60}")
    state.encode()
    return state


def _check_outcome(outcome: Any) -> Outcome:
    """The outcome in plain Python types. TypeError, ValueError (e.g. UnicodeEncodeError) if it cannot be stored."""
    if not isinstance(outcome, Outcome):
        raise TypeError(f"step must return an Outcome, got {outcome!r:.60}")
    for text in (outcome.observation, outcome.state, outcome.kind):
        if not isinstance(text, str):
            raise TypeError("step must return an observation, a state and a kind that are strings")
        text.encode()
    reward = float(outcome.reward)
    if not math.isfinite(reward):
        raise ValueError(f"step must return a finite reward, got {reward}")
    return replace(outcome, reward=reward, done=bool(outcome.done), valid=bool(outcome.valid))
