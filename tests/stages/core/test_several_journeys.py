"""Several entries behind one option, the way users meet them: in order, in recipes, with plugins, over directories."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.core.plugin_files import load_plugin
from typer.testing import Result

Cli = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("forget_plugins")

METHOD = """
from apportion.stages.assign_credit.kind import credit_method

@credit_method(granularity="rollout", methodology="monte-carlo", source="theirs", evidence="guess")
def theirs(credit, *, scale: float = 1.0):
    return scale * credit.reward
"""


def made(cli: Cli, *arguments: object) -> Path:
    result = cli(*arguments)
    assert result.exit_code == 0, result.stderr
    return Path(str(arguments[-1]))


def column(path: Path, name: str) -> list[Any]:
    return RolloutFile(path).read().arrow(name).to_pylist()


def digest(path: Path) -> str:
    return RolloutFile(path).digest()


def run_shell(cli: Cli, path: Path, *, last: int) -> None:
    """The last commands of its history, run again where we are."""
    result = cli("log", path, "--shell")
    assert result.exit_code == 0, result.stderr
    for line in [line for line in result.stdout.splitlines() if not line.startswith("#")][-last:]:
        made(cli, *shlex.split(line)[1:])


# ------------------------------------------------------------------------------------------------ scorers


def test_a_later_scorer_reads_what_an_earlier_one_made(cli: Cli, chain: Path, tmp_path: Path) -> None:
    out = made(
        cli, "score", chain / "rollouts.parquet", "--with", "verify,steps,states", "-o", tmp_path / "one.parquet"
    )
    source = chain / "rollouts.parquet"
    for name in ("verify", "steps", "states"):
        source = made(cli, "score", source, "--with", name, "-o", tmp_path / f"{name}.parquet")
    for name in ("reward", "step.start", "step.end", "step.state"):
        assert column(out, name) == column(source, name)


def test_repeating_the_option_is_the_same_as_commas(cli: Cli, chain: Path, tmp_path: Path) -> None:
    source = chain / "rollouts.parquet"
    commas = made(cli, "score", source, "--with", "verify,steps", "-o", tmp_path / "commas.parquet")
    repeated = made(cli, "score", source, "--with", "verify", "--with", "steps", "-o", tmp_path / "repeated.parquet")
    assert digest(commas) == digest(repeated)


def test_the_wrong_order_lacks_a_column(cli: Cli, chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = cli("score", chain / "rollouts.parquet", "--with", "states,steps", "-o", out)
    assert (result.exit_code, result.stdout, result.stderr.count("\n"), out.exists()) == (3, "", 1, False)
    assert "step.start" in result.stderr and "states" in result.stderr


def test_two_scorers_of_one_reward_column(cli: Cli, chain: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def one(text): return 1.0\ndef two(text): return 2.0\n")
    out = tmp_path / "out.parquet"
    result = cli("score", chain / "rollouts.parquet", "--with", f"{file}:one,{file}:two", "-o", out)
    assert (result.exit_code, result.stdout, result.stderr.count("\n"), out.exists()) == (2, "", 1, False)
    assert "both write column 'reward'; --set two.column=rewards.NAME keeps them apart" in result.stderr


def test_a_function_of_a_file_among_scorers_takes_a_dotted_option(cli: Cli, chain: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def brevity(text, *, most: int = 10): return float(len(text) <= most)\n")
    settings = ("--set", "brevity.most=0", "--set", "brevity.column=rewards.brief")
    source = chain / "rollouts.parquet"
    out = made(cli, "score", source, "--with", f"verify,{file}:brevity", *settings, "-o", tmp_path / "out.parquet")
    assert set(column(out, "rewards.brief")) <= {0.0, 1.0}
    assert sum(column(out, "rewards.brief")) == sum(text == "" for text in column(source, "text"))
    assert None not in column(out, "reward")


# ------------------------------------------------------------------------------------------------ recipes and histories


def test_a_recipe_with_lists_and_its_history(
    cli: Cli, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        f"steps:\n"
        f"  - score: {{rollouts: {chain / 'tree.parquet'}, with: [verify, steps], set: {{steps.min_tokens: 2}}, out: scored.parquet}}\n"
        f"  - assign-credit: {{rollouts: scored.parquet, method: 'grpo,tempo', set: {{grpo.scale: none}}, out: credit.parquet}}\n"
    )
    assert cli("run", recipe, "--dir", tmp_path / "run").exit_code == 0
    credit = tmp_path / "run/credit.parquet"
    assert {"reward", "step.start", "token.advantage_grpo", "token.advantage_tempo"} <= set(
        RolloutFile(credit).read().paths
    )
    lines = cli("log", credit, "--shell").stdout.splitlines()
    assert "--with verify,steps --set steps.min_tokens=2" in lines[-2]
    assert "--method grpo,tempo --set grpo.scale=none" in lines[-1]

    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.chdir(again)
    run_shell(cli, credit, last=len(lines))
    assert digest(again / "credit.parquet") == digest(credit)
    assert digest(again / "scored.parquet") == digest(tmp_path / "run/scored.parquet")


def test_a_recipe_is_up_to_date_the_second_time(cli: Cli, chain: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        f"steps:\n  - assign-credit: {{rollouts: {chain / 'tempo.parquet'}, method: [grpo, rloo], out: credit.parquet}}\n"
    )
    assert cli("run", recipe, "--dir", tmp_path / "run").exit_code == 0
    before = (tmp_path / "run/credit.parquet").stat().st_mtime_ns
    assert cli("run", recipe, "--dir", tmp_path / "run").exit_code == 0
    assert (tmp_path / "run/credit.parquet").stat().st_mtime_ns == before


# ------------------------------------------------------------------------------------------------ methods


def test_a_plugins_method_in_the_list_is_recorded_with_its_digest(cli: Cli, tmp_path: Path, scored_file: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(METHOD)
    load_plugin(file)
    words = ("--method", "grpo,theirs", "--set", "theirs.scale=2")
    out = made(cli, "assign-credit", scored_file, *words, "-o", tmp_path / "out.parquet")
    (record,) = RolloutFile(out).provenance.history
    assert set(record.inputs) == {"rollouts", "plugin/theirs.py"}
    assert [row[0] for row in column(out, "token.advantage_theirs")] == [2.0, 0.0, 2.0, 0.0]
    line = cli("log", out, "--shell").stdout.splitlines()[-1]
    assert line.startswith(f"apportion --plugin {file} assign-credit input.parquet --method grpo,theirs --set ")


def test_a_directory_with_two_workers_is_that_of_one(cli: Cli, chain: Path, tmp_path: Path) -> None:
    parts = made(cli, "split", chain / "tempo.parquet", "--parts", 3, "-o", tmp_path / "parts")
    words = ("assign-credit", parts, "--method", "grpo,tempo")
    one = made(cli, *words, "-o", tmp_path / "one")
    two = made(cli, *words, "--workers", 2, "-o", tmp_path / "two")
    names = sorted(file.name for file in one.glob("*.parquet"))
    assert len(names) == 3
    assert [digest(two / name) for name in names] == [digest(one / name) for name in names]


@pytest.fixture
def mixed(tmp_path: Path, chain: Path) -> Path:
    """The real rollouts, one of them flagged error, one a probe."""
    rollouts = RolloutFile(chain / "scored.parquet").read()
    flags = (
        [list(row or []) for row in rollouts.arrow("flags").to_pylist()]
        if "flags" in rollouts
        else [[]] * len(rollouts)
    )
    flags[1] = [*flags[1], "error"]
    purpose = ["probe" if row == 6 else "train" for row in range(len(rollouts))]
    changed = rollouts.with_columns({"flags": pa.array(flags, pa.list_(pa.string())), "purpose": purpose})
    path = tmp_path / "mixed.parquet"
    write_rollouts(path, [Rollouts(changed.table)], Provenance())
    return path


@pytest.mark.parametrize("name", ["grpo", "rloo", "tempo", "dr_grpo"])
def test_probes_and_errors_are_as_in_single_commands(cli: Cli, mixed: Path, tmp_path: Path, name: str) -> None:
    words = ("--method", "grpo,rloo,tempo,dr_grpo")
    several = made(cli, "assign-credit", mixed, *words, "-o", tmp_path / "several.parquet")
    single = made(cli, "assign-credit", mixed, "--method", name, "--as", name, "-o", tmp_path / "single.parquet")
    assert RolloutFile(single).num_rows == RolloutFile(several).num_rows == RolloutFile(mixed).num_rows
    assert None in column(single, f"token.advantage_{name}")
    credit = {
        rollout: row
        for rollout, row in zip(column(single, "rollout_id"), column(single, f"token.advantage_{name}"), strict=True)
    }
    for rollout, row in zip(column(several, "rollout_id"), column(several, f"token.advantage_{name}"), strict=True):
        assert row == credit[rollout]


def test_a_preset_is_taken_by_the_methods_that_have_it(cli: Cli, chain: Path, tmp_path: Path) -> None:
    source = chain / "scored.parquet"
    words = ("--method", "opo,rloo", "--preset", "verl")
    several = made(cli, "assign-credit", source, *words, "-o", tmp_path / "several.parquet")
    opo = made(cli, "assign-credit", source, "--method", "opo", "--preset", "verl", "-o", tmp_path / "opo.parquet")
    rloo = made(cli, "assign-credit", source, "--method", "rloo", "-o", tmp_path / "rloo.parquet")
    assert column(several, "token.advantage_opo") == column(opo, "token.advantage")
    assert column(several, "token.advantage_rloo") == column(rloo, "token.advantage")
    (*_, record) = RolloutFile(several).provenance.history
    assert record.parameters["settings"]["opo.singleton"] == "raw"
