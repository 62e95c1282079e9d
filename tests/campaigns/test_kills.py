"""A few cases of the campaign, as anyone runs it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("name", "only"), [("kills", "split"), ("two_writers", "split")])
def test_a_few_cases(name: str, only: str) -> None:
    script = Path(__file__).with_name(f"{name}.py")
    ended = subprocess.run(
        [sys.executable, str(script), "--count", "1", "--seed", "3", "--only", only],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.stdout == f"{name}: 1 cases, 0 failures\n", ended.stderr
    assert ended.returncode == 0
