"""Each library's conventions, against numbers worked out by hand from its formula."""

from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.errors import UsageError
from apportion.stages.assign_credit._examples import credit_of
from apportion.stages.assign_credit._method import METHODS, resolve_options
from typer.testing import Result

ONE_IN_EIGHT = [1.0, 0, 0, 0, 0, 0, 0, 0]  # mean 1/8; sample std 0.353553, population std 0.330719


def grpo(preset: str, rewards: list[float]) -> list[float]:
    method = METHODS["grpo"]
    return method.function(credit_of(rewards), **resolve_options(method, {}, preset)).tolist()


@pytest.mark.parametrize(
    ("preset", "right", "wrong"),
    [
        ("verl", 2.474867, -0.353552),  # 0.875 / (0.353553 + 1e-6)
        ("skyrl", 2.474867, -0.353552),
        ("trl", 2.474174, -0.353453),  # 0.875 / (0.353553 + 1e-4)
        ("torchtune", 2.474174, -0.353453),
        ("openrlhf", 2.474874, -0.353553),  # 0.875 / (0.353553 + 1e-9)
        ("rllm", 2.645743, -0.377963),  # 0.875 / (0.330719 + 1e-6)
        ("open-instruct", 0.875, -0.125),
        ("prime-rl", 0.875, -0.125),
    ],
)
def test_one_right_in_eight(preset: str, right: float, wrong: float) -> None:
    assert grpo(preset, ONE_IN_EIGHT) == pytest.approx([right] + [wrong] * 7, abs=1e-6)


@pytest.mark.parametrize(
    ("preset", "alone"),
    [("verl", 0.5), ("skyrl", 0.5), ("rllm", 0.5), ("trl", 0.0), ("openrlhf", 0.0), ("prime-rl", 0.0)],
)
def test_a_group_of_one(preset: str, alone: float) -> None:
    assert grpo(preset, [0.5]) == [alone]


@pytest.mark.parametrize("preset", sorted(METHODS["grpo"].presets))
def test_equal_rewards_give_exactly_0_under_every_preset(preset: str) -> None:
    assert grpo(preset, [0.7] * 12) == [0.0] * 12


def test_a_setting_overrides_the_preset() -> None:
    assert resolve_options(METHODS["grpo"], {"eps": 0.5}, "verl")["eps"] == 0.5
    assert resolve_options(METHODS["grpo"], {"eps": 0.5}, "verl")["singleton"] == "raw"


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'verl'"):
        resolve_options(METHODS["grpo"], {}, "verll")
    with pytest.raises(UsageError, match="tempo has no presets"):
        resolve_options(METHODS["tempo"], {}, "verl")


def test_the_presets_options_go_into_the_history(cli: Callable[..., Result], scored_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "credit.parquet"
    result = cli("assign-credit", scored_file, "--method", "grpo", "--preset", "rllm", "-o", out)
    assert result.exit_code == 0, result.output
    assert "ddof=0" in cli("log", out).stdout
