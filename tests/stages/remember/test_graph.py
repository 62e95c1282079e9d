"""Graph-GRPO: credit of edges, and the graph that is learnt from it."""

from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.remember.graph import graph
from apportion.stages.remember.kind import MEMORIES
from apportion.stages.score.kind import SCORERS
from apportion.stages.score.structure.edges import edges
from apportion.stages.structure.edges import Drawn
from typer.testing import Result

Cli = Callable[..., Result]
PAIRS = [(0, 1), (0, 2), (1, 2), (0, 3)]
CHANCES = {(0, 1): 0.6, (0, 2): 0.5, (1, 2): 0.4, (0, 3): 0.2}
WORKED = [({(0, 1), (1, 2)}, 1), ({(0, 1), (0, 2)}, 0), ({(0, 2), (1, 2)}, 1), ({(0, 1)}, 1)]
Teams = Sequence[tuple[set[tuple[int, int]], float]]


def teams(*groups: Teams, chances: dict[tuple[int, int], float] = CHANCES) -> Rollouts:
    flat = [(kept, reward, number) for number, group in enumerate(groups) for kept, reward in group]
    made = rollouts_of([reward for _, reward, _ in flat], groups=[number for *_, number in flat])
    each = list(chances)
    return made.with_columns(
        {
            "edge.src": [[i for i, _ in each]] * len(flat),
            "edge.dst": [[j for _, j in each]] * len(flat),
            "edge.kept": [[pair in kept for pair in each] for kept, _, _ in flat],
            "edge.probability": pa.array([list(chances.values())] * len(flat), pa.list_(pa.float32())),
        }
    )


def advantages(rollouts: Rollouts, **options: Any) -> list[float]:
    """Those of the first row."""
    return edges(rollouts, **options)["edge.advantage"][0].tolist()


def test_worked_example() -> None:
    found = edges(teams(WORKED))
    np.testing.assert_allclose(found["edge.success"][0], [2 / 3, 1 / 2, 1, 0], rtol=1e-6)
    expected = [-0.267260, -1.069040, 1.336300, 0]
    np.testing.assert_allclose(found["edge.advantage"][0], expected, atol=2e-6)
    assert all(
        row.tolist() == found["edge.advantage"][0].tolist()
        for row in map(found["edge.advantage"].__getitem__, range(4))
    )
    np.testing.assert_allclose(advantages(teams(WORKED), ddof=1), [-0.218217, -0.872868, 1.091085, 0], atol=2e-6)


def test_where_there_is_nothing_to_compare_it_is_exactly_0() -> None:
    assert advantages(teams([(kept, 1.0) for kept, _ in WORKED])) == [0.0] * 4
    assert advantages(teams([(kept, 0.0) for kept, _ in WORKED])) == [0.0] * 4
    assert advantages(teams(WORKED[:1])) == [0.0] * 4  # one team: its edges all succeeded
    assert advantages(teams([({(0, 1)}, 1.0), ({(0, 1)}, 0.0), (set(), 1.0)])) == [0.0] * 4  # one edge


def test_a_group_with_nothing_to_compare_is_no_division_by_zero_without_eps() -> None:
    alike = teams([(kept, 1.0) for kept, _ in WORKED])
    assert advantages(alike, eps=0.0) == [0.0] * 4
    np.testing.assert_allclose(advantages(teams(WORKED), eps=0.0), [-0.267261, -1.069045, 1.336306, 0], atol=2e-6)
    learnt = graph(iter([alike]), None, eps=0.0)
    np.testing.assert_allclose(learnt["probability"].to_pylist(), [0.6, 0.5, 0.2, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ddof": 2}, "scorer edges: ddof must be between 0 and 1, got 2"),
        ({"ddof": -1}, "scorer edges: ddof must be between 0 and 1, got -1"),
        ({"eps": -1.0}, "scorer edges: eps must be at least 0, got -1"),
        ({"eps": float("nan")}, "scorer edges: eps must be a number, got nan"),
    ],
)
def test_what_no_std_can_be_divided_by(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SCORERS.settle("edges", options)
    with pytest.raises(UsageError, match=message.replace("scorer edges", "memory graph")):
        MEMORIES.settle("graph", options)


def test_groups_are_apart_and_their_order_does_not_matter() -> None:
    other: Teams = [({(0, 3)}, 1.0), ({(0, 1)}, 0.0), (set(), 0.0)]
    both = edges(teams(WORKED, other))["edge.advantage"]
    assert both[0].tolist() == advantages(teams(WORKED))
    assert both[4].tolist() == advantages(teams(other))
    assert advantages(teams(WORKED[::-1])) == pytest.approx(advantages(teams(WORKED)))


def test_a_success_is_a_reward_above_a_bound() -> None:
    graded: Teams = [(kept, 0.4 + 0.2 * reward) for kept, reward in WORKED]
    assert advantages(teams(graded)) == advantages(teams(WORKED))
    assert advantages(teams(graded), correct=0.9) == [0.0] * 4


def test_probes_and_failed_rows_have_no_part_and_no_credit() -> None:
    more = teams([*WORKED, ({(0, 3)}, 1.0), ({(0, 3)}, 1.0)])
    more = more.with_columns({"purpose": ["train"] * 4 + ["probe", "train"]})
    more = more.with_flag("error", np.array([False] * 5 + [True]))
    found = edges(more)["edge.advantage"]
    assert found[0].tolist() == advantages(teams(WORKED))
    assert found.present is not None
    assert found.present.tolist() == [True] * 4 + [False] * 2


def test_lists_that_do_not_fit_and_missing_rewards_are_refused() -> None:
    torn = teams(WORKED).with_columns({"edge.kept": [[True] * 4, [True] * 3, [True] * 4, [True] * 4]})
    with pytest.raises(DataError, match=r"row 1, column 'edge.kept': 3 values for 4 edges"):
        edges(torn)
    blank = teams(WORKED).with_columns({"reward": [1.0, float("nan"), 0.0, 0.0]})
    with pytest.raises(DataError, match="row 1, column 'reward': missing"):
        edges(blank)


# ------------------------------------------------------------------------------------------------- the policy


def loss_of(logits: np.ndarray, groups: list[Teams], *, absent: bool, beta: float, reference: np.ndarray) -> float:
    """The objective by its formula, edge by edge."""
    chance = dict(zip(CHANCES, 1 / (1 + np.exp(-logits)), strict=True))
    total = 0.0
    for group in groups:
        credit = dict(zip(CHANCES, advantages(teams(group)), strict=True))
        drawn = {pair for kept, _ in group for pair in kept}
        for kept, _ in group:
            terms = [credit[pair] * log(chance[pair]) for pair in kept]
            if absent:
                terms += [credit[pair] * log(1 - chance[pair]) for pair in drawn - kept]
            total -= sum(terms) / max(len(terms), 1) / len(group) / len(groups)
    old = 1 / (1 + np.exp(-reference))
    new = np.array(list(chance.values()))
    return total + beta * float(np.mean(new * np.log(new / old) + (1 - new) * np.log((1 - new) / (1 - old))))


def logit(values: Any) -> np.ndarray:
    return np.log(np.array(values)) - np.log1p(-np.array(values))


def test_the_slow_objective_is_the_worked_one() -> None:
    start = logit(list(CHANCES.values()))
    options: dict[str, Any] = {"beta": 0.0, "reference": start}
    assert loss_of(start, [WORKED], absent=False, **options) == pytest.approx(0.052598, abs=2e-6)
    assert loss_of(start, [WORKED], absent=True, **options) == pytest.approx(0.016304, abs=2e-6)
    even = {"beta": 1.0, "reference": logit([0.5] * 4)}
    silent: list[Teams] = [[(set(), 0.0)]]
    assert loss_of(start, silent, absent=False, **even) == pytest.approx(0.058254, abs=2e-6)


@pytest.mark.parametrize("absent", [False, True])
def test_its_step_follows_the_slope_of_the_objective(absent: bool) -> None:
    groups: list[Teams] = [WORKED, [({(0, 3)}, 1.0), ({(0, 1), (0, 2)}, 0.0), (set(), 0.0)]]
    batch = teams(*groups)
    table: pa.Table | None = None
    start = logit(np.array(list(CHANCES.values()), np.float32).astype(np.float64))
    logits, first, second = start.copy(), np.zeros(4), np.zeros(4)
    for update in range(1, 4):
        table = graph(iter([batch]), table, lr=0.1, beta=0.3, absent_edges=absent)
        slope = np.empty(4)
        for place in range(4):
            ends = []
            for step in (1e-5, -1e-5):
                moved = logits.copy()
                moved[place] += step
                ends.append(loss_of(moved, groups, absent=absent, beta=0.3, reference=start))
            slope[place] = (ends[0] - ends[1]) / 2e-5
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        logits -= 0.1 * first / (1 - 0.9**update) / (np.sqrt(second / (1 - 0.999**update)) + 1e-8)
        assert table is not None
        found = {(row["src"], row["dst"]): row["logit"] for row in table.to_pylist()}
        np.testing.assert_allclose([found[pair] for pair in CHANCES], logits, atol=1e-5)
        assert {row["updates"] for row in table.to_pylist()} == {update}
        chances = {pair: 1 / (1 + np.exp(-found[pair])) for pair in CHANCES}
        batch = teams(*groups, chances=chances)  # drawn by the new graph


def test_parts_of_a_file_are_one_update() -> None:
    other: Teams = [({(0, 3)}, 1.0), ({(0, 1)}, 0.0)]
    whole = graph(iter([teams(WORKED, other)]), None, lr=0.1)
    assert graph(iter([teams(WORKED), teams(other)]), None, lr=0.1).equals(whole)


def test_what_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(DataError, match="edge 0-1: probability must be strictly between 0 and 1 to be learnt, got 1; "):
        graph(iter([teams(WORKED, chances=CHANCES | {(0, 1): 1.0})]), None)
    with pytest.raises(DataError, match="no team to learn from"):
        graph(iter([teams(WORKED).with_columns({"purpose": ["probe"] * 4})]), None)
    first = graph(iter([teams(WORKED)]), None, lr=1.0)
    with pytest.raises(DataError, match="row 0: edge 0-1 was drawn from another graph than the memory's"):
        graph(iter([teams(WORKED)]), first)
    fewer = {pair: CHANCES[pair] for pair in PAIRS[:3]}
    with pytest.raises(DataError, match="edge 0-3 was drawn from another graph"):
        graph(iter([teams(WORKED)]), graph(iter([teams(WORKED, chances=fewer)]), None, lr=1e-9))
    for lr in (0.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"memory graph: lr must be (above 0|a number)"):
            MEMORIES.settle("graph", {"lr": lr})


def test_no_graphs_drawn_is_no_division_by_zero() -> None:
    table = graph(iter([teams([(set(), 1.0), (set(), 0.0)])]), None, lr=0.1)
    np.testing.assert_allclose(table["probability"].to_pylist(), [0.6, 0.5, 0.2, 0.4], rtol=1e-6)  # sorted pairs
    assert Drawn.of(teams(WORKED)).leaf(np.zeros(16)).present is None


# -------------------------------------------------------------------------------------------------- the commands

PLAIN = "template='{question}{heard}'"


def test_a_team_draws_by_the_graph_it_learnt(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path.joinpath
    team = "sample --strategy team --set roles=[a,b,c] --prompts 8 -n 8 --seed 2 --max-tokens 32 --device cpu"
    for line in (
        [*team.split(), "--set", PLAIN, "-o", path("0")],
        f"score {path('0')} -o {path('1')}".split(),
        f"score {path('1')} --with edges -o {path('2')}".split(),
        f"remember {path('2')} --what graph --set lr=2.0 -o {path('g0')}".split(),
        [*team.split(), "--set", PLAIN, "--set", f"graph={path('g0')}", "--round", "1", "-o", path("3")],
        f"score {path('3')} -o {path('4')}".split(),
        f"remember {path('4')} --what graph --earlier {path('g0')} -o {path('g1')}".split(),
        [*team.split(), "--set", f"graph={path('g0')}", "--set", "threshold=0.5", "-o", path("5")],
        f"validate {path('2')} {path('5')} --ignore dead_group".split(),
    ):
        result = cli(*line)
        if line[0] != "validate":
            assert result.exit_code == 0, f"{line}: {result.output}"
    known = MEMORIES["graph"].read(path("g0"))
    chance = known["probability"].to_pylist()
    assert len(set(chance)) == 3
    drawn = RolloutFile(path("3")).read()
    np.testing.assert_allclose(drawn.ragged("edge.probability")[0], chance, rtol=1e-6)
    sure = RolloutFile(path("5")).read().ragged("edge.kept")
    assert all(sure[row].tolist() == [value > 0.5 for value in chance] for row in range(64))
    graphs = RolloutFile(path("2")).read()
    contents = [prompt[-1]["content"] for prompt in graphs.table.column("prompt").to_pylist()]
    heard = [sum(row["kept"][place] for place in (1, 2)) for row in graphs.table.column("edge").to_pylist()]
    assert [content.count("says:") for content in contents] == heard
    assert not any("You are agent" in content for content in contents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["graph=G", "roles=[a,b]"], "G: the graph has 3 agents, but strategy team has 2; give as many roles"),
        (["graph=G", "roles=[a,b,c]", "edges={0-1: 0.5}"], "graph and edges both set"),
        (["graph=none", "roles=[a,b,c]"], "none: no such file"),
        (["template='{heard}'"], "template must have {question} in it"),
        (["told=nothing"], "told must have {text} in it"),
    ],
)
def test_faults_of_a_team(
    options: list[str], message: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    three = {pair: CHANCES[pair] for pair in PAIRS[:3]}
    write_rollouts(Path("r"), [teams(WORKED[:2], chances=three)], Provenance())
    assert cli("remember", "r", "--what", "graph", "-o", "G").exit_code == 0
    words = [word for option in options for word in ("--set", option)]
    result = cli("sample", "--strategy", "team", "--prompts", "1", *words, "-o", "out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert message in result.stderr
