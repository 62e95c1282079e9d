"""Each library's conventions, against numbers worked out by hand from its formula."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import credit_of, rollouts_of
from apportion.stages.assign_credit.kind import METHODS, Credit
from typer.testing import Result

ONE_IN_EIGHT = [1.0, 0, 0, 0, 0, 0, 0, 0]  # mean 1/8; sample std 0.353553, population std 0.330719


def grpo(preset: str, rewards: list[float]) -> list[float]:
    method = METHODS["grpo"]
    return method.assign(credit_of(rewards), **METHODS.settle(method.name, {}, preset)).tolist()


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


def credit(method: str, preset: str, rewards: list[float], **kwargs: Any) -> list[float]:
    chosen = METHODS[method]
    return chosen.assign(credit_of(rewards, **kwargs), **METHODS.settle(chosen.name, {}, preset)).tolist()


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        # R - mean: .6 = 1 - .4
        ("verl", [0.6, -0.4, -0.4, 0.6, -0.4]),
        ("trl", [0.6, -0.4, -0.4, 0.6, -0.4]),
        ("skyrl", [0.6, -0.4, -0.4, 0.6, -0.4]),
        ("rllm", [0.6, -0.4, -0.4, 0.6, -0.4]),
        ("open-instruct", [0.6, -0.4, -0.4, 0.6, -0.4]),
        ("prime-rl", [0.6, -0.4, -0.4, 0.6, -0.4]),
    ],
)
def test_dr_grpo(preset: str, values: list[float]) -> None:
    assert credit("dr_grpo", preset, [1.0, 0, 0, 1, 0]) == pytest.approx(values, abs=1e-9)
    # A group of one: mean 0 in verl, SkyRL and rLLM, its own reward in the others.
    assert credit("dr_grpo", preset, [0.5]) == [0.5 if preset in ("verl", "skyrl", "rllm") else 0.0]


@pytest.mark.parametrize("preset", ["verl", "trl", "openrlhf", "skyrl"])
def test_rloo(preset: str) -> None:
    # 1 - (0 + 0 + 1 + 0) / 4 = .75, 0 - (1 + 0 + 1 + 0) / 4 = -.5
    assert credit("rloo", preset, [1.0, 0, 0, 1, 0]) == pytest.approx([0.75, -0.5, -0.5, 0.75, -0.5], abs=1e-9)
    assert credit("rloo", preset, [0.5]) == [0.5 if preset == "verl" else 0.0]


def test_lite_ppo_trl() -> None:
    # mean 3/4 of four, sample std 1/2: .5 / (.5 + 1e-4)
    found = credit("lite_ppo", "trl", [1.0, 0, 1, 1], groups=[0, 0, 1, 1])
    assert found == pytest.approx([0.9998, -0.9998, 0, 0], abs=1e-6)


LENGTHS = [[1, 2], [3, 4, 5], [6], [7, 8]]
PER_TOKEN = [0, 2, 5, 6]  # the first token of each


@pytest.mark.parametrize(
    ("preset", "right", "wrong"),
    [
        ("verl", 0.724569, -1.207615),  # 8 tokens, 5 of them 1: mean 5/8, var 15/64 · 8/7; .375 / √(.267857 + 1e-8)
        ("openrlhf", 0.774597, -1.290994),  # var 15/64: .375 / √.234375
    ],
)
def test_reinforce_plus_plus(preset: str, right: float, wrong: float) -> None:
    found = credit("reinforce_plus_plus", preset, [1.0, 0, 1, 1], tokens=LENGTHS)
    assert [found[place] for place in PER_TOKEN] == pytest.approx([right, wrong, right, right], abs=1e-6)


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        # c = .5 on 2 tokens, -.5 on 3, 0 on 3: mean -1/16, Σ(c - mean)² = 5/4 - 8/256 = 1.21875
        ("verl", [1.348076, -1.048503, 0.149786, 0.149786]),  # √(1.21875 / 7)
        ("openrlhf", [1.441153, -1.120897, 0.160128, 0.160128]),  # √(1.21875 / 8)
    ],
)
def test_reinforce_plus_plus_baseline(preset: str, values: list[float]) -> None:
    found = credit("reinforce_plus_plus_baseline", preset, [1.0, 0, 1, 1], tokens=LENGTHS, groups=[0, 0, 1, 1])
    assert [found[place] for place in PER_TOKEN] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        # c = .5, -.5 and the group of one's raw 1: mean 1/3, var 7/12
        ("verl", [0.218218, -1.091089, 0.872872]),
        # c = .5, -.5, 0: mean 0, population var 1/6
        ("openrlhf", [1.224745, -1.224745, 0.0]),
    ],
)
def test_reinforce_plus_plus_baseline_with_a_group_of_one(preset: str, values: list[float]) -> None:
    found = credit("reinforce_plus_plus_baseline", preset, [1.0, 0, 1], groups=[0, 0, 1])
    assert found == pytest.approx(values, abs=1e-6)


def test_opo_verl() -> None:
    # (3 + 2) / 12 = .416667
    found = credit("opo", "verl", [1.0, 0, 0, 1, 0], tokens=[[1] * size for size in (3, 1, 2, 2, 4)])
    assert found == pytest.approx([0.583333, -0.416667, -0.416667, 0.583333, -0.416667], abs=1e-6)
    assert credit("opo", "verl", [0.5]) == [0.5]


def test_hepo_tempo() -> None:
    # N = 10 tokens, of which ⌊.2 · 10⌋ = 2 have the largest entropy: the first of r0, and that of the group of one.
    entropy = Ragged.from_lists([[2.0, 0.1, 0.1, 0.1], [0.3, 0.1, 0.1, 0.1], [1.5, 0.1]], np.float32)
    batch = rollouts_of([1.0, 0.0, 0.5], tokens=[[1] * 4, [2] * 4, [3] * 2], groups=[0, 0, 1])
    method = METHODS["hepo"]
    found = method.assign(
        Credit(batch.with_columns({"token.entropy": entropy})), **METHODS.settle(method.name, {}, "tempo")
    )
    expected = [0.5 / (np.sqrt(0.5) + 1e-6), *[0] * 7, 0.5 / (1 + 1e-6), 0]  # its mean is 0 there, its std 1
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_tempo_tempo() -> None:
    # methods A, TEMPO, the worked example: divided by .577350 + 1e-6
    tokens = [[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 4], [5, 7, 9, 3, 2]]
    found = credit("tempo", "tempo", [1.0, 0.0, 1.0, 0.0], tokens=tokens)
    assert found[:4] == pytest.approx([0.866024, 0.577349, 1.154699, 1.732048], abs=1e-6)
    with pytest.raises(DataError, match="alone in its group"):  # the released code makes NaN of it
        credit("tempo", "tempo", [0.5])


def test_branchgrpo_branchgrpo() -> None:
    # methods A, BranchGRPO, the worked example; each edge once in the loss: of n1 and n2 half in each of two rollouts.
    tokens, left = [[1, 5], [1, 6], [2, 5], [2, 6]], [None, (0, 1), None, (2, 1)]
    found = credit("branchgrpo", "branchgrpo", [1.0, 0.2, 0.5, 0.4], tokens=tokens, left=left)
    assert found[0::2] == pytest.approx([0.353553, 0.353553, -0.353553, -0.353553], abs=1e-6)
    assert found[1::2] == pytest.approx([1.395651, -0.954919, -0.073455, -0.367277], abs=1e-6)


def test_rose_rose_rl() -> None:
    # methods A, ROSE, "keys differ", and no calibration though r1 is longer: the released script has it off.
    tokens = [[1, 2, 3, 4, 5, 5], [1, 2, 3, 4, 6, 6, 6], [1, 2, 3, 7, 7]]
    left = [None, (0, 4), (1, 3)]
    found = credit("rose", "rose-rl", [1.0, 1.0, 0.0], tokens=tokens, left=left)
    expected = [0, 0, 0, 0, 1 / 3, 1 / 3, 0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0, -2 / 3]
    assert found == pytest.approx(expected, abs=1e-9)
    # With it, wrong answers whose reward is not 0 are right, and of two shortest the first is the measure.
    method = METHODS["rose"]
    options = METHODS.settle(method.name, {"alpha": 1.0}, "rose-rl")
    plain = credit("rose", "rose-rl", [-1.0, 1.0, 0.0], tokens=tokens, left=left)
    lowered = method.assign(credit_of([-1.0, 1.0, 0.0], tokens=tokens, left=left), **options).tolist()
    assert lowered[:6] == plain[:6]
    assert lowered[10:13] == pytest.approx([value - abs(value) * (1 - 2 / 3) for value in plain[10:13]])


def test_treerl_treerl() -> None:
    # methods A, TreeRL, the worked example of the code
    tokens = [[1, 5], [1, 6], [2], [3, 5], [3, 6]]
    found = credit("treerl", "treerl", [1.0, 0.0, 0.0, 1.0, 1.0], tokens=tokens)
    expected = [-0.176777, 1.088388, -0.176777, -1.411612, -1.5, 0.707107, 0.646447, 0.707107, 0.646447]
    assert found == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DataError, match="alone in its group"):  # there an assertion
        credit("treerl", "treerl", [0.5])


def test_gpg_verl() -> None:
    # 4 of 6 rewards are not 0: α = 1.5, of centred rewards; the group of one keeps its own
    found = credit("gpg", "verl", [1.0, 0, 1, 1, 0, 0.5], groups=[0, 0, 1, 1, 1, 2])
    assert found == pytest.approx([0.75, -0.75, 0.5, 0.5, -1, 0.75], abs=1e-9)


def test_passk_verl() -> None:
    found = credit("passk", "verl", [0.2, 0.9, 0.4])  # .5 / (.360555 + 1e-6)
    assert found == pytest.approx([0, 1.386747, 0], abs=1e-6)
    with pytest.raises(DataError, match="alone in its group"):
        credit("passk", "verl", [0.5])


def test_maxrl_released() -> None:
    found = credit("maxrl", "released", [1.0, 0, 0, 0])  # .75 / (.25 + 1e-6)
    assert found == pytest.approx([2.999988, -0.999996, -0.999996, -0.999996], abs=1e-6)


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        # S = (1 - .5) / (.707107 + 1e-6) = ±.707106 on 1 and 3 tokens: mean -.353553, var (1.125 + 3 · .125) / 3 = .5
        ("verl", [1.5, -0.5, -0.5, -0.5]),
        # S = .5 / (.707107 + 1e-4) = ±.707007: mean 0, std .999859; .707007 / (.999859 + 1e-4)
        ("trl", [0.707036, -0.707036, -0.707036, -0.707036]),
    ],
)
def test_gdpo(preset: str, values: list[float]) -> None:
    batch = rollouts_of([0.0, 0.0], tokens=[[1], [2, 3, 4]]).with_columns({"rewards.right": np.array([1.0, 0.0])})
    method = METHODS["gdpo"]
    found = method.assign(Credit(batch), **METHODS.settle(method.name, {}, preset))
    assert found.tolist() == pytest.approx(values, abs=2e-6)


@pytest.mark.parametrize(("name", "preset"), [(method.name, preset) for method in METHODS for preset in method.presets])
def test_every_preset_has_options_of_the_method(name: str, preset: str) -> None:
    assert METHODS.settle(name, {}, preset).items() >= METHODS[name].presets[preset].items()


def test_a_setting_overrides_the_preset() -> None:
    assert METHODS.settle("grpo", {"eps": 0.5}, "verl")["eps"] == 0.5
    assert METHODS.settle("grpo", {"eps": 0.5}, "verl")["singleton"] == "raw"


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'verl'"):
        METHODS.settle("grpo", {}, "verll")
    with pytest.raises(UsageError, match="remax has no presets"):
        METHODS.settle("remax", {}, "verl")


def test_the_presets_options_go_into_the_history(cli: Callable[..., Result], scored_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "credit.parquet"
    result = cli("assign-credit", scored_file, "--method", "grpo", "--preset", "rllm", "-o", out)
    assert result.exit_code == 0, result.output
    assert "ddof=0" in cli("log", out).stdout
