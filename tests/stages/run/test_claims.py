"""Every recipe, small: what it is named after took part, in the rows that are trained and in their credit.

Those in which a policy looks at its own work are in test_review_recipes.py.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.flags import UNTRAINED
from apportion.formats.parquet import RolloutFile
from apportion.formats.recipes import load_recipe
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit import assign_credit
from apportion.stages.run import run

SMALL: dict[str, Any] = {"rounds": 1, "prompts": 8, "n": 8, "eval_prompts": 2, "eval_n": 1, "max_tokens": 40}
OWN: dict[str, dict[str, Any]] = {
    "adora": {"rounds": 2},
    "branchgrpo": {"prompts": 4},
    "compare": {"blocks": 1, "updates": 1, "seeds": [1]},
    "dapo": {"prompts": 48, "live": 6, "n": 2},
    "gigpo-lake": {"n": 16, "max_tokens": 170},
    "graph-grpo": {"rounds": 2, "prompts": 2},
    "groundedprm": {"prompts": 4, "simulations": 4},
    "guide": {"prompts": 64, "n": 4},
    "knapsack": {"rounds": 2},
    "make-tiny": {"demonstrations": 256, "epochs": 1},
    "quickstart": {"blocks": 1, "updates": 1},
    "slate": {"prompts": 4, "budget": 2},
    "slea": {"prompts": 32, "n": 16, "rounds": 2, "warmup": 0, "max_tokens": 460},
    "smollm2": {"model": "builtin:tiny", "task": "arithmetic"},
    "spo-tree": {"prompts": 4},
    "treerl": {"prompts": 4},
    "vineppo": {"prompts": 4, "n": 3, "k": 3},
}


def settings_of(name: str, own: dict[str, Any]) -> dict[str, Any]:
    """What makes a recipe small, as far as it has such variables."""
    known = load_recipe(name).vars
    return {key: value for key, value in SMALL.items() if key in known} | own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which a recipe ran, once for all tests."""

    @cache
    def of(name: str) -> Path:
        made = tmp_path_factory.mktemp(name)
        run(name, folder=made, settings=settings_of(name, OWN.get(name, {})))
        return made

    return of


def read(path: Path) -> Rollouts:
    return RolloutFile(path).read()


def trained(batch: Rollouts) -> Rollouts:
    """The rows that `train` takes."""
    use = batch.for_training & ~np.any([batch.flagged(flag) for flag in UNTRAINED], axis=0)
    return batch.take(np.flatnonzero(use & batch.arrow("token.advantage").is_valid().to_numpy(zero_copy_only=False)))


def metrics(policy: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]


def by_token(batch: Rollouts) -> int:
    """How many rows have credit that is not the same for all tokens of the policy's."""
    found = 0
    ruler = batch.ragged("token.advantage")
    for row in range(len(batch)):
        own = ruler[row][batch.ragged("token.mask")[row]]
        found += len(own) > 1 and float(np.ptp(own)) > 1e-4
    return found


def met_again(batch: Rollouts) -> int:
    """How many steps of a group began in a state in which another one of the group had begun."""
    found = 0
    for group in range(len(batch.groups)):
        rows = batch.slice(int(batch.groups.offsets[group]), int(batch.groups.offsets[group + 1]))
        states = [state for row in rows.arrow("step.state").to_pylist() for state in dict.fromkeys(row)]
        found += len(states) - len(set(states))
    return found


def credit_by(batch: Path, method: str, out: Path) -> Any:
    """What another method says of the same rows."""
    assign_credit(batch, method=method, column="other", out=out)
    return read(out).ragged("token.advantage_other").values


@pytest.mark.long
def test_grpo(folder: Callable[[str], Path]) -> None:
    batch = read(folder("grpo") / "0/credit.parquet")
    reward, first = batch.numbers("reward"), batch.ragged("token.advantage")
    mean = batch.groups.spread(batch.groups.mean(reward))
    live = (reward != mean) & (first.segments.sizes > 0)
    assert live.any()
    np.testing.assert_array_equal(np.sign(first.segments.first(first.values)[live]), np.sign(reward - mean)[live])
    assert metrics(folder("grpo") / "0/policy")[0]["grad_norm"] > 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["tempo", "quickstart", "smollm2"])
def test_tempo(folder: Callable[[str], Path], name: str) -> None:
    [path] = folder(name).glob("*/credit.parquet")
    assert by_token(trained(read(path))) > 0


@pytest.mark.long
def test_compare(folder: Callable[[str], Path]) -> None:
    one, other = (read(folder("compare") / f"{method}/1/0/credit.parquet") for method in ("grpo", "tempo"))
    assert one.arrow("token.id").equals(other.arrow("token.id"))
    assert by_token(one) == 0 < by_token(other)


@pytest.mark.long
def test_gigpo(folder: Callable[[str], Path]) -> None:
    batch = read(folder("gigpo") / "0/credit.parquet")
    assert met_again(batch)
    assert by_token(trained(batch)) > 0


@pytest.mark.long
def test_gigpo_lake(folder: Callable[[str], Path]) -> None:
    batch = read(folder("gigpo-lake") / "0/credit.parquet")
    assert met_again(batch)
    assert by_token(trained(batch)) > 0


@pytest.mark.long
def test_slea(folder: Callable[[str], Path]) -> None:
    first, second = (read(folder("slea") / f"{round}/credit.parquet") for round in (0, 1))
    assert not [each for row in first.arrow("step.advice").to_pylist() for each in row if each]
    assert [each for row in second.arrow("step.advice").to_pylist() for each in row if each]
    assert len(trained(second))
    assert [
        each
        for row in read(folder("slea") / "advised.parquet").arrow("step.advice").to_pylist()
        for each in row
        if each
    ]


@pytest.mark.long
def test_graph_grpo(folder: Callable[[str], Path]) -> None:
    first, second = (
        read(folder("graph-grpo") / f"{round}/edges.parquet").ragged("edge.probability") for round in (0, 1)
    )
    assert (first.values == 0.5).all()
    assert (second.values != 0.5).any()
    kept = read(folder("graph-grpo") / "after.parquet")
    probability, drawn = kept.ragged("edge.probability").values, kept.ragged("edge.kept").values
    assert (drawn == (probability > 0.5)).all()


@pytest.mark.long
def test_vineppo(folder: Callable[[str], Path]) -> None:
    batch = read(folder("vineppo") / "0/credit.parquet")
    assert (batch.arrow("purpose").to_numpy(zero_copy_only=False) == "probe").any()
    assert by_token(trained(batch)) > 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["branchgrpo", "rose", "spo-tree", "treerl"])
def test_trees(folder: Callable[[str], Path], name: str) -> None:
    batch = read(folder(name) / "0/credit.parquet")
    forked = np.array([each is not None for each in batch.strings("parent_id")])
    assert forked.any()
    assert max(batch.arrow("fork").drop_null().to_pylist()) > 0
    assert by_token(trained(batch)) > 0


@pytest.mark.long
def test_groundedprm(folder: Callable[[str], Path]) -> None:
    batch = read(folder("groundedprm") / "0/credit.parquet")
    assert len(np.unique(batch.ragged("step.reward").values)) > 1
    assert by_token(trained(batch)) > 0


@pytest.mark.long
def test_slate(folder: Callable[[str], Path]) -> None:
    batch = trained(read(folder("slate") / "0/credit.parquet"))
    partial = batch.flagged("partial")
    assert partial.any()
    assert len(np.unique(batch.ragged("token.advantage").take(np.flatnonzero(partial)).values)) > 1


def test_dapo(folder: Callable[[str], Path]) -> None:
    batch = read(folder("dapo") / "0/credit.parquet")
    dead = batch.flagged("dead_group")
    mean = batch.groups.mean(batch.numbers("reward"))
    assert dead.any()
    assert ((mean > 0) & (mean < 1)).sum() >= OWN["dapo"]["live"]
    assert not batch.ragged("token.advantage").take(np.flatnonzero(dead)).values.any()


@pytest.mark.long
def test_knapsack(folder: Callable[[str], Path]) -> None:
    first, second = (read(folder("knapsack") / f"{round}/credit.parquet").groups.sizes for round in (0, 1))
    assert len(np.unique(first)) == 1
    assert len(np.unique(second)) > 1
    assert first.sum() == second.sum()


@pytest.mark.long
def test_adora(folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = folder("adora") / "1/credit.parquet"
    own = read(path).ragged("token.advantage").values
    plain = credit_by(path, "grpo", tmp_path / "other.parquet")
    live = plain != 0
    assert live.any()
    assert (np.abs(own[live] / plain[live] - 1) > 0.01).any()


def check_guide(folder: Path) -> None:
    """Hinted rows are trained on, with a ratio that corrects for the hint."""
    used = trained(read(folder / "0/credit.parquet"))
    hinted = np.flatnonzero(used.flagged("hinted"))
    assert used.ragged("token.advantage").take(hinted).values.any()
    read_instead = used.arrow("behaviour_prompt_ids")
    assert read_instead.drop_null().to_pylist() == read_instead.take(hinted).to_pylist()
    [update] = metrics(folder / "0/policy")
    assert update["trained_tokens"] == used.mask.sum()
    assert update["kl_old"] > 0.01  # 0, and a ratio of 1, where all rollouts read what is trained


def test_guide_without_its_warm_start(tmp_path: Path) -> None:
    """The built-in policy makes a little of two lines, though it was never shown how."""
    own = {"warmups": 0, "hint": "demonstration:2", "prompts": 24, "n": 4}
    run("guide", folder=tmp_path, settings=settings_of("guide", own))
    check_guide(tmp_path)


@pytest.mark.long
def test_guide(folder: Callable[[str], Path]) -> None:
    check_guide(folder("guide"))
    batch = read(folder("guide") / "0/hinted.parquet")
    hinted = batch.take(np.flatnonzero(batch.flagged("hinted")))
    assert hinted.numbers("reward").mean() > 0.5  # after the warm start


@pytest.mark.long
def test_make_tiny(folder: Callable[[str], Path]) -> None:
    batch = read(folder("make-tiny") / "demonstrations.parquet")
    assert batch.flagged("demonstration").all()
    losses = [each["loss"] for each in metrics(folder("make-tiny") / "tiny")]
    assert losses[-1] < losses[0]
