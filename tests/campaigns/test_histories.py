"""A few cases of the campaign."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("histories.py")


def test_an_odd_history_ends_in_one_line_or_well() -> None:
    command = [sys.executable, str(SCRIPT), "--count", "6", "--seed", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "histories: 6 cases, 0 failures"
