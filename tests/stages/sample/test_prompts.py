"""Sampling a user's own prompts, which have no answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("7+2*5-3*4\n9+2*3-4*2\n8+3*3-2*2\n")
    return path


def sample(cli: Cli, own: Path, *more: object) -> Result:
    return cli(
        "sample", "--task", own, "--split", "all", "-n", 2, "--max-tokens", 8, "-o", own.parent / "a.parquet", *more
    )


def test_all_prompts_are_sampled_and_the_history_says_how_many(cli: Cli, own: Path) -> None:
    done = sample(cli, own)
    assert done.exit_code == 0
    assert "takes all 3 problems that there are" in done.stderr
    file = RolloutFile(own.parent / "a.parquet")
    assert file.provenance.history[-1].parameters["prompts"] == 3
    assert file.read().strings("reference") == ["null"] * 6


def test_verify_refuses_them_in_one_line_and_other_scorers_do_not(cli: Cli, own: Path) -> None:
    assert sample(cli, own).exit_code == 0
    rollouts, scored = own.parent / "a.parquet", own.parent / "b.parquet"
    refused = cli("score", rollouts, "-o", scored)
    assert (refused.exit_code, refused.stderr.count("\n")) == (3, 1)
    assert "has no reference answer, which verify needs; name the column with the answers" in refused.stderr
    assert cli("score", rollouts, "--with", "pattern", "--set", "regex=five", "-o", scored).exit_code == 0


@pytest.mark.parametrize("strategy", [("dynamic", "live=1"), ("mcts", "rounds=1"), ("truncate", "k=2")])
def test_strategies_that_verify_refuse_them_before_the_model_is_loaded(
    cli: Cli, own: Path, strategy: tuple[str, str]
) -> None:
    refused = sample(cli, own, "--strategy", strategy[0], "--set", strategy[1], "--model", "./no-such-model")
    assert refused.exit_code == 3
    assert f"has no reference answer, which strategy {strategy[0]} needs" in refused.stderr


def test_eval_policy_refuses_them_before_the_model_is_loaded(cli: Cli, own: Path) -> None:
    refused = cli("eval", "policy", "--task", own, "--split", "all", "--model", "./no-such-model")
    assert refused.exit_code == 3
    assert f"{own}: row " in refused.stderr
    assert "has no reference answer, which eval policy needs" in refused.stderr


def test_more_prompts_than_there_are_is_said_before_the_model_is_loaded(cli: Cli, own: Path) -> None:
    refused = sample(cli, own, "--prompts", 4, "--model", "./no-such-model")
    assert refused.exit_code == 2
    assert "4 problems requested, but there are only 3 distinct ones" in refused.stderr
