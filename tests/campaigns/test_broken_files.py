"""A few cases of the campaign."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("broken_files.py")


def test_a_damaged_file_is_refused_in_one_line_or_read_as_it_was() -> None:
    command = [sys.executable, str(SCRIPT), "--count", "12", "--seed", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "broken_files: 12 cases, 0 failures"
