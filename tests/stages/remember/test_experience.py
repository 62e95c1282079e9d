"""Experience: what rollouts teach, by rules and by a model, and how it goes from memory to memory."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import DataError, UsageError
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.models.policy import load_policy, load_tokenizer, render_prompt
from apportion.stages.remember._lessons import Played, by_rules, question
from apportion.stages.remember.experience import experience
from apportion.stages.remember.kind import MEMORIES
from typer.testing import Result

Cli = Callable[..., Result]
TINY = "builtin:tiny"
TOKENIZER = load_tokenizer(TINY)
Turns = Sequence[tuple[str, str]]


def batch_of(*rows: tuple[float, Turns], paid: Any = None, advice: Any = None) -> Rollouts:
    """Rollouts by reward and (observation, answer) of their turns; one token answers, one is read after it."""
    said = [[TOKENIZER(answer, add_special_tokens=False)["input_ids"] for _, answer in turns] for _, turns in rows]
    assert all(len(ids) == 1 for row in said for ids in row)
    made = rollouts_of(
        [reward for reward, _ in rows],
        tokens=[[token for ids in row for token in (*ids, 5)] for row in said],
        mask=[[True, False] * len(row) for row in said],
    )
    columns: dict[str, Any] = {
        "step.start": [[2 * turn for turn in range(len(turns))] for _, turns in rows],
        "step.end": [[2 * turn + 1 for turn in range(len(turns))] for _, turns in rows],
        "step.state": [[state for state, _ in turns] for _, turns in rows],
        "step.reward": paid or [[0.0] * (len(turns) - 1) + [reward] for reward, turns in rows],
    }
    return made.with_columns(columns | ({"step.advice": advice} if advice is not None else {}))


def library(*batches: Rollouts, earlier: Any = None, **options: Any) -> Any:
    return experience(iter(batches), earlier, **{"model": TINY, **options})


def entries(table: Any) -> list[tuple[str, str, str, float]]:
    return [
        (row["kind"], row["level"], row["text"], row["score"]) for row in table.to_pylist() if row["kind"] != "cluster"
    ]


WON = (1.0, [("dark", "7"), ("light", "12")])
LOST = (0.0, [("dark", "3"), ("dark", "3"), ("dark", "4")])


def test_what_a_success_and_a_failure_teach() -> None:
    table = library(batch_of(WON, LOST))
    assert entries(table) == [
        ("strategy", "principle", "2 turns are enough to earn 1.", 1.0),
        ("strategy", "method", "Turn by turn, this earned 1: 7, 12", 1.0),
        ("strategy", "example", "After reading light, 12 earned 1.", 1.0),
        ("warning", "mistake", "After reading dark, 4 ended it with 0.", 0.5),
        ("warning", "pattern", "3 was tried 2 times on reading dark, and led nowhere.", 0.5),
        ("warning", "diagnostic", "Reading the same thing again, here 3 times dark, is going in circles.", 0.5),
    ]
    rows = table.to_pylist()
    assert {row["rollout_id"] for row in rows[:3]} == {"r0"}
    assert [(row["text"], row["members"], row["retrieved"]) for row in rows[6:]] == [("dark", 4, 0), ("light", 1, 0)]
    assert all(row["clusters"] == [] for row in rows[:6])


def test_templates_and_lengths_are_options() -> None:
    words = {"principle": "", "method": "", "example": "{state}:{action}", "mistake": "{state}!", "pattern": ""}
    table = library(batch_of(WON, LOST), templates={**words, "diagnostic": ""}, characters=3)
    assert [text for _, _, text, _ in entries(table)] == ["lig:12", "dar!"]


def test_a_failure_that_did_nothing_twice_has_made_one_mistake() -> None:
    played = Played("r", -1.0, ["a", "b"], ["1", "2"], [0.0, -1.0], [True, True])
    found = by_rules(played, "warning", dict.fromkeys(("mistake", "pattern", "diagnostic"), "x"))
    assert [(each.level, each.turn) for each in found] == [("mistake", 1)]
    assert by_rules(Played("r", 0.0, [], [], [], []), "warning", {"mistake": "x"}) == []
    (score,) = {score for *_, score in entries(library(batch_of((-2.0, [("a", "1")]), WON))) if score != 1.0}
    assert score == 2.0  # the reward without its sign


def numbered(rewards: Sequence[float]) -> Rollouts:
    return batch_of(*((reward, [(f"state {number}", "1")]) for number, reward in enumerate(rewards)))


def learnt_from(table: Any) -> list[str]:
    return [row["rollout_id"] for row in table.to_pylist() if row["level"] in ("example", "mistake")]


@pytest.mark.parametrize(
    ("rewards", "options", "rows"),
    [
        ([0.1, 0.9, 0.5, 0.3], {}, ["r1", "r2", "r0", "r3"]),  # the median is 0.4
        ([0.1, 0.9, 0.5, 0.3], {"success": 0.5}, ["r1", "r2", "r0", "r3"]),
        ([0.1, 0.9, 0.5, 0.3], {"success": 0.6}, ["r1", "r0", "r3", "r2"]),
        ([0.1, 0.9, 0.5, 0.3], {"successes": 1, "failures": 1}, ["r1", "r0"]),
        ([1.0, 1.0], {"success": 0.5}, ["r0", "r1"]),
        ([0.0, 0.0], {}, ["r0", "r1"]),
        ([0.1, 0.9, 0.5, 0.3], {"max_strategies": 1, "max_warnings": 0}, ["r1"]),
        ([0.1, 0.9, 0.5, 0.3], {"max_strategies": 4, "max_warnings": 2}, ["r1", "r2", "r0", "r3"]),  # overshoots
    ],
)
def test_whom_is_learnt_from(rewards: list[float], options: dict[str, Any], rows: list[str]) -> None:
    words = {"example": "{state}", "mistake": "{state}", "pattern": "", "diagnostic": ""}
    for parts in (1, 2):
        whole = numbered(rewards)
        batches = [whole] if parts == 1 else [whole.slice(0, 1), whole.slice(1, len(rewards))]
        assert learnt_from(library(*batches, templates=words, novelty=1.0, **options)) == rows


def test_what_was_shown_is_counted_and_linked_by_the_next_memory() -> None:
    first = library(batch_of(WON, LOST))
    best, worst = first["id"][1].as_py(), first["id"][3].as_py()
    shown = batch_of(
        (0.0, [("dark", "1"), ("cold", "1")]), (0.0, [("cold", "1")]), advice=[[f"{best} {worst}", best], [None]]
    )
    second = library(shown, earlier=first, max_strategies=0, max_warnings=0)
    rows = {row["id"]: row for row in second.to_pylist()}
    clusters = {row["text"]: row for row in second.to_pylist() if row["kind"] == "cluster"}
    assert {text: (row["members"], row["retrieved"], row["iteration"]) for text, row in clusters.items()} == {
        "dark": (5, 1, 0), "light": (1, 0, 0), "cold": (2, 1, 1)
    }  # fmt: skip
    assert (rows[best]["retrieved"], rows[worst]["retrieved"]) == (2, 1)
    assert rows[best]["clusters"] == [clusters["dark"]["id"], clusters["cold"]["id"]]
    assert rows[worst]["clusters"] == [clusters["dark"]["id"]]
    assert sum(row["retrieved"] for row in rows.values() if row["kind"] != "cluster") == 3


def test_links_by_steps_join_an_entry_to_where_it_comes_from() -> None:
    table = library(batch_of(WON, LOST), links="steps")
    names = {row["text"]: row["id"] for row in table.to_pylist() if row["kind"] == "cluster"}
    links = {row["level"]: row["clusters"] for row in table.to_pylist()}
    assert links["method"] == links["principle"] == [names["dark"], names["light"]]
    assert (links["example"], links["mistake"]) == ([names["light"]], [names["dark"]])
    again = library(batch_of((1.0, [("new place", "7"), ("light", "12")]), LOST), earlier=table, links="steps")
    (method,) = (row for row in again.to_pylist() if row["level"] == "method")
    assert (len(method["clusters"]), method["iteration"]) == (3, 0)  # the entry is the same, and linked there, too


def test_only_what_the_policy_made_of_the_prompt_is_looked_at() -> None:
    batch = batch_of(WON, LOST, (5.0, [("probe", "1")])).with_columns({"purpose": ["train", "train", "probe"]})
    assert library(batch).equals(library(batch_of(WON, LOST)))
    nothing = library(batch.with_columns({"purpose": ["probe"] * 3}))
    assert nothing.num_rows == 0
    reflected = batch_of(WON, LOST, (1.0, [("asked", "1")])).with_flag("reflection", np.array([False, False, True]))
    assert library(reflected).equals(library(batch_of(WON, LOST)))


def test_faults() -> None:
    with pytest.raises(DataError, match="row 1, column 'reward': missing"):
        library(batch_of(WON, (float("nan"), LOST[1])))
    unseen = batch_of(WON, LOST).with_columns({"step.state": [["dark", "light"], None]})
    with pytest.raises(DataError, match=r"row 1, column 'step\.state': missing"):
        library(unseen)
    with pytest.raises(
        UsageError, match=r"memory experience: unknown level of templates 'principel'; did you mean 'principle'"
    ):
        library(batch_of(WON), templates={"principel": "x"})
    for options in (
        {"similarity": 0.0}, {"novelty": 1.5}, {"max_clusters": 0}, {"warnings_per_level": 0}, {"successes": -1},
        {"failures": -1}, {"compared": -1}, {"characters": -1}, {"warning_score": float("nan")}, {"max_tokens": 0},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="memory experience: "):
            MEMORIES.settle("experience", options)


# ----------------------------------------------------------------------------------------- a model as the extractor


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of builtin:tiny that was trained to answer the question about WON."""
    policy = load_policy(TINY, device="cpu", shared=False)
    tokenizer, model = policy.tokenizer, policy.model
    played = Played("r0", 1.0, ["dark", "light"], ["7", "12"], [0.0, 1.0], [True] * 2)
    asked = render_prompt(tokenizer, [{"role": "user", "content": question("strategy", played)}])
    said = [*tokenizer("Hm\nPrinciple: go", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(300):
        optimizer.zero_grad()
        loss = model(input_ids=torch.tensor([asked + said]), labels=torch.tensor([[-100] * len(asked) + said])).loss
        if loss.item() < 0.02:
            break
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("taught")
    policy.save(folder)
    return str(folder)


def test_a_model_is_asked(taught: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"extractor": taught, "device": "cpu", "max_tokens": 60}
    assert entries(library(batch_of(WON, LOST), failures=0, **options)) == [("strategy", "principle", "go", 1.0)]
    assert "experience: entries from 1 rollouts: 1 added" in capsys.readouterr().err


def test_answers_without_an_entry_are_no_entries() -> None:
    table = library(batch_of(WON, LOST), extractor=TINY, device="cpu", max_tokens=8)
    assert entries(table) == []
    assert table.num_rows == 2


# --------------------------------------------------------------------------------------------------- the command


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    first, second, m0, m1 = (tmp_path / name for name in ("a.parquet", "b.parquet", "m0", "m1"))
    write_rollouts(first, [batch_of(WON, LOST)], Provenance())
    write_rollouts(second, [batch_of((1.0, [("cold", "9")]), LOST)], Provenance())
    result = cli("remember", first, "--what", "experience", "-o", m0)
    assert (result.exit_code, "its history names no model" in result.stderr) == (2, True), result.output
    assert cli("remember", first, "--what", "experience", "--set", f"model={TINY}", "-o", m0).exit_code == 0
    options = (
        "--what",
        "experience",
        "--earlier",
        m0,
        "--set",
        f"model={TINY}",
        "--set",
        "templates={method: '{actions}'}",
    )
    assert cli("remember", second, *options, "-o", m1).exit_code == 0
    table = MEMORIES["experience"].read(m1)
    assert {"Turn by turn, this earned 1: 7, 12", "9"} <= set(table["text"].to_pylist())
    assert json.loads(cli("log", m1, "--json").stdout)
