"""The recipes in which a policy looks at its own work, small: a warm start teaches it how, and then it does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile
from apportion.formats.recipes import load_recipe, with_settings
from apportion.stages.run import run
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


def test_where_no_intervention_is_kept_the_recipe_says_so(tmp_path: Path) -> None:
    settings = SMALL | {
        "lessons": 4,
        "warmup_epochs": 1,
        "interventions": 2,
        "eval_prompts": 1,
        "k": 1,
        "critic_tokens": 8,
    }
    with pytest.raises(DataError, match=r"int\.yaml, step 6 \(filter\): .*none of 8 rollouts matches"):
        run("int", folder=tmp_path, settings=settings)


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
