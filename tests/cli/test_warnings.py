"""What other projects say of their own changes reaches neither a user's terminal nor a user's test run; what we say does."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from apportion.formats.errors import DeprecatedUse

SPEAKS = """
import warnings
from apportion.formats.errors import DeprecatedUse
from apportion.stages.models.transformers import _decode

usual = _decode.RowCache.forward

def forward(self, *given, **named):
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.warn("`past_key_values` is called `cache` now", category, stacklevel=2)  # as transformers 5.24 said it
    warnings.warn("option `n` is\\ncalled `count` now", DeprecatedUse, stacklevel=2)
    return usual(self, *given, **named)

_decode.RowCache.forward = forward
warnings.simplefilter("always")  # as some libraries do when they are imported
"""


def said(words: str, plugin: str, folder: Path, **environment: str) -> str:
    """What a process writes to standard error."""
    (folder / "speaks.py").write_text(plugin)
    known = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    ended = subprocess.run(
        [sys.executable, "-m", "apportion", "--plugin", "speaks.py", *words.split()],
        cwd=folder, env=known | environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def test_notices_of_other_projects_stay_off_the_terminal_and_ours_are_a_line(tmp_path: Path) -> None:
    lines = said("sample --prompts 1 -n 1 --max-tokens 2 -o out.parquet", SPEAKS, tmp_path).splitlines()
    assert lines[0] == "warning: option `n` is called `count` now"
    assert [line.partition(":")[0] for line in lines[1:]] == ["out.parquet"]


def test_whoever_asks_for_warnings_gets_them(tmp_path: Path) -> None:
    plugin = "import warnings\nwarnings.warn('theirs', FutureWarning)\n"
    assert said("list engines", plugin, tmp_path) == ""
    assert "FutureWarning: theirs" in said("list engines", plugin, tmp_path, PYTHONWARNINGS="default")


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_notice_of_another_project_fails_no_test(category: type[Warning]) -> None:
    warnings.warn("theirs", category, stacklevel=1)


def test_our_own_fails_a_test_as_every_other_warning_does() -> None:
    with pytest.raises(DeprecatedUse):
        warnings.warn("ours", DeprecatedUse, stacklevel=1)
    with pytest.raises(UserWarning):
        warnings.warn("anything else", UserWarning, stacklevel=1)
