"""The core installs beside any trainer: without torch and transformers it reads, credits, inspects and compares rollouts."""

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

CHAIN = Path(__file__).with_name("core_chain.py")


def test_the_core_works_without_models_and_the_rest_says_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, CHAIN, tmp_path, "--without-models"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "commands work without models" in done.stdout


def test_the_core_needs_no_model_library() -> None:
    needs = [re.split(r"[<>=;\[ ]", each)[0] for each in requires("apportion") or [] if "extra ==" not in each]
    assert sorted(needs) == ["numpy", "pyarrow", "pydantic", "pyyaml", "rich", "typer"]
