"""What `assign-credit` does around any method: the bound on credit, and what it remarks on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.stages.assign_credit._apply import Assigning, Assignment
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.assign_credit._remarks import remark_on_length
from apportion.stages.assign_credit._step_examples import stepped
from apportion.stages.assign_credit.kind import METHODS
from typer.testing import Result

turn_return = METHODS["turn_return"].assign
mapo = METHODS["mapo"].assign

# ------------------------------------------------------------------------------------------------------------ --clip


@pytest.mark.parametrize("size", [26, 27])
def test_knapsacks_bound_binds_from_27_rollouts_on(cli: Callable[..., Result], tmp_path: Path, size: int) -> None:
    write_rollouts(tmp_path / "in", [rollouts_of([1.0] + [0.0] * (size - 1))], Provenance())
    plain, cut = tmp_path / "plain", tmp_path / "cut"
    for out, more in ((plain, []), (cut, ["--clip", 5])):
        result = cli("assign-credit", tmp_path / "in", "--method", "grpo", *more, "-o", out)
        assert result.exit_code == 0, result.output
    before, after = (RolloutFile(path).read().ragged("token.advantage").values for path in (plain, cut))
    # (n - 1) / √n: 4.902903 of 26, 5.003676 of 27 (less eps)
    assert before[0] == pytest.approx((size - 1) / np.sqrt(size), rel=1e-5)
    assert after[0] == min(before[0], 5)
    np.testing.assert_array_equal(after[1:], before[1:])
    assert "--clip 5" in cli("log", cut, "--shell").stdout


def test_both_signs_and_every_method(cli: Callable[..., Result], scored_file: Path, tmp_path: Path) -> None:
    result = cli("assign-credit", scored_file, "--method", "dr_grpo", "--clip", 0.2, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    values = RolloutFile(tmp_path / "out").read().ragged("token.advantage").values
    assert set(values.tolist()) == {np.float32(0.2), np.float32(-0.2)}
    result = cli("assign-credit", scored_file, "--method", "dr_grpo", "--clip", 1e300, "-o", tmp_path / "all")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("clip", ["0", "-1", "nan"])
def test_a_bound_of_nothing_is_refused(
    cli: Callable[..., Result], scored_file: Path, tmp_path: Path, clip: str
) -> None:
    result = cli("assign-credit", scored_file, "--method", "grpo", "--clip", clip, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"--clip must be above 0, got {clip}" in result.stderr


# ----------------------------------------------------------------------------------------------------------- remarks

COUNTS = [1, 2, 4, 6]


def judged(mean: float, spread: float) -> list[list[float]]:
    """Rewards of 4 rollouts of COUNTS turns, which alternate around the mean."""
    return [[mean + spread * (-1) ** turn for turn in range(count)] for count in COUNTS]


@pytest.mark.parametrize("method", ["mapo", "turn_return"])
def test_an_uncentred_judge_of_turns_is_remarked_on(cli: Callable[..., Result], tmp_path: Path, method: str) -> None:
    credit = stepped([1.0, 0.0, 1.0, 0.0], [[1] * count for count in COUNTS], reward=judged(0.6, 0.1))
    write_rollouts(tmp_path / "in", [credit.rollouts], Provenance())
    options = ["--set", "rewards=both"] if method == "turn_return" else []
    result = cli("assign-credit", tmp_path / "in", "--method", method, *options, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    remark, told = result.stderr.splitlines()
    assert remark.startswith(f"{method}: step.reward averages 0.608 a turn")  # 13 turns, 7 of them 0.7
    assert "longer ones get more credit" in remark and told.startswith(str(tmp_path / "out"))


def test_it_is_said_once_of_many_batches(capsys: pytest.CaptureFixture[str]) -> None:
    assign = Assigning([Assignment("turn_return", "advantage", {"rewards": "both"})])
    centred = stepped([0.0] * 4, [[1] * count for count in COUNTS], reward=judged(0.0, 0.5)).rollouts
    paid = stepped([0.0] * 4, [[1] * count for count in COUNTS], reward=judged(-1.0, 0.0)).rollouts
    for batch in (centred, paid, paid):
        assign(batch)
    [remark] = capsys.readouterr().err.splitlines()
    assert "turn_return: step.reward averages -1 a turn" in remark and "get less credit" in remark


@pytest.mark.parametrize(
    ("function", "options"), [(mapo, {"alpha": 0.7, "beta": 0.3}), (turn_return, {"rewards": "both"})]
)
def test_what_is_remarked_on_turns_credit_around(function: Any, options: dict[str, Any]) -> None:
    """Right answers in one turn, wrong ones in three; the judge prefers the turns of the right ones."""
    outcome = [1.0, 0.0]
    for offset, right_is_ahead in ((0.0, True), (0.9, False)):
        paid = [[offset + 0.2], [offset - 0.1] * 3]
        credit = stepped(outcome * 4, [[1], [1] * 3] * 4, reward=paid * 4)
        found = function(credit, **options)
        right, wrong = found[credit.tokens.starts[:2]]
        assert (right > wrong) == right_is_ahead
        assert (remark_on_length(credit) is None) == right_is_ahead


@pytest.mark.parametrize(
    ("rewards", "sizes"),
    [
        (judged(0.0, 0.5), COUNTS),  # centred: 0.5, 0, 0, 0 are the sums
        ([[0.6, 0.5], [0.6, 0.4], [0.9, 0.1]], [2, 2, 2]),  # of equal length
        ([[0.8], [-0.6, -0.7], [1.0, 0.7, 0.9, 0.8], [-0.4] * 6], COUNTS),  # about 0 on average, though not exactly
    ],
)
def test_what_is_centred_or_of_equal_length_is_not(rewards: list[list[float]], sizes: list[int]) -> None:
    assert remark_on_length(stepped([0.0] * len(sizes), [[1] * size for size in sizes], reward=rewards)) is None


def test_nor_are_the_outcome_alone_an_environments_rewards_or_a_file_without_them() -> None:
    credit = stepped([0.0] * 4, [[1] * count for count in COUNTS], reward=judged(0.6, 0.1))
    assert remark_on_length(credit) is not None
    assert remark_on_length(credit, rewards="outcome") is None
    assert remark_on_length(credit, rewards="steps") is None
    assert remark_on_length(stepped([1.0], [[1]])) is None
    assert remark_on_length(stepped([1.0, 1.0], [[], []], reward=[[], []])) is None
    nothing = stepped([0.0] * 4, [[1] * count for count in COUNTS], reward=[[np.nan] * count for count in COUNTS])
    assert remark_on_length(nothing) is None


@pytest.mark.parametrize(("ratio", "told"), [(0.49, False), (0.51, True)])
def test_from_half_the_spread_on(ratio: float, told: bool) -> None:
    """Of 1 and 3 turns, 1 a turn on average: sums of 1 and 3 by their length, and ± `rest` besides."""
    mean, rest = 1.0, 1.0 / ratio
    rewards = [[mean + rest], [mean - rest / 3] * 3]
    assert (remark_on_length(stepped([0.0] * 2, [[1], [1] * 3], reward=rewards)) is not None) == told
