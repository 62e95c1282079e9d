"""prime-rl's Algorithm on recorded calls: a group of episodes, as its train sink passes them. prime-rl itself is not run here.

The traces are of the recorded shape, and those of verifiers' own classes where these are installed: pip install verifiers==0.4.0.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile
from apportion.stages.interop.prime_rl import with_credit
from typer.testing import Result

from .conftest import CreditOfFile

pytestmark = pytest.mark.filterwarnings("ignore")  # verifiers', of what it imports
KINDS = ["recorded", pytest.param("verifiers", marks=pytest.mark.peers)]
Make = Callable[..., Any]


class Algorithm:
    """Stands where prime-rl's base class does."""

    async def score_group(self, episodes: list[Any]) -> None:
        raise NotImplementedError


@dataclass
class Node:
    token_ids: list[int]
    mask: list[bool]
    logprobs: list[float]
    parent: int | None = None
    advantages: list[float] | None = None


@dataclass
class Trace:
    id: str
    nodes: list[Node]
    rewards: dict[str, float]
    attempts: set[int] = field(default_factory=set)  # leaves that nothing went on from
    has_error: bool = False
    agent: Any = field(default_factory=lambda: SimpleNamespace(name="solver", trainable=True))

    @property
    def reward(self) -> float:
        return sum(self.rewards.values())

    @property
    def branches(self) -> list[Any]:
        inner = {node.parent for node in self.nodes}
        found: list[Any] = []
        for leaf in (place for place in range(len(self.nodes)) if place not in inner):
            path: list[Node] = []
            at: int | None = leaf
            while at is not None:
                path.insert(0, self.nodes[at])
                at = self.nodes[at].parent
            found.append(SimpleNamespace(nodes=path, trainable=leaf not in self.attempts))
        return found


@pytest.fixture
def assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the recorded name, whose function takes a number for each sampled token of the nodes that are trained."""
    routing = ModuleType("prime_rl.orchestrator.algo.routing")

    def assign_advantages(trace: Any, values: list[float]) -> None:
        trained = [node for branch in trace.branches if branch.trainable for node in branch.nodes]
        left = list(values)
        for node in trace.nodes:
            if any(node is each for each in trained) and any(node.mask):
                node.advantages = [left.pop(0) for sampled in node.mask if sampled]
        assert not left

    routing.assign_advantages = assign_advantages  # type: ignore[attr-defined]
    for name in ("prime_rl", "prime_rl.orchestrator", "prime_rl.orchestrator.algo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, routing.__name__, routing)


def episode(kind: str, name: str, reward: float | None, turns: list[Any], *, agent: str = "solver") -> Any:
    """An episode of one trace. A turn is (parent, scaffold or environment tokens, sampled tokens[, "attempt"])."""
    if kind == "recorded":
        nodes = [
            Node(read + said, [False] * len(read) + [True] * len(said), [-0.5] * len(said), parent)
            for parent, read, said, *_ in turns
        ]
        attempts = {place for place, turn in enumerate(turns) if "attempt" in turn}
        trace = Trace(name, nodes, {} if reward is None else {"exact": reward}, attempts)
        trace.agent.name = agent
        return SimpleNamespace(traces=[trace])
    wire = pytest.importorskip("verifiers.v1.episode").WireEpisode
    nodes = [
        {
            **({} if parent is None else {"parent": parent}), "sampled": bool(said), "token_ids": read + said,
            "message": {"role": "assistant" if said else "user", "content": f"{name} {place}"},
            "mask": [False] * len(read) + [True] * len(said), "logprobs": [-0.5] * len(said),
            **({"semantic_parents": [{"node": parent, "type": "compaction_attempt"}]} if more else {}),
        }
        for place, (parent, read, said, *more) in enumerate(turns)
    ]  # fmt: skip
    task = {"type": "Sums", "data": {}}
    rewards = {} if reward is None else {"exact": {"score": reward}}
    trace = {
        "id": name,
        "task": task,
        "agent": {"config": {}, "name": agent},
        "nodes": nodes,
        "ok": True,
        "rewards": rewards,
    }
    return wire.model_validate({"id": f"e-{name}", "task": task, "group": {"id": "g"}, "ok": True, "traces": [trace]})


def score(method: str, episodes: list[Any], **options: Any) -> list[list[list[float] | None]]:
    """The credit of each sampled node of each trace, after `score_group`."""
    asyncio.run(with_credit(Algorithm, method, **options)().score_group(episodes))
    return [[node.advantages for node in trace.nodes if any(node.mask)] for each in episodes for trace in each.traces]


PROMPT = (None, [1, 2], [])


def uneven(kind: str) -> list[Any]:
    """Three rollouts; the first calls a tool. A scaffold token stands before what is sampled."""
    return [
        episode(kind, "a", 1.0, [PROMPT, (0, [10], [5, 7]), (1, [90, 91], []), (2, [10], [9, 3])]),
        episode(kind, "b", 0.0, [PROMPT, (0, [10], [5, 8])]),
        episode(kind, "c", 0.5, [PROMPT, (0, [10], [5, 7, 4])]),
    ]


UNEVEN = [
    {"ids": [5, 7, 90, 91, 10, 9, 3], "own": [True, True, False, False, False, True, True], "reward": 1.0, "group": 0,
     "spans": [(0, 2), (5, 7)], "token.logprob": [-0.5, -0.5, 0, 0, 0, -0.5, -0.5]},
    {"ids": [5, 8], "own": [True] * 2, "reward": 0.0, "group": 0, "spans": [(0, 2)], "token.logprob": [-0.5] * 2},
    {"ids": [5, 7, 4], "own": [True] * 3, "reward": 0.5, "group": 0, "spans": [(0, 3)], "token.logprob": [-0.5] * 3},
]  # fmt: skip


@pytest.mark.usefixtures("assigned")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "options"), [("rloo", {}), ("tempo", {}), ("turn_return", {"scale": "std"}), ("spo_tree", {})]
)
def test_a_recorded_call_gives_nodes_what_assign_credit_gives(
    kind: str, method: str, options: dict[str, Any], credit_of_file: CreditOfFile
) -> None:
    found = score(method, uneven(kind), **options)
    expected = credit_of_file(method, UNEVEN, **options)
    assert np.any(np.concatenate(expected))
    for nodes, values, row in zip(found, expected, UNEVEN, strict=True):
        for node, (start, end) in zip(nodes, row["spans"], strict=True):
            np.testing.assert_allclose(node, values[start:end], atol=1e-6)  # type: ignore[arg-type]


def branching(kind: str, *, attempt: bool = True) -> list[Any]:
    """The first trace has two contexts that share a turn, and an attempt at compaction that nothing went on from."""
    turns = [PROMPT, (0, [10], [5]), (1, [90], []), (2, [10], [6, 7]), (1, [91], []), (4, [10], [8])]
    last = [(1, [], [3], "attempt")] if attempt else []
    return [episode(kind, "a", 1.0, [*turns, *last]), episode(kind, "b", 0.0, [PROMPT, (0, [10], [5, 5])])]


@pytest.mark.usefixtures("assigned")
@pytest.mark.parametrize("kind", KINDS)
def test_branches_are_parts_and_shared_nodes_are_assigned_once(kind: str) -> None:
    """As rows, 1, 1 and 0 are no even match. As episodes, 1 and 0: +1 and -1. The attempt stays unassigned."""
    assert score("rloo", branching(kind)) == [[[1.0], [1.0, 1.0], [1.0], None], [[-1.0, -1.0]]]
    with pytest.raises(DataError, match="tempo compares rollouts token by token"):
        score("tempo", branching(kind))


@pytest.mark.peers
@pytest.mark.usefixtures("assigned")
@pytest.mark.parametrize("method", ["rloo", "turn_return"])
def test_what_is_assigned_is_imported_as_our_own(method: str, cli: Callable[..., Result], tmp_path: Path) -> None:
    """verifiers' records of the scored episodes, imported: its credit is that of assign-credit on the same file."""
    episodes = [*branching("verifiers", attempt=False), *uneven("verifiers")[2:]]
    score(method, episodes)
    source, plain, credit = tmp_path / "traces.jsonl", tmp_path / "plain.parquet", tmp_path / "credit.parquet"
    source.write_text("".join(json.dumps(each.to_record()) + "\n" for each in episodes), encoding="utf-8")
    assert cli("import", source, "-o", plain).exit_code == 0
    assert cli("assign-credit", plain, "--method", method, "-o", credit).exit_code == 0
    batch = RolloutFile(credit).read()
    ours, theirs = batch.ragged("token.advantage").values, batch.ragged("token.advantage_verifiers").values
    assert ours.any()
    np.testing.assert_allclose(theirs, ours, atol=5e-5)  # four decimals on disk


@pytest.mark.usefixtures("assigned")
@pytest.mark.parametrize("kind", KINDS)
def test_who_takes_part_and_with_whom(kind: str) -> None:
    turns = [PROMPT, (0, [], [5])]
    group = [
        episode(kind, f"s{place}", reward, turns)
        for place, reward in enumerate([1.0, 0.0, None, 1.0, 1.0, float("nan")])
    ]
    group[3].traces[0].agent.trainable = False
    if kind == "recorded":
        group[4].traces[0].has_error = True
    else:
        group[4].traces[0].ok = False
    group += [episode(kind, f"p{place}", reward, turns, agent="proposer") for place, reward in enumerate([5.0, 3.0])]
    group.append(episode(kind, "nothing", 9.0, [PROMPT]))
    assert score("rloo", group) == [[[1.0]], [[-1.0]], [None], [None], [None], [None], [[2.0]], [[-2.0]], []]


@pytest.mark.usefixtures("assigned")
def test_what_does_not_fit_is_named() -> None:
    bad = uneven("recorded")
    bad[0].traces[0].nodes[1].mask = [True]
    with pytest.raises(
        DataError, match="trace a: a node has 3 tokens, 1 of mask, and 2 log-probabilities for 1 sampled"
    ):
        score("rloo", bad)
    without = uneven("recorded")
    for node in without[1].traces[0].nodes:
        node.logprobs = []
    with pytest.raises(DataError, match=r"spo_tree needs 'token.logprob', and row 1 has none"):
        score("spo_tree", without)
    assert score("rloo", without) == score("rloo", uneven("recorded"))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tempoo", {}, "did you mean 'tempo'"),
        ("grpo", {"ddof": -1}, "ddof must be at least 0, got -1"),
        ("vineppo", {}, "needs probes"),
        ("mapo", {}, "mapo needs 'step.reward', which prime-rl does not have"),
    ],
)
def test_what_cannot_work_fails_when_the_class_is_made(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_credit(Algorithm, method, **options)
