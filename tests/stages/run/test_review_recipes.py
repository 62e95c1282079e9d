"""The recipes in which a policy looks at its own work, small: a warm start teaches it how, and then it does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.formats.recipes import load_recipe, with_settings
from apportion.formats.rollouts import Rollouts
from apportion.stages.run import run
from apportion.stages.run._run import Ran
from apportion.stages.run.plan import plan_of
from typer.testing import Result

SMALL: dict[str, Any] = {"lessons": 64, "warmup_epochs": 6, "rounds": 1, "prompts": 8, "n": 4, "eval_prompts": 8}
EXTRA: dict[str, dict[str, Any]] = {
    "search-r2": {},
    "rise": {},
    "int": {"interventions": 8, "learnt": "'intervention' in flags or reward == 1"},
    "r3l": {"lessons": 32, "reflection_tokens": 200},
}
ANSWERS = {"search-r2": "verdict", "rise": "edit", "int": "intervention", "r3l": "reflection"}


@pytest.mark.parametrize("name", EXTRA)
def test_a_warm_start_and_a_round(name: str, tmp_path: Path, cli: Callable[..., Result]) -> None:
    settings = SMALL | EXTRA[name]
    ran = run(name, folder=tmp_path, settings=settings)
    assert isinstance(ran, Ran)
    assert ran.ran == ran.steps == len(plan_of(load_recipe(name), with_settings(load_recipe(name), settings), tmp_path))
    lessons = RolloutFile(tmp_path / "warmup-0/lessons.parquet").read()
    taught = lessons.take(np.flatnonzero(lessons.flagged("demonstration")))
    assert sum(f"/{ANSWERS[name]}" in each for each in taught.strings("rollout_id")) > 20
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "warmup-0/policy/metrics.jsonl").read_text().splitlines()
    ]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) / 2
    for path in sorted(tmp_path.rglob("*.parquet")):
        result = cli("validate", path, "--ignore", "singleton")
        assert result.exit_code == 0, (path, result.stdout)
    assert len(json.loads((tmp_path / "after.json").read_text())["per_problem"]) == 8
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")


def test_without_an_intervention_the_policy_stays_as_it_was(tmp_path: Path) -> None:
    settings = SMALL | {
        "lessons": 4,
        "warmup_epochs": 1,
        "interventions": 2,
        "eval_prompts": 1,
        "k": 1,
        "critic_tokens": 8,
    }
    run("int", folder=tmp_path, settings=settings)
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert str(tmp_path / "mended") in [entry["out"] for entry in journal if entry["quiet"]]


def flags_of(batch: Rollouts) -> dict[str, np.ndarray[Any, Any]]:
    names = {flag for row in batch.arrow("flags").to_pylist() for flag in row or ()}
    return {name: batch.flagged(name) for name in names}


def tokens_of(policy: Path) -> float:
    """How many tokens a training with one update used."""
    [update] = [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]
    return update["trained_tokens"]


@pytest.mark.long
@pytest.mark.parametrize("name", EXTRA)
def test_what_the_recipe_is_named_after_is_trained(name: str, tmp_path: Path) -> None:
    """After a warm start as long as the recipe's own, and one round."""
    own = {"rise": {"epochs": 1, "minibatch": 0}, "int": {"interventions": 48, "intervention_epochs": 1}}
    run(name, folder=tmp_path, settings={"rounds": 1, "prompts": 16, "eval_prompts": 2} | own.get(name, {}))
    made = {
        "search-r2": "0/credit.parquet",
        "rise": "0/pairs.parquet",
        "int": "targets.parquet",
        "r3l": "0/credit.parquet",
    }
    batch = RolloutFile(tmp_path / made[name]).read()
    flags = flags_of(batch)
    if name == "search-r2":  # verdicts are obeyed: what is not accepted leaves its parent where the verdict cuts it
        refined = np.flatnonzero(flags["refined"])
        steps, parents = batch.ragged("step.start"), {each: row for row, each in enumerate(batch.strings("rollout_id"))}
        assert len(refined) and flags["accepted"].any()
        for row in refined.tolist():
            parent, fork = parents[batch.strings("parent_id")[row]], batch.arrow("fork")[row].as_py()
            assert fork in steps[parent].tolist()
            assert (batch.token_ids[row][:fork] == batch.token_ids[parent][:fork]).all()
        assert batch.ragged("token.advantage").take(refined).values.any()
    elif name == "rise":
        paired = batch.arrow("pair_id").is_valid().to_numpy(zero_copy_only=False)
        assert (paired & flags["edited"]).any()
        assert tokens_of(tmp_path / "0/policy") == batch.take(np.flatnonzero(paired)).mask.sum()
    elif name == "int":
        learnt = flags["intervention"] & ~flags["filtered"]
        assert learnt.any()
        assert (flags["filtered"] == ~flags["intervention"]).all()
        lines = (tmp_path / "mended/metrics.jsonl").read_text().splitlines()
        assert (
            sum(json.loads(line)["trained_tokens"] for line in lines) == batch.take(np.flatnonzero(learnt)).mask.sum()
        )
    else:
        for flag in ("retried", "reflection", "guided"):
            rows = np.flatnonzero(flags[flag])
            assert batch.ragged("token.advantage").take(rows).values.any(), flag


@pytest.mark.parametrize("name", EXTRA)
def test_a_policy_that_can_do_it_needs_no_warm_start(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    none = {"reflector": None, "guidance": None, "refiner": None, "solver": None, "critic": None, "editor": None}
    settings = {"warmups": 0} | {key: None for key in none if key in recipe.vars}
    plan = plan_of(recipe, with_settings(recipe, settings), tmp_path)
    strategies = [step.options["strategy"] for step in plan if step.command.name == "sample"]
    assert "critique" not in strategies
    first = next(step for step in plan if step.command.name == "sample")
    assert first.options["model"] == "builtin:tiny"
    assert {"search-r2": "refine", "rise": "inject_errors", "int": "intervene", "r3l": "retry"}[name] in strategies
