"""A function of the user's as a scorer: what it is given, what it may give, and what is said where it gives something else."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.core import plugin_files
from apportion.stages.score.reward_functions import RewardFunction
from apportion.stages.tasks import Problem
from typer.testing import Result

Cli = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("forget_plugins")


def write_file(folder: Path) -> Path:
    """Two rollouts of one prompt, of 4 and 2 characters, whose reference is 7."""
    batch = rollouts_of([0.0, 0.0], tokens=[[5, 7], [6]])
    columns: dict[str, Any] = {
        "text": ["four", "ab"],
        "prompt": [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3+4?"}]] * 2,
        "reference": ["7", "7"],
        "task": ["sums.jsonl"] * 2,
        "task_row": ['{"level": 3}'] * 2,
    }
    table = batch.with_columns(columns).table
    path = folder / "rollouts.parquet"
    write_rollouts(path, [Rollouts(table)], Provenance())
    return path


@pytest.fixture
def score(cli: Cli, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Scores the two rollouts by the function `reward` of a file with this code."""
    rollouts, out = write_file(tmp_path), tmp_path / "out.parquet"

    def run(code: str, *words: object, column: str = "reward") -> Any:
        (tmp_path / "mine.py").write_text(code)
        result = cli("score", rollouts, "--with", f"{tmp_path / 'mine.py'}:reward", *words, "--force", "-o", out)
        if result.exit_code:
            return result.exit_code, result.stderr.replace(f"{tmp_path}/", "")
        return RolloutFile(out).read().arrow(column).to_pylist()

    yield run


@pytest.mark.parametrize(
    ("code", "rewards"),
    [
        ("def reward(text): return len(text)", [4.0, 2.0]),
        ("def reward(text): return text == 'ab'", [0.0, 1.0]),
        ("def reward(prompt, text, reference): return float(prompt == 'Be brief.\\n3+4?') + reference", [8.0, 8.0]),
        ("def reward(messages): return len(messages)", [2.0, 2.0]),
        ("def reward(row): return row['level']", [3.0, 3.0]),
        ("def reward(texts): return [len(each) for each in texts]", [4.0, 2.0]),
        ("import numpy as np\ndef reward(texts): return np.array([1, 2])", [1.0, 2.0]),
        ("import numpy as np\ndef reward(text): return np.float32(0.5)", [0.5, 0.5]),
        # as TRL calls one, and as verl does
        ("def reward(completions, prompts, answer, **kwargs): return [len(c) + a for c, a in zip(completions, answer)]", [11.0, 9.0]),
        ("def reward(data_source, solution_str, ground_truth, extra_info=None): return len(solution_str) + ground_truth", [11.0, 9.0]),
        ("def reward(text): return 1.0 if text == 'ab' else None", [None, 1.0]),
        ("def reward(rollout_id): return len(rollout_id) > 0", [1.0, 1.0]),
    ],
)  # fmt: skip
def test_a_function_is_given_what_its_parameters_name(
    score: Callable[..., Any], code: str, rewards: list[float]
) -> None:
    assert score(code) == rewards


def test_its_other_parameters_are_options(score: Callable[..., Any]) -> None:
    code = "def reward(text, most: int = 3, *, word: str = 'ab'): return most + (text == word)"
    assert score(code) == [3.0, 4.0]
    assert score(code, "--set", "most=5", "--set", "word=four") == [6.0, 5.0]
    assert score(code, "--set", "mots=5")[1].endswith("unknown option 'mots'; did you mean 'most'?\n")
    assert score(code, "--set", "most=few")[0] == 2


def test_the_reward_goes_to_another_column(score: Callable[..., Any]) -> None:
    code = "def reward(text): return len(text)"
    assert score(code, "--set", "column=rewards.length", column="rewards.length") == [4.0, 2.0]
    assert score(code, "--set", "column=length")[0] == 2


def test_a_mapping_gives_several_rewards(score: Callable[..., Any]) -> None:
    code = "def reward(text): return {'score': len(text), 'short': len(text) < 3, 'note': 'skipped'}"
    assert score(code) == [4.0, 2.0]
    assert score(code, column="rewards.short") == [0.0, 1.0]


def test_modules_beside_the_file_can_be_imported(score: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "lengths_of_mine.py").write_text("def size(text): return 2 * len(text)")
    assert score("from lengths_of_mine import size\ndef reward(text): return size(text)") == [8.0, 4.0]
    code = "def reward(text):\n    from lengths_of_mine import size\n    return size(text)"
    assert score(code) == [8.0, 4.0]


@pytest.mark.parametrize(
    ("code", "exit_code", "line"),
    [
        ("def reward(text): return 'good'", 1, "error: scorer mine.py:reward: gave 'good' for row 0; must give a finite number\n"),
        ("def reward(text): return float('nan')", 1, "error: scorer mine.py:reward: gave nan for row 0; must give a finite number\n"),
        ("def reward(text): pass", 1, "error: scorer mine.py:reward: gave None for every rollout; must give a number\n"),
        ("def reward(texts): return [1.0]", 1, "error: scorer mine.py:reward: must give a list of 2 numbers, one for each of the rollouts; got 1 values\n"),
        ("def reward(texts): return 1.0", 1, "error: scorer mine.py:reward: must give a list of 2 numbers, one for each of the rollouts; got float 1.0\n"),
        ("def reward(): return 1.0", 2, "error: mine.py:reward: takes nothing of a rollout; give it a parameter such as text\n"),
        ("def rewards(text): return 1.0", 2, "error: unknown function of mine.py 'reward'; did you mean 'rewards'?\n"),
        ("reward = 3", 2, "error: unknown function of mine.py 'reward'; choose from: (none)\n"),
        ("def reward(text) return 1", 2, "error: mine.py: SyntaxError: expected ':' (mine.py, line 1)\n"),
        ("import nothing_there", 2, "error: mine.py: ModuleNotFoundError: No module named 'nothing_there' (line 1 of mine.py)\n"),
    ],
)  # fmt: skip
def test_what_is_no_reward_is_one_line(score: Callable[..., Any], code: str, exit_code: int, line: str) -> None:
    assert score(code) == (exit_code, line)


def test_a_parameter_that_stands_for_nothing_is_named(score: Callable[..., Any]) -> None:
    code, line = score("def reward(txet): return 1.0")
    assert code == 2
    assert line.startswith("error: mine.py:reward: the parameter 'txet' is none of text, prompt, messages, reference,")


def test_what_it_raises_is_shown_by_its_own_frames_and_a_line(score: Callable[..., Any]) -> None:
    code, told = score("def half(n):\n    return n / 0\n\ndef reward(text):\n    return half(len(text))\n")
    assert code == 1
    assert told.splitlines() == [
        '  File "mine.py", line 5, in reward',
        "    return half(len(text))",
        '  File "mine.py", line 2, in half',
        "    return n / 0",
        "error: scorer mine.py:reward: ZeroDivisionError: division by zero (line 2 of mine.py, in half)",
    ]


def test_a_file_without_a_name_says_how_to_give_one(cli: Cli, tmp_path: Path) -> None:
    rollouts = write_file(tmp_path)
    result = cli("score", rollouts, "--with", "mine.py", "-o", tmp_path / "out.parquet")
    assert (result.exit_code, result.stderr) == (2, "error: mine.py: name a function of it, as mine.py:NAME\n")
    result = cli("score", rollouts, "--with", "gone.py:reward", "-o", tmp_path / "out.parquet")
    assert (result.exit_code, result.stderr) == (2, "error: gone.py: no such file\n")


def test_the_history_has_the_digest_of_the_file_and_of_its_helpers(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path)
    Path("mine.py").write_text("from helper_of_mine import size\ndef reward(text): return size(text)\n")
    Path("helper_of_mine.py").write_text("def size(text): return len(text)\n")

    def digest() -> str:
        assert (
            cli("score", "rollouts.parquet", "--with", "mine.py:reward", "--force", "-o", "out.parquet").exit_code == 0
        )
        return RolloutFile(Path("out.parquet")).provenance.history[-1].inputs["plugin/mine.py"]

    first = digest()
    assert digest() == first
    shell = cli("log", "out.parquet", "--shell")
    assert (shell.exit_code, shell.stdout.splitlines()[-1]) == (
        0, "apportion score input.parquet --with mine.py:reward -o out.parquet",
    )  # fmt: skip
    Path("helper_of_mine.py").write_text("def size(text): return 1 + len(text)\n")
    monkeypatch.setattr(plugin_files, "_loaded", {})  # as in the next process
    refused = cli("log", "out.parquet", "--shell")
    assert refused.exit_code == 2
    assert "which makes something else; load the one of then" in refused.stderr


def test_log_does_not_run_the_file_that_a_history_names(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path)
    Path("mine.py").write_text("def reward(text): return 1.0\n")
    assert cli("score", "rollouts.parquet", "--with", "mine.py:reward", "-o", "out.parquet").exit_code == 0
    monkeypatch.setattr(plugin_files, "_loaded", {})
    Path("mine.py").write_text("open('ran', 'w')\ndef reward(text): return 1.0\n")
    assert cli("log", "out.parquet", "--shell").exit_code == 2
    assert not Path("ran").exists()


STEPS = """
def reward(step, before): return len(step) + 100 * len(before)
def every(steps): return [len(each) for each in steps]
def few(steps): return [1.0]
"""


def test_a_function_of_steps_gives_step_rewards(cli: Cli, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STEPS)
    cut = tmp_path / "cut.parquet"
    assert cli("score", chain / "rollouts.parquet", "--with", "steps", "-o", cut).exit_code == 0
    for name in ("reward", "every"):
        result = cli("score", cut, "--with", f"{tmp_path / 'mine.py'}:{name}", "-o", tmp_path / f"{name}.parquet")
        assert result.exit_code == 0, result.stderr
    one, whole = (RolloutFile(tmp_path / f"{name}.parquet").read() for name in ("reward", "every"))
    first = whole.ragged("step.reward")[0]
    assert first.sum() == len(whole.strings("text")[0])
    before = [0, *first.cumsum()[:-1]]
    assert one.ragged("step.reward")[0].tolist() == [
        size + 100 * length for size, length in zip(first, before, strict=True)
    ]
    result = cli("score", cut, "--with", f"{tmp_path / 'mine.py'}:few", "-o", tmp_path / "few.parquet")
    assert result.exit_code == 1
    assert "numbers, one for each of the steps of row 0; got 1 values" in result.stderr


def test_steps_have_to_be_there(score: Callable[..., Any]) -> None:
    code, line = score("def reward(step): return 1.0", "--set", "model=builtin:tiny")
    assert code == 3
    assert "no column 'step.start', which mine.py:reward needs; run `apportion score IN --with steps" in line


# ------------------------------------------------------------------------------------------------ as a verifier


def test_an_answer_is_verified_before_there_is_a_rollout() -> None:
    problem = Problem("p", [{"role": "user", "content": "3+4?"}], 7)

    def reward(prompt: str, text: str, reference: int) -> dict[str, float]:
        return {"score": float(text == str(reference)), "length": len(prompt)}

    assert RewardFunction("mine.py:reward", reward).rewards_of([problem, problem], ["7", "8"], "sums") == [1.0, 0.0]


def test_a_function_of_steps_or_columns_verifies_no_answer() -> None:
    def of_steps(step: str) -> float:
        return 1.0

    def of_columns(text: str, finish_reason: str) -> float:
        return 1.0

    for function in (of_steps, of_columns):
        with pytest.raises(UsageError, match="cannot verify an answer by"):
            RewardFunction("mine.py:f", function).check_verifies()


def test_sampling_and_evaluation_take_it_in_place_of_the_tasks_own(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def odd(text): return len(text) % 2\ndef one(texts): return [1.0] * len(texts)\n"
    )
    out = tmp_path / "out.parquet"
    result = cli(
        "sample", "--prompts", 8, "-n", 4, "--strategy", "dynamic", "--set", "live=2", "--verifier",
        f"{tmp_path / 'mine.py'}:odd", "-o", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rollouts = RolloutFile(out).read()
    assert rollouts.numbers("reward").tolist() == [len(text) % 2 for text in rollouts.strings("text")]
    assert RolloutFile(out).provenance.history[-1].inputs["plugin/mine.py"]
    told = cli("eval", "policy", "--prompts", 4, "-n", 2, "--verifier", f"{tmp_path / 'mine.py'}:one", "--json")
    assert '"mean_reward": 1.0' in told.stdout or '"value": 1.0' in told.stdout


def test_a_verifier_has_to_be_a_function_of_a_file(cli: Cli, tmp_path: Path) -> None:
    result = cli("sample", "--prompts", 2, "--verifier", "pattern", "-o", tmp_path / "out.parquet")
    assert result.exit_code == 2
    assert result.stderr == "error: --verifier takes FILE.py:NAME, a function of yours, got 'pattern'\n"
