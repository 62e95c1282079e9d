"""A few cases of the campaign."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("recipes.py")


def test_an_odd_recipe_ends_in_one_line_or_well() -> None:
    command = [sys.executable, str(SCRIPT), "--count", "20", "--seed", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "recipes: 20 cases, 0 failures"
