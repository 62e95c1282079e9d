"""Teams: several agents answer together, and chance decides who reads whom."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from ....formats.errors import UsageError
from ....formats.rollouts import Rollouts
from ....formats.schema import FIELDS, Field
from ...core.ranges import AtLeast, Between
from ...core.seeds import derived_seed
from ...core.wording import check_template, fill
from ...models.engine import Completion, Request
from ...models.policy import render_prompt
from ...remember.kind import MEMORIES
from ...tasks import Message, Problem
from .._questions import with_template
from ..kind import SamplingContext, strategy
from ..rows import row_seeds, to_rollouts

ROLES = ("solver", "solver", "critic", "judge")
TEMPLATE = "{question}\n\nYou are agent {agent} of {agents} in a team, the {role}.{heard}\n\n{ask}"
TOLD = "\n\nAgent {agent}, the {role}, says:\n{text}"


@dataclass(frozen=True)
class Wording:
    """The wording of the agents' prompts."""

    roles: tuple[str, ...]
    template: str
    told: str

    def prompt(self, problem: Problem, agent: int, heard: Sequence[tuple[int, str]]) -> list[Message]:
        """The problem's messages, the last one rewritten by the template."""
        said = [fill(self.told, agent=str(i + 1), role=self.roles[i], text=text) for i, text in heard]
        last = agent == len(self.roles) - 1
        return with_template(
            problem, self.template, agent=str(agent + 1), agents=str(len(self.roles)), role=self.roles[agent],
            heard="".join(said), ask="Give the team's answer." if last else "Help the team towards the answer.",
        )  # fmt: skip


TEAM = Field("team", FIELDS["prompt"].type, "what each agent said, with its role")


@strategy(
    source="arXiv:2603.02701 (Graph-GRPO), steps 1 and 2; the prompts are ours",
    evidence="second-hand",
    makes=("edge.src", "edge.dst", "edge.kept", "edge.probability", TEAM),
    system=("Graph-GRPO",),
)
def team(
    context: SamplingContext,
    *,
    roles: Sequence[str] = ROLES,
    edge: Annotated[float, Between(0, 1)] = 0.5,
    edges: Mapping[str, float] | None = None,
    graph: Path | None = None,
    threshold: Annotated[float | None, Between(0, 1)] = None,
    template: str = TEMPLATE,
    told: str = TOLD,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Teams of agents, n per prompt, each team with a communication graph of its own.

    The agents are one policy in several roles, and speak in a fixed order. Agent j reads the problem and the words of
    every agent i < j from which an edge leads to j. Each edge exists with its own probability, independently. The last
    agent answers. Its prompt and tokens form the row, so the answer can be verified and trained on like any other. What
    the others said is in the column `team`, and is not trained on. The rows of a group share the problem, but their
    prompts differ by what the agent read. The ruler `edge` has every pair i < j: `src`, `dst`, its `probability`, and
    whether it was `kept`.

    Args:
        roles: roles of the agents, in the order in which they speak; at least two.
        edge: probability of an edge.
        edges: probabilities of particular edges, such as {"0-3": 0.9}; agents are counted from 0.
        graph: a memory made by `remember --what graph`, whose probabilities replace both.
        threshold: keep exactly the edges that are more likely than this, instead of drawing them; 0.5 is how a graph is
            used once it has been learnt.
        template: the last message of an agent's prompt; {question}, {agent} (from 1), {agents}, {role}, {heard} and {ask}
            (help, or give the answer) are replaced.
        told: the text that {heard} repeats for each agent that was read; {agent}, {role} and {text} are replaced.
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.

    Raises:
        UsageError: fewer than two roles; a probability or threshold outside 0 to 1; a template that lacks a
            placeholder; a graph with another number of agents. DataError: a file that is not a graph.
    """
    for option, text, needed in (
        ("template", template, "question"),
        ("template", template, "heard"),
        ("told", told, "text"),
    ):
        check_template("team", option, text, needed)
    pairs = list(combinations(range(len(roles)), 2))
    probabilities = (
        _probabilities(pairs, len(roles), edge, edges or {})
        if graph is None
        else _read_graph(pairs, len(roles), graph, edges or {})
    )
    wording = Wording(tuple(roles), template, told)
    for problems in context.portions(rows_at_once, context.n):
        yield _answer_together(context, problems, wording, pairs, probabilities, threshold)


def _probabilities(pairs: Sequence[tuple[int, int]], count: int, edge: float, edges: Mapping[str, float]) -> np.ndarray:
    """[E] float64 probabilities of the pairs. UsageError for an unknown pair, or a value that is no probability."""
    if not pairs:
        raise UsageError(f"strategy team: roles must name two or more agents, got {count}")
    found = dict.fromkeys((f"{i}-{j}" for i, j in pairs), edge)
    for name in edges:
        if name not in found:
            raise UsageError(
                f"strategy team: edges names {name!r}, which is not a pair of agents; choose from {', '.join(found)}"
            )
    found.update(edges)
    for name, value in found.items():
        if not 0 <= value <= 1:
            raise UsageError(f"strategy team: the probability of edge {name} must be between 0 and 1, got {value}")
    return np.array(list(found.values()), np.float64)


def _read_graph(pairs: Sequence[tuple[int, int]], count: int, graph: Path, edges: Mapping[str, float]) -> np.ndarray:
    """[E] float64 probabilities of the pairs, from a memory."""
    if edges:
        raise UsageError("strategy team: graph and edges both set the probabilities of edges; give only one")
    table = MEMORIES["graph"].read(graph).to_pydict()
    found = dict(zip(zip(table["src"], table["dst"], strict=True), table["probability"], strict=True))
    if set(found) != set(pairs):
        raise UsageError(
            f"{graph}: the graph has {1 + max(table['dst'])} agents, but strategy team has {count}; give as many roles"
        )
    return np.array([found[pair] for pair in pairs], np.float64)


def _answer_together(
    context: SamplingContext, problems: Sequence[Problem], wording: Wording, pairs: Sequence[tuple[int, int]],
    probabilities: np.ndarray, threshold: float | None,
) -> Rollouts:  # fmt: skip
    roles = wording.roles
    tasks = [problem for problem in problems for _ in range(context.n)]
    seeds = [seed for problem in problems for seed in row_seeds(context, problem)]
    if threshold is None:
        chance = [
            np.random.Generator(np.random.Philox(derived_seed("graph", seed))).random(len(pairs)) for seed in seeds
        ]
        kept = np.stack(chance) < probabilities  # [rows, E]
    else:
        kept = np.tile(probabilities > threshold, (len(seeds), 1))
    said: list[list[str]] = [[] for _ in tasks]
    lost: list[str | None] = [None for _ in tasks]
    asked: list[list[Message]] = []
    prompts: list[list[int]] = []
    completions: list[Completion] = []
    for agent in range(len(roles)):
        heard = [[i for (i, j), there in zip(pairs, row.tolist(), strict=True) if there and j == agent] for row in kept]
        asked = [
            wording.prompt(problem, agent, [(i, spoken[i]) for i in read])
            for problem, spoken, read in zip(tasks, said, heard, strict=True)
        ]
        prompts = [render_prompt(context.tokenizer, messages) for messages in asked]
        last = agent == len(roles) - 1
        made = context.engine.generate(
            [
                Request(prefix_ids=prompt, seeds=[seed if last else derived_seed(seed, agent)])
                for prompt, seed in zip(prompts, seeds, strict=True)
            ],
            context.sampling,
        )
        completions = [each for (each,) in made]
        if not last:
            texts = context.tokenizer.batch_decode([each.ids for each in completions], skip_special_tokens=True)
            for row, (completion, text) in enumerate(zip(completions, texts, strict=True)):
                said[row].append(text.strip())
                if completion.finish_reason == "error":
                    lost[row] = lost[row] or completion.error or "no completion"
    completions = [_lost(each, why) if why else each for each, why in zip(completions, lost, strict=True)]
    groups = [completions[start : start + context.n] for start in range(0, len(completions), context.n)]
    rollouts = to_rollouts(context, problems, prompts[:: context.n], groups)
    size = len(rollouts)

    def each_pair(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array([list(values)] * size, pa.list_(kind))

    people = [[{"role": role, "content": text} for role, text in zip(roles, spoken, strict=False)] for spoken in said]
    return rollouts.with_columns(
        {
            "prompt": pa.array(asked, FIELDS["prompt"].type),
            "prompt_ids": pa.array(prompts, FIELDS["prompt_ids"].type),
            TEAM.path: pa.array(people, TEAM.type),
            "edge.src": each_pair([i for i, _ in pairs], pa.int32()),
            "edge.dst": each_pair([j for _, j in pairs], pa.int32()),
            "edge.kept": pa.array(kept.tolist(), pa.list_(pa.bool_())),
            "edge.probability": each_pair(probabilities.tolist(), pa.float32()),
        }
    )


def _lost(completion: Completion, why: str) -> Completion:
    """An empty completion, since the agent before had none."""
    nothing = np.zeros(0, np.float32)
    return Completion(np.zeros(0, np.int32), nothing, "error", nothing, error=why)
