"""`apportion schema`: the columns, and the JSON Schema of recipes, which editors check with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from apportion.formats.canonical import full_schema
from apportion.formats.recipes import RECIPES, recipe_names
from apportion.formats.schema import FIELDS, REQUIRED, arrow_type, paths_of
from apportion.stages.commands.recipe_schema import recipe_schema
from apportion.stages.core.table import commands
from jsonschema import Draft202012Validator
from typer.testing import Result

Cli = Callable[..., Result]


def printed(cli: Cli, *options: str) -> str:
    result = cli("schema", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_the_table_has_every_column_with_ruler_unit_and_meaning(cli: Cli) -> None:
    head, *lines = printed(cli).splitlines()
    assert head.split() == ["ruler", "column", "type", "unit", "meaning"]
    assert [line.split()[1] for line in lines[: len(FIELDS)]] == list(FIELDS)
    assert {"step.search_value", "problem.success", "pair_id", "edit"} <= {line.split()[1] for line in lines}
    for line, field in zip(lines, FIELDS.values(), strict=False):
        assert line.split()[0] == field.ruler
        assert line.endswith(field.meaning)
        assert field.unit in line
    assert {line.index(field.meaning) for line, field in zip(lines, FIELDS.values(), strict=False)} == {
        head.index("meaning")
    }


def test_json_is_an_object_a_column(cli: Cli) -> None:
    entries = json.loads(printed(cli, "--json"))
    assert [entry["column"] for entry in entries[: len(FIELDS)]] == list(FIELDS)
    (searched,) = (entry for entry in entries if entry["column"] == "step.search_value")
    assert (searched["arrow"], searched["meaning"]) == (
        "list<double>",
        "value that the search has of the step (strategy mcts)",
    )
    assert {entry["column"] for entry in entries if entry["required"]} == set(REQUIRED)
    assert {entry["column"] for entry in entries if entry["axis"]} >= {
        "token.id",
        "token.mask",
        "step.start",
        "node.end",
    }
    (logprob,) = (entry for entry in entries if entry["column"] == "token.logprob")
    assert logprob == {
        "column": "token.logprob", "ruler": "token", "type": "float", "arrow": "list<float>", "unit": "nat",
        "required": False, "axis": False, "meaning": FIELDS["token.logprob"].meaning,
    }  # fmt: skip


@pytest.mark.parametrize("options", [("--arrow",), ("--as", "arrow")])
def test_the_arrow_form_names_every_type(options: tuple[str, ...], cli: Cli) -> None:
    text = printed(cli, *options)
    assert "reward: double\n" in text
    assert "token: struct<\n    id: list<int32>\n    mask: list<bool>\n" in text
    assert set(paths_of(full_schema())) == set(FIELDS)
    assert (
        full_schema().field("token").type.field("logprob").type == arrow_type("token.logprob") == pa.list_(pa.float32())
    )


def test_a_form_that_is_none_is_a_usage_error(cli: Cli) -> None:
    result = cli("schema", "--as", "xml")
    assert result.exit_code == 2
    assert "'xml' is not one of 'table', 'arrow', 'markdown', 'recipe'" in result.stderr


# ---------------------------------------------------------------------------------------------------- of recipes


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    found = recipe_schema()
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def faults(validator: Draft202012Validator, text: str) -> list[str]:
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


def step(validator: Draft202012Validator, text: str) -> list[str]:
    return faults(validator, f"steps: [{{{text}}}]")


def test_it_is_printed_as_json(cli: Cli, validator: Draft202012Validator) -> None:
    assert json.loads(printed(cli, "--as", "recipe")) == validator.schema
    assert json.loads(printed(cli, "--as", "recipe", "--json")) == validator.schema


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_valid(name: str, validator: Draft202012Validator) -> None:
    assert faults(validator, (RECIPES / f"{name}.yaml").read_text()) == []


def test_the_recipe_of_the_tests_is_valid(recipe_of_tests: str, validator: Draft202012Validator) -> None:
    assert faults(validator, recipe_of_tests) == []


@pytest.fixture
def recipe_of_tests() -> str:
    text = (Path(__file__).parents[1] / "stages" / "run" / "conftest.py").read_text()
    return text.partition('RECIPE = """')[2].partition('"""')[0]


@pytest.mark.parametrize(
    "text",
    [
        "sample: {out: a, prompts: '${n * 2}', n: '${n}', temperature: '${t}'}",
        "sample: {out: a, prompts: 3, temperature: 1, set: {rows_at_once: 8}}",
        "sample: {out: a, split: '${split}', task_set: '${options}'}",
        "sample: {out: a, strategy: rose, set: {epsilon: 0.5, metric: '${metric}', top: null}}",
        "sample: {out: a, strategy: branch_schedule, set: {factors: [2, 2]}, task_set: {terms: 4}}",
        "sample: {out: a, strategy: theirs, set: {anything: [1]}}",
        "sample: {out: a, task: reasoning_gym/chain_sum, task_set: {min_terms: 2}}",
        "sample: {out: a, task: tool/calculator, task_set: {of: arithmetic, terms: 4}}",
        "train: {rollouts: x, out: p, lr: 3e-4, fresh_optimizer: '${fresh}', reference: null}",
        "train: {rollouts: '${latest(\"score\")}', out: p, lr: 1.0e-6, fresh_optimizer: true}",
        "assign-credit: {rollouts: x, method: my_method, out: a}",
        "eval curve: {reports: \"${every('eval policy')}\"}",
        "eval policy: {k: [1, '${n}'], at: 3}",
        "eval policy: ",
        "loop: {var: i, range: '${n}', steps: [log: {path: x}]}",
        "loop: {var: i, in: [1, a], independent: true, steps: [loop: {var: j, range: 2, steps: [log: {path: x}]}]}",
        "loop: {var: i, in: '${names}', steps: [log: {path: x}]}",
    ],
)
def test_what_a_recipe_may_say(text: str, validator: Draft202012Validator) -> None:
    assert step(validator, text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampel: {out: a}", "'sampel' was unexpected"),
        ("sample: {out: a, promts: 3}", "'promts' was unexpected"),
        ("sample: {out: a, force: true}", "'force' was unexpected"),
        ("sample: {}", "'out' is a required property"),
        ("sample: {out: a, prompts: many}", "'many' is not valid"),
        ("sample: {out: a, prompts: 'round-${n}'}", "'round-${n}' is not valid"),
        ("sample: {out: a, prompts: 2.5}", "2.5 is not valid"),
        ("sample: {out: a, split: dev}", "'dev' is not valid"),
        ("sample: {out: 3}", "3 is not of type 'string'"),
        ("sample: {out: a, strategy: rose, set: {epsilon: 3}}", "is not valid under any"),
        ("sample: {out: a, strategy: rose, set: {epsilom: 0.5}}", "is not valid under any"),
        ("sample: {out: a, set: {epsilon: 0.5}}", "is not valid under any"),  # not of `independent`, the default
        ("sample: {out: a, task_set: {terms: 9}}", "is not valid under any"),
        ("assign-credit: {rollouts: x, method: grpo, set: {scale: both}, out: a}", "is not valid under any"),
        ("train: {rollouts: x, out: p, fresh_optimizer: perhaps}", "'perhaps' is not valid"),
        ("sample: {out: a}, score: {rollouts: a, out: b}", "has too many properties"),
        ("loop: {var: i, range: 3, in: [1], steps: [log: {path: x}]}", "valid under each of"),
        ("loop: {var: i, steps: [log: {path: x}]}", "is not valid under any"),
        ("loop: {var: i, range: 3, steps: []}", "non-empty"),
        ("loop: {var: i, rang: 3, steps: [log: {path: x}]}", "'rang' was unexpected"),
    ],
)
def test_what_a_recipe_may_not_say(text: str, message: str, validator: Draft202012Validator) -> None:
    assert any(message in fault for fault in step(validator, text)), step(validator, text)


@pytest.mark.parametrize(
    "text",
    [
        "assign-credit: {rollouts: x, out: a, method: 'grpo,rloo'}",
        "assign-credit: {rollouts: x, out: a, method: [grpo, rloo], set: {grpo.scale: none}}",
        "assign-credit: {rollouts: x, out: a, method: 'grpo,rloo', set: {grpo.scale: none, other.x: 3}}",
        "assign-credit: {rollouts: x, out: a, method: grpo, set: {grpo.scale: none}}",
        "assign-credit: {rollouts: x, out: a, method: '${method}', set: '${set}'}",
        "score: {rollouts: x, out: a, with: [verify, 'mine.py:reward'], set: {reward.scale: 2}}",
        "score: {rollouts: x, out: a, set: {verify.truncated: 0.25}}",
        "score: {rollouts: x, out: a, with: 'verify, steps', set: {steps.by: newline}}",
    ],
)
def test_a_recipe_may_name_several(text: str, validator: Draft202012Validator) -> None:
    assert step(validator, text) == []


@pytest.mark.parametrize(
    "text",
    [
        "assign-credit: {rollouts: x, out: a, method: [grpo, 3]}",
        "assign-credit: {rollouts: x, out: a, method: [grpo, rloo], set: {grpo.scale: both}}",
        "assign-credit: {rollouts: x, out: a, method: grpo, set: {rloo.scale: none}}",
    ],
)
def test_a_recipe_that_names_several_wrongly(text: str, validator: Draft202012Validator) -> None:
    assert step(validator, text)


@pytest.mark.parametrize("text", ["step: []", "steps: []", "- sample", "vars: [1]\nsteps: [log: {path: x}]"])
def test_what_is_no_recipe(text: str, validator: Draft202012Validator) -> None:
    assert faults(validator, text)


def test_it_completes_with_defaults_help_and_names(validator: Draft202012Validator) -> None:
    schema: Any = validator.schema
    definitions = schema["$defs"]
    sample = definitions["command-sample"]["properties"]
    assert sample["temperature"]["default"] == 1.0
    assert (
        sample["prompts"]["description"]
        == "Number of distinct problems; the default is 64, or all if a file has fewer."
    )
    assert {"enum": ["train", "test", "all"]} in sample["split"]["anyOf"]
    method = definitions["command-assign-credit"]["properties"]["method"]["anyOf"][0]["enum"]
    assert {"grpo", "rloo", "tempo"} <= set(method)
    for name, command in commands().items():
        found = definitions[f"command-{name.replace(' ', '-')}"]
        assert set(found["properties"]) == set(command.options()) - {"force"}
        assert found["description"] == command.summary
