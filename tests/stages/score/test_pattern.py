"""Format rewards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.score.outcome.pattern import pattern
from typer.testing import Result

TEXTS = ["<think>a\nb</think>7", "7", None, "well <think>a</think>7"]


def answered(**options: Any) -> list[float]:
    rollouts: Rollouts = rollouts_of([0.0] * 4).with_columns({"text": TEXTS})
    (values,) = pattern(rollouts, regex="<think>.*</think>[0-9]+", **options).values()
    return values.tolist()


def test_the_whole_text_has_to_match_unless_told_otherwise() -> None:
    assert answered() == [1.0, 0.0, 0.0, 0.0]
    assert answered(whole=False) == [1.0, 0.0, 0.0, 1.0]
    assert answered(reward=0.5, otherwise=-1.0) == [0.5, -1.0, -1.0, -1.0]


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(UsageError, match="scorer pattern: regex '\\('"):
        pattern(rollouts_of([0.0]).with_columns({"text": ["a"]}), regex="(")
    with pytest.raises(UsageError, match=r"scorer pattern: column must be reward or rewards\.NAME, got 'score'"):
        answered(column="score")


def test_several_rewards_go_to_the_method_that_keeps_them_apart(
    chain: Path, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    out = tmp_path.joinpath
    for line in (
        f"score {chain / 'rollouts.parquet'} --set column=rewards.right -o {out('a')}",
        f"score {out('a')} --with pattern --set regex=([^\\n]+=\\d+\\n?)+ -o {out('b')}",
        f"assign-credit {out('b')} --method gdpo -o {out('c')}",
        f"validate {out('c')} --ignore singleton --ignore zero_credit",
    ):
        result = cli(*line.split())
        assert result.exit_code == 0, f"{line}: {result.output}"
    rollouts = RolloutFile(out("c")).read()
    assert set(rollouts.numbers("rewards.format").tolist()) <= {0.0, 1.0}
    assert rollouts.ragged("token.advantage").values.any()
