"""Recipes: what is written, what it means, and what is refused before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.errors import UsageError
from apportion.formats.recipes import expand, load_recipe, recipe_names, with_settings
from apportion.stages.core.options import parse_settings, plain_value, typed_options
from apportion.stages.run.plan import Planned, plan_of

VARIABLES = {"rounds": 3, "lr": 0.5, "name": "tempo", "deep": {"inner": {"n": 4}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${rounds}", 3),
        ("${ rounds * 2 + 1 }", 7),
        ("${rounds - 5}", -2),
        ("${-rounds}", -3),
        ("${rounds / 2}", 1.5),
        ("${rounds // 2}", 1),
        ("${rounds % 2}", 1),
        ("${(rounds + 1) * deep.inner.n}", 16),
        ("${deep.inner}", {"n": 4}),
        ("${name}", "tempo"),
        ("${'a' + name}", "atempo"),
        ("round-${rounds}/${name}.parquet", "round-3/tempo.parquet"),
        ("plain", "plain"),
        (7, 7),
        (None, None),
        (["${rounds}", {"k": "${lr}"}], [3, {"k": 0.5}]),
    ],
    ids=str,
)
def test_expressions(text: Any, value: Any) -> None:
    found = expand(text, VARIABLES, {}, "here")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${round}", "here: ${round}: unknown variable 'round'; did you mean 'rounds'?"),
        ("${deep.iner}", "no 'iner' in it"),
        ("${rounds / 0}", "division by zero"),
        ("${name * name}", "can't multiply"),
        ("${rounds +}", "not an expression"),
        ("${}", "not an expression"),
        ("${__import__('os')}", "not an expression recipes know"),
        ("${name.upper()}", "not an expression recipes know"),
        ("${[1, 2]}", "not an expression recipes know"),
    ],
)
def test_what_is_no_expression_names_its_place(text: str, message: str) -> None:
    with pytest.raises(UsageError) as fault:
        expand(text, VARIABLES, {}, "here")
    assert str(fault.value).startswith("here: ")
    assert message in str(fault.value)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., list[Planned]]:
    """The plan of a recipe's text, in the folder `run`."""

    def of(text: str, *settings: str) -> list[Planned]:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        recipe = load_recipe(str(path))
        return plan_of(recipe, with_settings(recipe, parse_settings(list(settings))), Path("run"))

    return of


SAMPLE = "sample: {out: 'a-${round}.parquet'}"


def test_a_loop_counts_from_zero(plan: Callable[..., list[Planned]]) -> None:
    steps = plan(f"steps: [loop: {{var: round, range: 3, steps: [{SAMPLE}]}}]")
    assert [step.out for step in steps] == ["run/a-0.parquet", "run/a-1.parquet", "run/a-2.parquet"]


def test_a_loop_goes_over_a_list(plan: Callable[..., list[Planned]]) -> None:
    steps = plan(f"steps: [loop: {{var: round, in: [x, 7], steps: [{SAMPLE}]}}]")
    assert [step.out for step in steps] == ["run/a-x.parquet", "run/a-7.parquet"]


def test_a_loop_of_no_turns_has_no_steps(plan: Callable[..., list[Planned]]) -> None:
    steps = plan(
        f"vars: {{n: 2}}\nsteps: [loop: {{var: round, range: '${{n}}', steps: [{SAMPLE}]}}, log: {{path: x}}]", "n=0"
    )
    assert [step.command.name for step in steps] == ["log"]


LATEST = """
steps:
  - loop:
      var: turn
      range: 2
      independent: {independent}
      steps:
        - train: {{rollouts: x.parquet, model: "${{latest('train', 'start')}}", out: "policy-${{turn}}"}}
        - eval policy: {{model: "${{latest('train')}}", out: "report-${{turn}}.json"}}
        - eval curve: {{reports: "${{every('eval policy')}}", out: "curve-${{turn}}.svg"}}
  - eval curve: {{reports: "${{every('eval policy')}}"}}
"""


def test_latest_and_every_see_what_was_made_before(plan: Callable[..., list[Planned]]) -> None:
    first, _, _, second, report, curve, last = plan(LATEST.format(independent="false"))
    assert first.options["model"] == "start"
    assert second.options["model"] == "run/policy-0"
    assert report.options["model"] == "run/policy-1"
    assert curve.options["reports"] == ["run/report-0.json", "run/report-1.json"]
    assert last.options["reports"] == ["run/report-0.json", "run/report-1.json"]


def test_a_turn_of_an_independent_loop_sees_itself_only(plan: Callable[..., list[Planned]]) -> None:
    _, _, _, second, report, curve, last = plan(LATEST.format(independent="true"))
    assert second.options["model"] == "start"
    assert report.options["model"] == "run/policy-1"
    assert curve.options["reports"] == ["run/report-1.json"]
    assert last.options["reports"] == ["run/report-0.json", "run/report-1.json"]


def test_a_first_iteration_may_have_nothing_before_it(plan: Callable[..., list[Planned]]) -> None:
    text = "steps: [loop: {var: i, range: 2, steps: [remember: {%s}]}]"
    first, second = plan(text % "rollouts: x, earlier: \"${latest('remember', None)}\", out: 'memory-${i}'")
    assert first.options["earlier"] is None
    assert second.options["earlier"] == "run/memory-0"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("a=2", 2), ("a=2e-4", 2e-4), ("a=-1E3", -1000.0), ("a=2.5e-4", 2.5e-4), ("a=1.e2", 100.0), ("a=0.1", 0.1)],
)
def test_set_gives_numbers(setting: str, value: float) -> None:
    assert plain_value(parse_settings([setting])["a"]) == value


def test_set_reaches_into_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("vars: {a: {b: 1, c: 2}, d: 3}\nsteps: [log: {path: x}]")
    recipe = load_recipe(str(path))
    assert with_settings(recipe, {"a.b": 7}) == {"a": {"b": 7, "c": 2}, "d": 3}
    assert recipe.vars == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lrr=1", "--set lrr: unknown variable of recipe 'lrr'; did you mean 'lr'?"),
        ("a.x=1", "unknown variable of recipe 'a.x'"),
        ("lr.x=1", "unknown variable of recipe 'lr.x'"),
        ("lr=fast", "--set lr=fast: expected a number like 0.1"),
    ],
)
def test_set_refuses_what_the_recipe_lacks(plan: Callable[..., list[Planned]], setting: str, message: str) -> None:
    with pytest.raises(UsageError) as fault:
        plan("vars: {lr: 0.1, a: {b: 1}}\nsteps: [log: {path: x}]", setting)
    assert message in str(fault.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: []", "recipe.yaml: unknown key 'step'; did you mean 'steps'?"),
        ("steps: []", "expected `steps`"),
        ("- sample", "a recipe is a mapping"),
        ("steps: [", "not YAML"),
        ("vars: [1]\nsteps: [log: {path: x}]", "`vars` is a mapping"),
        ("steps: [sample]", "step 1: expected one `command: {options}`"),
        ("steps: [sample: 3]", "step 1 (sample): its options are a mapping"),
        ("steps: [sampel: {out: a}]", "unknown command 'sampel'; did you mean 'sample'?"),
        ("steps: [sample: {out: a, prompt: 3}]", "step 1 (sample): unknown option 'prompt'; did you mean 'prompts'?"),
        ("steps: [sample: {out: a, prompts: many}]", "step 1 (sample): prompts must be a whole number or null, got 'many'"),
        ("steps: [sample: {}]", "step 1 (sample): the option 'out' is required"),
        ("steps: [sample: {out: a, force: true}]", "leave `force` out"),
        ("steps: [sample: {out: a}, sample: {out: a}]", "'a' is written twice"),
        ("steps: [sample: {out: ../a}]", "is outside of the run's folder"),
        ("steps: [sample: {out: /tmp/a}]", "is outside of the run's folder"),
        ("steps: [sample: {out: '.'}]", "is outside of the run's folder"),
        ("steps: [loop: {var: i, rang: 3, steps: []}]", "step 1 (loop): unknown key 'rang'; did you mean 'range'?"),
        ("steps: [loop: {var: i, range: 3, in: [1], steps: []}]", "one of `range` (a count) and `in` (a list)"),
        ("steps: [loop: {var: i, range: x, steps: []}]", "a loop runs over a count or a list, got 'x'"),
        ("steps: [loop: {var: i, range: -1, steps: []}]", "got -1"),
        ("steps: [loop: {var: i, range: 2, independent: 1, steps: []}]", "`independent` is true or false"),
        ("steps: [score: {rollouts: \"${latest('sample')}\", out: b}]", "no such step before this one; give a default"),
        ("steps: [score: {rollouts: \"${latest('sampel')}\", out: b}]", "did you mean 'sample'?"),
        ("steps: [score: {rollouts: \"${latest()}\", out: b}]", "missing 1 required positional argument"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_with_its_place(plan: Callable[..., list[Planned]], text: str, message: str) -> None:
    with pytest.raises(UsageError) as fault:
        plan(text)
    assert message in str(fault.value)
    assert "recipe.yaml" in str(fault.value)


def test_an_unknown_recipe_is_a_did_you_mean() -> None:
    with pytest.raises(UsageError, match="unknown recipe 'quickstar'; did you mean 'quickstart'"):
        load_recipe("quickstar")


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_has_a_plan(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    assert plan_of(recipe, with_settings(recipe, {}), Path("run"))


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("score: {rollouts: in put.parquet, out: a.parquet}", "apportion score 'in put.parquet' -o run/a.parquet"),
        ("sample: {n: 4, out: a.parquet}", "apportion sample -n 4 -o run/a.parquet"),
        ("sample: {n: 8, round: 0, out: a.parquet}", "apportion sample -o run/a.parquet"),  # as they are by default
        ("score: {rollouts: x, set: {truncated: 0.5}, out: a}", "apportion score x --set truncated=0.5 -o run/a"),
        ("score: {rollouts: x, set: {truncated: null}, out: a}", "apportion score x --set truncated=null -o run/a"),
        ("sample: {engine_set: {flag: true}, out: a}", "apportion sample --engine-set flag=true -o run/a"),
        (
            "sample: {engine_set: {a: '7', b: 7, c: x}, out: a}",
            "apportion sample --engine-set 'a=\"7\"' --engine-set b=7 --engine-set c=x -o run/a",
        ),
        (
            "train: {rollouts: x, fresh_optimizer: true, out: p}",
            "apportion train x --fresh-optimizer -o run/p",
        ),
        ("eval policy: {k: [1, 2], n: 2}", "apportion eval policy -n 2 --k 1 --k 2"),
        ("eval curve: {reports: [a.json, b.json]}", "apportion eval curve a.json b.json"),
    ],
)
def test_a_step_as_a_command_line(plan: Callable[..., list[Planned]], step: str, line: str) -> None:
    [planned] = plan(f"steps: [{{{step}}}]")
    assert planned.shell() == line


@pytest.mark.parametrize("written", ["null", "None", "~"])
def test_any_variable_can_be_nothing(plan: Callable[..., list[Planned]], written: str) -> None:
    """What that means is the option's: here the strategy's own text, no bound, and the number of rollouts as ever."""
    text = """
vars: {told: "{text}", threshold: 0.5, n: 4, tokens: 1}
steps:
  - sample:
      strategy: team
      set: {told: "${told}", threshold: "${threshold}"}
      task: env/frozen_lake
      task_set: {turn_tokens: "${tokens}"}
      n: "${n}"
      out: a
"""
    [step] = plan(text, *(f"{name}={written}" for name in ("told", "threshold", "n", "tokens")))
    assert step.options["set"] == {"told": None, "threshold": None}
    assert step.options["task_set"] == {"turn_tokens": None}
    assert step.options["n"] == 8


def test_nothing_is_the_default_where_it_is_no_value() -> None:
    def function(*, text: str = "own", bound: int | None = 3) -> None: ...

    assert typed_options(function, {"text": None, "bound": None}, "it") == {"text": "own", "bound": None}


def test_nothing_is_not_enough_for_a_loop_or_a_sum(plan: Callable[..., list[Planned]]) -> None:
    text = f"vars: {{n: 2}}\nsteps: [loop: {{var: round, range: '${{n}}', steps: [{SAMPLE}]}}]"
    with pytest.raises(UsageError, match="a loop runs over a count or a list"):
        plan(text, "n=null")
    with pytest.raises(UsageError, match="unsupported operand"):
        plan("vars: {n: 2}\nsteps: [sample: {n: '${n * 2}', out: a}]", "n=null")
