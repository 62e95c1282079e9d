"""GroundedPRM's sampling: a tree search over steps, with every step verified."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ....formats.errors import UsageError
from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ....formats.schema import Field
from ....formats.segments import Segments
from ...core.ranges import AtLeast, Between
from ...models.engine import Completion, Request
from ...structure.simulations import simulation_values
from ...tasks import Problem
from .._questions import ask_policy, question_of, truth_of
from .._steps import ANSWER, STEP, Step, generate_steps, head, is_over, join, mark_cut, step_columns, step_ends
from ..kind import SamplingContext, strategy
from ._forest import Forest, ForestRow
from ._search_tree import Node, SearchTree, uct

VERIFY = """\
Question:
{question}

Work so far:
{before}

Next step:
{step}

Is every fact and calculation of the next step correct? Answer as JSON: {{"reason": one sentence, "result": true or \
false}}"""
TRIES = 5


class Claim(NamedTuple):
    """A step to verify: [start, end) of a problem's response."""

    problem: int
    ids: np.ndarray
    start: int
    end: int


Place = tuple[int, Node]  # a problem, and a step in its tree
Verifier = Callable[[Forest, Sequence[Claim]], list[float]]


SEARCH_VALUE = Field("step.search_value", pa.float64(), "value that the search has of the step", "reward")


@strategy(
    source="arXiv:2510.14942 (GroundedPRM)",
    evidence="code",
    makes=("parent_id", "fork", "reward", "step.start", "step.end", "step.kind", "step.reward", SEARCH_VALUE),
    verifies=True,
    system=("GroundedPRM",),
)
def mcts(
    context: SamplingContext,
    *,
    rounds: Annotated[int, AtLeast(1)] = 8,
    children: Annotated[int, AtLeast(1)] = 3,
    depth: Annotated[int, AtLeast(1)] = 5,
    select: Literal["uct", "random_child"] = "uct",
    exploration: Annotated[float, AtLeast(0)] = math.sqrt(2),
    decay: Annotated[float, Between(0, 1)] = 0.9,
    enough: Annotated[int, AtLeast(0)] = 3,
    outcome_weight: Literal["1/N"] | float = "1/N",
    correct_above: float = 0.0,
    pool: Literal["sum", "mean"] = "sum",
    verify_steps: Literal["auto", "task", "policy"] = "auto",
    verify_temperature: Annotated[float, AtLeast(0)] = 0.6,
    verify_tokens: Annotated[int, AtLeast(1)] = 256,
    stop: Sequence[str] = ("\n",),
    step_tokens: Annotated[int | None, AtLeast(1)] = None,
    rows_at_once: Annotated[int, AtLeast(1)] = 1024,
) -> Iterator[Rollouts]:
    """Tree search over verified steps; every simulation is a rollout (GroundedPRM).

    Each round does the following for every prompt. 1. It selects a step of the tree. 2. The step gets `children` next
    steps, and the one with the largest value among those not yet simulated (the first of several) is taken. 3. From
    there the response is sampled on for at most `depth` steps, its virtual steps. 4. Those steps are verified, v = +1,
    -1 or 0, and so is the answer, F = +1 or -1. 5. The result of the simulation goes to the step where it began and,
    with decay, to those before it:

        final     = 1/N · Σ_{j=1..N} v_j · (N - j + 1)/N + F/max(N, 1)     v_1 … v_N: virtual steps without the last
        value(x) += decay^d · final                                          d steps before it began; counts a visit, d > 0
        uct(x)    = value(x)/max(1, visits(x)) + exploration · sqrt(ln(visits(parent) + 1) / (visits(x) + 1))

    A prompt gets at most `rounds` rollouts, one per simulation; -n is not used. A rollout that continues from a step of
    an earlier one branches off there (`parent_id`, `fork`). The step ruler has all its steps. `step.reward` has their
    v, and F for the last virtual step; `reward` is the verifier's. `step.search_value` is the final state of the
    search: value(x) for steps of the tree, v or F for virtual ones. `assign-credit --method groundedprm` gives it as
    credit, and its sign is the paper's label. A next step that the engine failed to make is left out. If the engine
    made none, the rollout of that round ends there, flagged `error`.

    Args:
        rounds: simulations per prompt.
        children: next steps to sample at once.
        depth: virtual steps of a simulation; one that needs more is flagged truncated.
        select: "uct" descends to the leaf with the largest uct (paper); "random_child" takes one of the prompt's own
            next steps, whatever their value (released code).
        exploration: weight of the exploration term in uct, see above.
        decay: factor per step, 0 to 1.
        enough: a prompt is done with this many complete right responses and as many complete wrong ones; 0 does all
            rounds.
        outcome_weight: weight of F, "1/N" as above or a number.
        correct_above: an answer is right if its reward is above this.
        pool: `step.search_value` of a step of the tree: the "sum" above (released code), which grows with the number of
            simulations below the step, or their "mean".
        verify_steps: "task" asks the task. "policy" asks the policy, up to 5 times if it says neither true nor false.
            "auto" asks the task if it can verify steps.
        verify_temperature: temperature of the policy's answers about a step.
        verify_tokens: token budget of such an answer. A question beyond the policy's context is refused.
        stop: texts that end a step; it ends with the token that completes one.
        step_tokens: a step of the tree ends when it has this many tokens; None is --max-tokens, which limits the whole
            response.
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.

    Raises:
        UsageError: an option out of range; verify_steps=task with a task that cannot verify steps.

    Departures: 1. The released code verifies only virtual steps. Here the tree's steps are verified too, since that
        code's own filters need it. 2. A step that is complete and simulated is not selected again; there, such a round
        only records the path. 3. There is no extraction of facts and goals, and there are no tool queries: a step is
        text, and the task is the tool. 4. A response that repeats itself is not ended early. 5. Our reading:
        value/max(1, visits), and that uct also considers unsimulated steps.
    """
    if not stop or not all(stop):
        raise UsageError("strategy mcts: stop must name texts that end a step, none of them empty")
    verifier = _verifier(context, verify_steps, verify_temperature, verify_tokens)
    search = Search(
        children, depth, select, exploration, decay, enough, outcome_weight, correct_above, tuple(stop), step_tokens, verifier
    )  # fmt: skip
    for problems in context.portions(rows_at_once, rounds):
        forest = Forest(context, problems)
        trees = [SearchTree(context.coin_of("mcts", problem)) for problem in problems]
        for _ in range(rounds):
            search.round(forest, trees)
            context.meter(len(problems))
        columns = step_columns([row for tree in trees for row in tree.steps])
        columns[SEARCH_VALUE.path] = Ragged.from_lists([row for tree in trees for row in tree.values(pool)], np.float64)
        columns["reward"] = np.array([reward for tree in trees for reward in tree.rewards], np.float64)
        yield forest.rollouts().with_columns(columns)


@dataclass(frozen=True)
class Search:
    """The options of `mcts`."""

    children: int
    depth: int
    select: str
    exploration: float
    decay: float
    enough: int
    outcome_weight: Literal["1/N"] | float
    correct_above: float
    stop: tuple[str, ...]
    step_tokens: int | None
    verify: Verifier

    def round(self, forest: Forest, trees: Sequence[SearchTree]) -> None:
        """Run one simulation of each problem that is not done."""
        going: list[Place] = []
        for problem, tree in enumerate(trees):
            done = self.enough and min(tree.right, tree.wrong) >= self.enough
            if not done and not tree.root.exhausted:
                going.append((problem, self.select_node(tree)))
        lost = self._expand(forest, trees, [(each, node) for each, node in going if not node.over and not node.best])
        self._simulate(forest, trees, [(problem, node.best or node) for problem, node in going], lost)

    def select_node(self, tree: SearchTree) -> Node:
        """The step to continue from."""
        node = tree.root
        if self.select == "random_child":
            return tree.coin.choice([each for each in node.children if not each.exhausted]) if node.children else node
        while node.children:
            parent = node
            node = max(
                (each for each in node.children if not each.exhausted),
                key=lambda each: uct(each.value, each.visits, parent.visits, self.exploration),
            )
        return node

    def _expand(self, forest: Forest, trees: Sequence[SearchTree], nodes: Sequence[Place]) -> dict[int, Completion]:
        """Sample and verify next steps of each node. Returns the responses of problems where the engine made none."""
        context = forest.context
        budget = context.sampling.max_tokens
        requests: list[Request] = []
        for problem, node in nodes:
            first = trees[problem].made
            trees[problem].made += self.children
            room = budget - len(node.response.ids)
            requests.append(
                Request(
                    [*forest.prompts[problem], *node.response.ids.tolist()],
                    [_seed(forest, problem, "step", first + index) for index in range(self.children)],
                    room if self.step_tokens is None else min(self.step_tokens, room),
                    continued=True,
                )
            )
        made = generate_steps(context, requests, replace(context.sampling, stop=self.stop))
        new: list[Place] = []
        lost: dict[int, Completion] = {}
        for (problem, node), completions in zip(nodes, made, strict=True):
            begun = len(node.response.ids)
            for each in completions:
                if not len(each.ids):
                    continue
                response = mark_cut(join(node.response, begun, each), forest.budgets[problem])
                over = is_over(response, len(each.ids), self.step_tokens, forest.budgets[problem])
                child = Node(response, node, (*node.ends, len(response.ids)), over=over)
                node.children.append(child)
                new.append((problem, child))
            if not node.children:
                failed = [each for each in completions if each.finish_reason == "error"]
                nothing = join(node.response, begun, (failed or completions)[0])
                if failed:
                    lost[problem] = nothing
                else:  # it ended without another token
                    node.response, node.over = nothing, True
        claims = [
            Claim(problem, node.response.ids, len(node.parent.response.ids), len(node.response.ids))
            for problem, node in new
            if node.parent is not None
        ]
        for (_, node), check in zip(new, self.verify(forest, claims), strict=True):
            node.checks = (*(node.parent.checks if node.parent is not None else ()), check)
        return lost

    def _simulate(
        self, forest: Forest, trees: Sequence[SearchTree], nodes: Sequence[Place], lost: Mapping[int, Completion]
    ) -> None:
        """Record a rollout of each node and back up its value; for problems that are lost, record what there is."""
        context = forest.context
        sampled = [(problem, node) for problem, node in nodes if not node.over and problem not in lost]
        seeds = {problem: _seed(forest, problem, "simulation", len(trees[problem].steps)) for problem, _ in nodes}
        requests = [
            Request(
                [*forest.prompts[problem], *node.response.ids.tolist()],
                [seeds[problem]],
                context.sampling.max_tokens - len(node.response.ids),
            )
            for problem, node in sampled
        ]
        made = [each for (each,) in generate_steps(context, requests, context.sampling)]
        ends = step_ends(context.tokenizer, [each.ids for each in made], self.stop)
        simulated = {problem: (response, list[int]()) for problem, response in lost.items()} | {
            problem: _limit_steps(node, each, found, self.depth)
            for (problem, node), each, found in zip(sampled, made, ends, strict=True)
        }
        paths = [simulated.get(problem, (node.response, [])) for problem, node in nodes]
        claims: list[Claim] = []
        sizes: list[int] = []
        for (problem, node), (response, virtual) in zip(nodes, paths, strict=True):
            starts = [len(node.response.ids), *virtual]
            found = [Claim(problem, response.ids, start, end) for start, end in zip(starts, virtual[:-1], strict=False)]
            claims += found
            sizes.append(len(found))
        checks = np.array(self.verify(forest, claims), np.float64)
        rewards = context.verify(
            [forest.problems[problem] for problem, _ in nodes],
            [context.tokenizer.decode(response.ids.tolist(), skip_special_tokens=True) for response, _ in paths],
        )
        answers = np.where(np.array(rewards) > self.correct_above, 1.0, -1.0)
        rows = Segments.of_sizes(np.array(sizes, np.int64))
        finals = simulation_values(checks, rows, answers, self.outcome_weight)
        given = iter(checks.tolist())
        for index, ((problem, node), (response, virtual)) in enumerate(zip(nodes, paths, strict=True)):
            own = [next(given) for _ in range(sizes[index])]
            last = [float(answers[index])] if virtual else []
            self._record(
                forest, trees[problem], problem, node, response, virtual, [*own, *last], rewards[index], seeds[problem]
            )
            node.simulated |= problem not in lost
            if response.finish_reason != "error":
                node.backed_up(float(finals[index]), self.decay)

    def _record(
        self, forest: Forest, tree: SearchTree, problem: int, node: Node, response: Completion, virtual: Sequence[int],
        checks: Sequence[float], reward: float, seed: int,
    ) -> None:  # fmt: skip
        """Record the path from the prompt through the node, with its virtual steps, as a row."""
        parent, fork = tree.row_through(node)
        signal = np.zeros(len(response.ids))
        forest.branches[problem].append(ForestRow(response, signal, parent, fork, seed))
        tree.begun.append(node)
        whole = response.finish_reason == "stop"
        tree.right += whole and reward > self.correct_above
        tree.wrong += whole and reward <= self.correct_above
        ends = [*node.ends, *virtual]
        kinds = [STEP] * len(ends)
        if whole and kinds:
            kinds[-1] = ANSWER
        given = [*node.checks, *checks]
        tree.steps.append([Step(*each) for each in zip([0, *ends][:-1], ends, kinds, given, strict=True)])
        tree.rewards.append(reward)


def _limit_steps(node: Node, completion: Completion, found: Sequence[int], depth: int) -> tuple[Completion, list[int]]:
    """The response with at most `depth` more steps, and their ends in it."""
    ends = [*found]
    if len(completion.ids) and (not ends or ends[-1] < len(completion.ids)):
        ends.append(len(completion.ids))
    begun = len(node.response.ids)
    if len(ends) > depth:
        ends = ends[:depth]
        completion = head(completion, ends[-1], "length")
    return join(node.response, begun, completion), [begun + end for end in ends]


def _verifier(context: SamplingContext, which: str, temperature: float, max_tokens: int) -> Verifier:
    """A function that checks steps: +1 right, -1 wrong, 0 unknown."""
    ask = getattr(context.task, "verify_step", None)
    if which == "task" and ask is None:
        raise UsageError(
            f"task {context.task.spec!r} cannot tell right steps from wrong ones; choose verify_steps=policy"
        )

    def texts(forest: Forest, claims: Sequence[Claim]) -> Iterator[tuple[Problem, str, str]]:
        parts = [part.tolist() for each in claims for part in (each.ids[: each.start], each.ids[each.start : each.end])]
        decoded = iter(context.tokenizer.batch_decode(parts, skip_special_tokens=True) if parts else ())
        for each in claims:
            yield forest.problems[each.problem], next(decoded), next(decoded)

    def by_task(forest: Forest, claims: Sequence[Claim]) -> list[float]:
        assert ask is not None
        found = [ask(problem, before, step) for problem, before, step in texts(forest, claims)]
        return [0.0 if each is None else 1.0 if each else -1.0 for each in found]

    def by_policy(forest: Forest, claims: Sequence[Claim]) -> list[float]:
        told = list(texts(forest, claims))
        questions = [
            VERIFY.format(question=question_of(problem), before=before, step=step) for problem, before, step in told
        ]
        found = [0.0] * len(told)
        left = list(range(len(told)))
        for attempt in range(TRIES):
            seeds = [[context.seed_of(told[each][0].problem_id, questions[each], attempt)] for each in left]
            answers = ask_policy(
                context, [questions[each] for each in left], seeds, max_tokens=max_tokens, temperature=temperature
            )
            truths = [truth_of(text) for (text,) in answers]
            for each, truth in zip(left, truths, strict=True):
                found[each] = 0.0 if truth is None else 1.0 if truth else -1.0
            left = [each for each, truth in zip(left, truths, strict=True) if truth is None]
        return found

    return by_task if which == "task" or (which == "auto" and ask is not None) else by_policy


def _seed(forest: Forest, problem: int, what: str, index: int) -> int:
    return forest.context.seed_of(forest.problems[problem].problem_id, what, index)
