"""SLATE's sampling: k candidates for every next step, one of which is continued."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Annotated, Literal

import numpy as np

from ....formats.errors import UsageError
from ....formats.flags import PARTIAL
from ....formats.rollouts import Rollouts
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...models.engine import Request
from ...structure.turns import Siblings, selection_probabilities
from ...tasks import Problem
from .._questions import ask_policy, question_of, reference_of, score_of
from .._steps import ANSWER, STEP, Step, is_over, step_columns
from ..kind import SamplingContext, strategy
from ._forest import Forest, Fork

EPSILON = 1e-6

JUDGE_STEP = """\
Question:
{question}

Work so far:
{before}

Next step:
{step}

Rate only the next step. Does it follow from the work so far, is it clear, and is the answer nearer after it? \
Give the reason in one sentence. Then write <score>1</score> if it helps, <score>0</score> if it changes nothing, \
<score>-1</score> if it is wrong."""

JUDGE_ANSWER = """\
Question:
{question}

Known answer: {reference}

Given answer:
{step}

Does the given answer say the same as the known one? Give the reason in one sentence. Then write \
<score>1</score> for yes, <score>0</score> for partly, <score>-1</score> for no."""


@dataclass
class Growth:
    """One problem's rows. steps: of every row. at: the row that is continued, None before the first step."""

    problem: Problem
    coin: Random
    steps: list[list[Step]] = field(default_factory=list)
    at: int | None = None
    open: bool = True
    final: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Judge:
    """Scores new candidates. kind: "task" or "policy". samples, temperature, max_tokens: of its questions or samples."""

    kind: str
    samples: int
    temperature: float
    max_tokens: int

    def rewards(self, forest: Forest, rows: Sequence[tuple[int, int]], over: Sequence[bool]) -> list[float]:
        """One reward for the last step of each (problem, row)."""
        return (self._by_task if self.kind == "task" else self._by_policy)(forest, rows, over)

    def _by_task(self, forest: Forest, rows: Sequence[tuple[int, int]], over: Sequence[bool]) -> list[float]:
        """The mean reward of responses that begin with the candidate, or its own if it is complete; candidates with the
        same tokens share it."""
        context, decode = forest.context, forest.context.tokenizer.batch_decode
        samples = self.samples if self.temperature else 1
        states = [(problem, *forest.branches[problem][row].response.ids.tolist()) for problem, row in rows]
        asked_for = {state: place for state, place, ended in zip(states, rows, over, strict=True) if not ended}
        requests = [
            Request(
                [*forest.prompts[problem], *begun],
                [_seed(forest, *asked_for[problem, *begun], index) for index in range(samples)],
                context.sampling.max_tokens - len(begun),
            )
            for problem, *begun in asked_for
        ]
        sampling = replace(context.sampling, temperature=self.temperature)
        made = context.generate(requests, sampling)
        responses = {
            state: [each.ids.tolist() for each in group if each.finish_reason != "error"] or [[]]
            for state, group in zip(asked_for, made, strict=True)
        }
        found: dict[tuple[int, ...], float] = {}
        for state in dict.fromkeys(states):
            problem, *begun = state
            texts = decode([[*begun, *each] for each in responses.get(state, [[]])], skip_special_tokens=True)
            rewards = context.verify([forest.problems[problem]] * len(texts), texts)
            found[state] = sum(rewards) / len(rewards)
        return [found[state] for state in states]

    def _by_policy(self, forest: Forest, rows: Sequence[tuple[int, int]], over: Sequence[bool]) -> list[float]:
        """The policy's rating of the step, and of the answer if the step ends the response."""
        context = forest.context
        questions: list[str] = []
        owners: list[int] = []
        seeds: list[list[int]] = []
        for index, ((problem, row), ended) in enumerate(zip(rows, over, strict=True)):
            response, of = forest.branches[problem][row], forest.problems[problem]
            ids = response.response.ids.tolist()
            before, step = context.tokenizer.batch_decode(
                [ids[: response.fork], ids[response.fork :]], skip_special_tokens=True
            )
            for template in (JUDGE_STEP, *((JUDGE_ANSWER,) if ended else ())):
                given = {"question": question_of(of), "before": before, "step": step, "reference": reference_of(of)}
                questions.append(template.format(**given))
                owners.append(index)
                seeds.append([_seed(forest, problem, row, template is JUDGE_ANSWER)])
        texts = ask_policy(context, questions, seeds, max_tokens=self.max_tokens, temperature=self.temperature)
        found = [0.0] * len(rows)
        for owner, (text,) in zip(owners, texts, strict=True):
            found[owner] += score_of(text)
        return found


def _seed(forest: Forest, problem: int, row: int, index: int) -> int:
    return forest.context.seed_of(forest.problems[problem].problem_id, row, "judge", int(index))


@strategy(
    source="arXiv:2602.23440 (SLATE)",
    evidence="code",
    makes=("parent_id", "fork", "step.start", "step.end", "step.kind", "step.reward"),
    verifies=True,
    system=("SLATE",),
)
def truncate(
    context: SamplingContext,
    *,
    k: Annotated[int, AtLeast(1)] = 5,
    budget: Annotated[int, AtLeast(1)] = 4,
    eta: float = 0.7,
    stop: Sequence[str] = ("\n",),
    answer: Sequence[str] = (),
    step_tokens: Annotated[int | None, AtLeast(1)] = None,
    judge: Literal["task", "policy"] = "task",
    judge_samples: Annotated[int, AtLeast(1)] = 4,
    judge_temperature: Annotated[float | None, AtLeast(0)] = None,
    judge_tokens: Annotated[int, AtLeast(1)] = 256,
    bonus: float = 0.1,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Several candidates for every next step, judged against one another, of which one is continued (SLATE).

    From one prefix, k next steps are sampled, and each gets a reward r. One is chosen, and the next k begin after it:

        A = (r + bonus · [answer] · (budget - t) / budget - mean) / (std + 1e-6)     over the k, n - 1; t = 0, 1 …
        chance to be chosen = softmax(A / eta)

    until an answer is chosen. After `budget` steps the response is finished in one piece, its last row. A prompt gets
    up to k · budget + 1 rollouts; -n is not used. Every candidate is a rollout: `parent_id` is the row chosen before
    it, `fork` that row's length, and tokens up to there with their log-probabilities are the parent's. Rows whose
    response does not end with them are flagged `partial`; a verifier's reward says nothing about those. The step ruler
    has the steps from the prompt on. `step.reward` is r, without the bonus, and `step.kind` is "answer" for a step with
    which the response ended by itself. `assign-credit --method slate` computes A again; give it the same bonus and
    budget.

    Args:
        k: candidates per step.
        budget: B, number of steps in which candidates are compared.
        eta: temperature of the choice, in standard deviations; 0 or less takes the best, the first of equal ones.
        stop: texts that end a step; it ends with the token that completes one.
        answer: texts that end a step and the response with it, such as "</answer>". A response that ends by itself also
            ends with an answer.
        step_tokens: a step ends when it has this many tokens; None is --max-tokens, which limits the whole response.
        judge: "task" is the verifier's mean reward over fresh responses that begin with the candidate, 0 to 1 (ours);
            if the candidate ends the response, that response's own reward. "policy" asks the policy to rate the step,
            -1 to 1; if the response ends, it adds a rating of the last step against the reference.
        judge_samples: number of those fresh responses; 1 with judge_temperature=0. They are not kept.
        judge_temperature: temperature of responses and ratings; None is --temperature for "task" and 0 for "policy".
        judge_tokens: token budget of a rating. A question beyond the policy's context is refused.
        bonus: λ, added to answers in the choice.
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.

    Raises:
        UsageError: an option below 1, an empty stop text, a prompt or question beyond the model's context.

    Departures: 1. No search is played, so there is no query to rate. 2. The paper forces a step's type (search or
        answer) and samples it separately; here the policy simply writes on. 3. The index t begins at 0, as in the code.
        4. Ratings are clipped to -1 … 1, as the paper's scale says and its code does not. 5. The prefix keeps its mask,
        since the policy wrote it and `slate` counts its steps. It has no credit there, but a loss that averages over a
        row's tokens counts them. 6. If every candidate of a step failed, the response ends unfinished.
    """
    if not all((*stop, *answer)):
        raise UsageError("strategy truncate: stop and answer must not hold an empty text, which would end every step")
    if judge_temperature is None:
        judge_temperature = context.sampling.temperature if judge == "task" else 0.0
    judging = _Judge(judge, judge_samples, judge_temperature, judge_tokens)
    for problems in context.portions(rows_at_once, k * budget + 1):
        forest = Forest(context, problems)
        trees = [Growth(each, context.coin_of("truncate", each)) for each in problems]
        for index in range(budget):
            new = _grow(forest, trees, k, step_tokens, (*stop, *answer), answer, judging)
            for problem, rows in new.items():
                choose(trees[problem], rows, bonus * (budget - index) / budget, eta)
        _grow(forest, trees, 1, None, (), answer, judging)
        yield _rows(forest, trees)


def _grow(
    forest: Forest, trees: Sequence[Growth], count: int, length: int | None, stop: Sequence[str], answer: Sequence[str],
    judge: _Judge,
) -> dict[int, list[int]]:  # fmt: skip
    """The new rows of each problem that goes on: `count` candidates for its next step, with their steps and rewards."""
    going = [problem for problem, tree in enumerate(trees) if tree.open]
    begun = {problem: len(forest.branches[problem]) for problem in going}

    def size(problem: int) -> int:
        row = trees[problem].at
        return 0 if row is None else len(forest.branches[problem][row].response.ids)

    forest.grow([Fork(each, trees[each].at, size(each), count) for each in going], length=length, stop=stop)
    places = [(problem, row) for problem in going for row in range(begun[problem], len(forest.branches[problem]))]
    made = [place for place in places if len(forest.branches[place[0]][place[1]].response.ids) > size(place[0])]
    kinds: list[str] = []
    over: list[bool] = []
    for problem, row in made:
        response, fork = forest.branches[problem][row].response, size(problem)
        new = forest.context.tokenizer.decode(response.ids[fork:].tolist(), skip_special_tokens=True)
        ended = response.finish_reason == "stop" or any(text in new for text in answer)
        kinds.append(ANSWER if ended else STEP)
        over.append(ended or is_over(response, len(response.ids) - fork, length, forest.budgets[problem]))
    rewards = judge.rewards(forest, made, over)
    found = {
        place: Step(size(place[0]), len(forest.branches[place[0]][place[1]].response.ids), kind, reward)
        for place, kind, reward in zip(made, kinds, rewards, strict=True)
    }
    for (problem, row), ended in zip(made, over, strict=True):
        if ended:
            trees[problem].final.add(row)
    for problem, row in places:
        tree = trees[problem]
        before = [] if tree.at is None else tree.steps[tree.at]
        tree.steps.append([*before, *([found[problem, row]] if (problem, row) in found else [])])
    rows: dict[int, list[int]] = {problem: [] for problem in going}
    for problem, row in made:
        rows[problem].append(row)
    return rows


def choose(tree: Growth, rows: Sequence[int], bonus: float, eta: float) -> None:
    """Continue with one of the rows, or stop if it is complete or if the engine made none."""
    if not rows:
        tree.open = False
        return
    last = [tree.steps[row][-1] for row in rows]
    chance = selection_probabilities(advantages([each.reward + bonus * (each.kind == ANSWER) for each in last]), eta)
    place = int(np.searchsorted(np.cumsum(chance), tree.coin.random() * chance.sum(), side="right"))
    tree.at = rows[min(place, len(rows) - 1)]
    tree.open = tree.at not in tree.final


def advantages(rewards: Sequence[float]) -> Array:
    """[k] rewards of one step's candidates, centred and in standard deviations (n - 1), as in `slate`.

    >>> advantages([2, 1, -1, 2.1, 2]).round(6).tolist()
    [0.590976, -0.166686, -1.68201, 0.666743, 0.590976]
    """
    values = np.asarray(rewards, np.float64)
    return Siblings.of(np.zeros(len(values), np.int64)).compare(values, "std", 1, EPSILON)


def _rows(forest: Forest, trees: Sequence[Growth]) -> Rollouts:
    made = forest.rollouts().with_columns(step_columns([steps for tree in trees for steps in tree.steps]))
    whole = [row in tree.final for tree in trees for row in range(len(tree.steps))]
    return made.with_flag(PARTIAL, ~np.array(whole, bool))
