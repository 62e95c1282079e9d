"""Several entries behind one option: names, settings, and what each single command would have given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.errors import ApportionError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit import assign_credit
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.structure.prefix_tree import add_prefix_tree
from typer.testing import Result

Cli = Callable[..., Result]
TEXTS = ["<think>a</think>7", "7", "8", "9"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    batch = rollouts_of([1.0, 0.0, 0.0, 1.0], tokens=[[5, 7, 9], [5, 7], [5, 8, 3], [5, 8, 4, 6]])
    path = tmp_path / "tree.parquet"
    write_rollouts(path, [add_prefix_tree(batch.with_columns({"text": TEXTS}))], Provenance())
    return path


def credit_in(path: Path, column: str) -> list[Any]:
    return RolloutFile(path).read().arrow(column).to_pylist()


def refusal(cli: Cli, *arguments: object) -> str:
    result = cli(*arguments)
    assert result.exit_code == 2, result.stderr
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_every_column_and_flag_is_that_of_the_single_command(tree: Path, tmp_path: Path) -> None:
    singles: dict[str, Path] = {}
    for method in METHODS:
        out = tmp_path / f"{method.name}.parquet"
        try:
            assign_credit(tree, method=method.name, column=method.name, out=out)
        except ApportionError:
            continue
        singles[method.name] = out
    assert len(singles) > 10
    assign_credit(tree, method=list(singles), out=tmp_path / "all.parquet")
    flags: set[str] = set()
    for name, single in singles.items():
        column = f"token.advantage_{name}"
        assert credit_in(tmp_path / "all.parquet", column) == credit_in(single, column), name
        flags |= {flag for row in credit_in(single, "flags") for flag in row or []}
    assert {flag for row in credit_in(tmp_path / "all.parquet", "flags") for flag in row or []} == flags


def test_commas_and_spaces_separate_methods(cli: Cli, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert cli("assign-credit", tree, "--method", "grpo, rloo", "-o", out).exit_code == 0
    assert credit_in(out, "token.advantage_rloo")[1] == pytest.approx([-2 / 3] * 2)


def test_a_dotted_setting_goes_to_its_method_alone(cli: Cli, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = cli("assign-credit", tree, "--method", "grpo,rloo", "--set", "grpo.scale=none", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert credit_in(out, "token.advantage_grpo")[1] == [-0.5, -0.5]


def test_the_history_is_a_line_of_shell(cli: Cli, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    cli("assign-credit", tree, "--method", "grpo,rloo", "--set", "grpo.scale=none", "-o", out)
    line = cli("log", out, "--shell").stdout.splitlines()[-1]
    assert line == "apportion assign-credit input.parquet --method grpo,rloo --set grpo.scale=none -o out.parquet"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--method", "grpo,grpo"), "names 'grpo' twice"),
        (("--method", "grpo,"), "a name in it is empty"),
        (("--method", "grpo,rlo"), "did you mean 'rloo'?"),
        (("--method", "grpo,rloo", "--as", "x"), "--as names the column of one method"),
        (("--method", "grpo,rloo", "--set", "scale=none"), "rloo has no such option; address one: --set grpo.scale=…"),
        (("--method", "grpo,rloo", "--set", "rlo.x=1"), "did you mean 'rloo'?"),
        (("--method", "grpo,rloo", "--set", "rloo.scale=none"), "rloo: unknown option 'scale'"),
        (("--method", "grpo,rloo", "--preset", "nobody"), "unknown preset of grpo, rloo"),
    ],
)
def test_what_cannot_be_told_is_refused(
    cli: Cli, tree: Path, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    assert told in refusal(cli, "assign-credit", tree, *arguments, "-o", tmp_path / "out.parquet")


def test_a_missing_column_names_every_method_that_needs_it(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write_rollouts(path, [rollouts_of([1.0, 0.0])], Provenance())
    result = cli("assign-credit", path, "--method", "grpo,tempo,treerl", "-o", tmp_path / "out.parquet")
    assert result.exit_code == 3
    assert "which each of tempo and treerl needs; run `apportion tree-build" in result.stderr


def test_a_single_scorer_takes_the_dotted_form(cli: Cli, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.parquet"
    assert cli("score", tree, "--with", "pattern", "--set", "pattern.regex=.*7", "-o", out).exit_code == 0
    assert credit_in(out, "rewards.format") == [1.0, 1.0, 0.0, 0.0]


def test_two_scorers_of_one_column_are_refused(cli: Cli, tree: Path, tmp_path: Path) -> None:
    settings = ("--set", "pattern.regex=7", "--set", "pattern.column=reward")
    told = refusal(cli, "score", tree, "--with", "verify,pattern", *settings, "-o", tmp_path / "out.parquet")
    assert "verify and pattern both write column 'reward'" in told


@pytest.mark.parametrize("method", ["grpo,rloo", "[grpo, rloo]"])
def test_recipes_take_both_forms(cli: Cli, tree: Path, tmp_path: Path, method: str) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text(
        f"steps:\n  - assign-credit: {{rollouts: {tree}, method: {method!r}, out: c.parquet}}\n".replace("'[", "[")
        .replace("]'", "]")
        .replace("'grpo,rloo'", '"grpo,rloo"')
    )
    result = cli("run", recipe, "--shell", "--dir", tmp_path / "run")
    assert "--method grpo,rloo" in result.stdout, result.stderr
    assert cli("run", recipe, "--dir", tmp_path / "run").exit_code == 0
    assert len(credit_in(tmp_path / "run/c.parquet", "token.advantage_grpo")) == 4
