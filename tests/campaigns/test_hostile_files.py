"""A few cases of the campaign."""

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

CAMPAIGN: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("hostile_files.py")))


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
def test_a_hostile_file_does_nothing() -> None:
    assert CAMPAIGN["campaign"](9, 5) == {}
