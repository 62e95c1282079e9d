"""Teams of agents with communication graphs."""

from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.invariants import check_batch
from apportion.stages.models.policy import load_tokenizer, render_prompt
from apportion.stages.tasks import open_task

from .conftest import Sampled, check_logprobs

TINY = {"max_tokens": 30, "task": "arithmetic", "task_settings": {"terms": 1}}
ROLES = ["a", "b", "c"]


def graphs(rollouts: Any) -> list[set[str]]:
    """The kept edges of every row."""
    return [
        {f"{i}-{j}" for i, j, kept in zip(row["src"], row["dst"], row["kept"], strict=True) if kept}
        for row in rollouts.table.column("edge").to_pylist()
    ]


def test_the_last_agent_reads_whom_an_edge_leads_to_it_from(sampled: Sampled) -> None:
    rollouts = sampled("team", options=TINY, roles=ROLES)
    check_batch(rollouts, "test")
    tokenizer = load_tokenizer("builtin:tiny")
    for edges, row in zip(graphs(rollouts), rollouts.table.to_pylist(), strict=True):
        content = row["prompt"][-1]["content"]
        for agent, said in enumerate(row["team"]):
            block = f"Agent {agent + 1}, the {ROLES[agent]}, says:\n{said['content']}"
            assert (block in content) == (f"{agent}-2" in edges)
        assert "You are agent 3 of 3 in a team, the c." in content
        assert row["prompt_ids"] == render_prompt(tokenizer, row["prompt"])
        assert [said["role"] for said in row["team"]] == ["a", "b"]
    assert len({frozenset(edges) for edges in graphs(rollouts)}) > 3


def test_log_probabilities_are_those_of_the_last_agents_own_prompt(sampled: Sampled) -> None:
    check_logprobs(sampled("team", options=TINY, roles=ROLES))


def test_an_agent_without_edges_is_a_lone_one_whatever_the_others_say(sampled: Sampled) -> None:
    two, three = (sampled("team", options=TINY, roles=roles, edge=0) for roles in (["x", "c"], ["x", "y", "c"]))
    assert all(not edges for edges in graphs(two) + graphs(three))
    assert [row[-1]["content"].replace("agent 2 of 2", "agent 3 of 3") for row in two.table.column("prompt").to_pylist()] == [
        row[-1]["content"] for row in three.table.column("prompt").to_pylist()
    ]  # fmt: skip


def test_edges_are_drawn_with_their_own_probability(sampled: Sampled) -> None:
    many = TINY | {"prompts": 20, "n": 20, "max_tokens": 1}
    rollouts = sampled("team", options=many, roles=ROLES, edge=0.3, edges={"0-1": 1.0, "1-2": 0.8})
    found = graphs(rollouts)
    shares = {name: np.mean([name in edges for edges in found]) for name in ("0-1", "0-2", "1-2")}
    assert shares["0-1"] == 1.0
    assert shares["0-2"] == pytest.approx(0.3, abs=0.07)  # 400 draws: three standard deviations
    assert shares["1-2"] == pytest.approx(0.8, abs=0.07)
    edge = rollouts.table.column("edge").to_pylist()[0]
    assert (edge["src"], edge["dst"]) == ([0, 0, 1], [1, 2, 2])
    assert edge["probability"] == pytest.approx([1.0, 0.3, 0.8])


def test_the_answer_is_verified_like_any_other(sampled: Sampled) -> None:
    rollouts = sampled("team", options=TINY, roles=ROLES)
    task = open_task("arithmetic", {"terms": 1})
    assert {task.verify(text, 5) for text in rollouts.strings("text") if text} <= {0.0, 1.0}
    again = sampled("team", options=TINY, roles=ROLES)
    assert again.table.equals(rollouts.table)
    parts = sampled("team", options=TINY, roles=ROLES, rows_at_once=4)
    assert graphs(parts) == graphs(rollouts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"roles": ["alone"]}, "roles must name two or more agents, got 1"),
        (
            {"roles": ROLES, "edges": {"2-0": 0.5}},
            "edges names '2-0', which is not a pair of agents; choose from 0-1, 0-2, 1-2",
        ),
        ({"roles": ROLES, "edge": 1.5}, r"strategy team: edge must be between 0 and 1, got 1\.5"),
        ({"roles": ROLES, "edges": {"0-2": -1}}, "the probability of edge 0-2 must be between 0 and 1, got -1"),
        ({"roles": ROLES, "threshold": float("nan")}, "strategy team: threshold must be a number, got nan"),
        ({"roles": ROLES, "rows_at_once": 0}, "strategy team: rows_at_once must be at least 1, got 0"),
    ],
)
def test_graphs_that_cannot_be(sampled: Sampled, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sampled("team", **settings)
